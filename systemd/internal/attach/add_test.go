package attach

import (
	"testing"
	"time"

	"macvlan-vip/systemd/internal/settings"
)

// TestPatience: what waits for the host's network may wait longer, and not less long.
func TestPatience(t *testing.T) {
	const (
		noLink = `macvlan-vip: master: "eth9": no such link; set master to eth0; or, if it is still to come, try again later`
		inUse  = `macvlan-vip: 192.0.2.10 is in use by 02:00:00:00:00:01; if it is about to leave, try again`
	)
	for _, c := range []struct {
		text                 string
		retry, network, want time.Duration
	}{
		{noLink, 10 * time.Second, time.Minute, time.Minute},
		{noLink, 10 * time.Second, -time.Hour, 10 * time.Second},
		{inUse, 10 * time.Second, time.Minute, 10 * time.Second},
	} {
		n := &Netns{Namespace: settings.Namespace{Retry: c.retry, RetryNetwork: c.network}}
		if got := n.patience(c.text); got != c.want {
			t.Errorf("%s: %s, want %s", c.text, got, c.want)
		}
	}
}
