package dropin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Wish is what `enable` was asked for: a service's unit, the namespace that it
// goes into, and what to change of that namespace's network and VIPs.
type Wish struct {
	Unit, In, Network string
	VIPs              []string
}

// Enable puts a service into a namespace, and restarts it if it runs.
func Enable(w Wish) error {
	u, err := units.Find(w.Unit)
	if err != nil {
		return err
	}
	n, err := w.namespace()
	if err != nil {
		return err
	}
	if err := checkNetwork(n, len(w.VIPs) > 0); err != nil {
		return err
	}
	was, err := NamespaceOf(u.Name)
	if err != nil {
		return err
	}
	change, err := w.write(u)
	if err != nil {
		return err
	}
	v := sdlog.New(n.Name)
	if len(change.before) == 0 {
		v.Say(sdlog.LevelInfo, "%s is in namespace %s already", u.Name, w.In)
		return nil
	}
	if err := change.takeEffect(); err != nil {
		return errors.Join(fmt.Errorf("%w\n%s\nit is as it was before", err, units.LastWords(w.In)), change.takeBack())
	}
	v.Say(sdlog.LevelInfo, "%s is in namespace %s, network %s%s", u.Name, w.In, n.Network, change.hint(u))
	if was != "" && was != w.In {
		return errors.Join(forget(was), letGo(was))
	}
	return nil
}

// namespace is the namespace as it is going to be.
func (w Wish) namespace() (settings.Namespace, error) {
	n, err := settings.Load(w.In)
	if err == nil && w.Network != "" {
		n.Network = w.Network
	}
	return n, err
}

// checkNetwork makes sure that there is a network for the namespace, which
// takes VIPs from outside if there are any.
func checkNetwork(n settings.Namespace, vips bool) error {
	net, file, err := networks.Find(n.ConfDir, n.Network)
	if err != nil {
		return err
	}
	if net == nil {
		return networks.Missing(n)
	}
	if vips && !net.TakesVIPs() {
		return fmt.Errorf(`network %q: no plugin of it takes VIPs from outside; add "capabilities": {"ips": true} to macvlan-vip's part of it in %s`, n.Network, file)
	}
	return nil
}

// write writes all files of a wish, or none.
func (w Wish) write(u *units.Unit) (*change, error) {
	c := &change{running: u.Running}
	if err := w.writeAll(c, u); err != nil {
		return nil, errors.Join(err, c.undo())
	}
	return c, nil
}

func (w Wish) writeAll(c *change, u *units.Unit) error {
	if w.Network != "" || len(w.VIPs) > 0 {
		changed, err := w.writeEnv(c)
		if err != nil {
			return err
		}
		if changed {
			if err := c.affectsAllIn(w.In); err != nil {
				return err
			}
		}
	}
	for _, name := range u.Names() {
		if err := newDropIn(name, w.In).put(c); err != nil {
			return err
		}
	}
	return nil
}

// writeEnv writes the namespace's environment file, in which what is not
// wished for stays as an earlier wish has set it.
func (w Wish) writeEnv(c *change) (changed bool, err error) {
	file := settings.EnvFile(w.In)
	ours, found, err := isWritten(file)
	if err != nil {
		return false, err
	}
	env := map[string]string{}
	if ours {
		data, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		env = settings.ParseEnv(string(data))
	}
	text, err := w.env(env)
	if err != nil {
		return false, err
	}
	if found && !ours {
		return false, fmt.Errorf("%s: not written by this program, and left alone; write there what you want:\n%s", file, text)
	}
	return c.write(file, text)
}

// env is the text of a namespace's environment file, which had some before.
func (w Wish) env(before map[string]string) (string, error) {
	var b strings.Builder
	if network := cmp.Or(w.Network, before["NETWORK"]); network != "" {
		fmt.Fprintf(&b, "NETWORK=%s\n", network)
	}
	caps := before["CAP_ARGS"]
	if len(w.VIPs) > 0 {
		ips, err := json.Marshal(map[string][]string{"ips": w.VIPs})
		if err != nil {
			return "", err
		}
		caps = string(ips)
	}
	if caps != "" {
		fmt.Fprintf(&b, "CAP_ARGS=%s\n", caps)
	}
	return b.String(), nil
}
