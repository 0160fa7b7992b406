package attach

import (
	"io/fs"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

func TestChooseDNS(t *testing.T) {
	const real, stub = "nameserver 192.0.2.53\nsearch example.com\n", "nameserver 127.0.0.53\noptions edns0\n"
	const zoned = "search example.com\nnameserver fe80::53%eth0 # RDNSS\nnameserver fe80::54%2\nnameserver fe80::55%eth0.26\noptions rotate"
	const inside = "search example.com\nnameserver fe80::53%mv0\nnameserver fe80::54%mv0\nnameserver fe80::55%eth0.26\noptions rotate"
	for name, c := range map[string]struct {
		dns   types.DNS
		files map[string]string
		want  string
		fails bool
	}{
		"the host's own will do":    {files: map[string]string{"/etc/resolv.conf": real}},
		"one of two is reachable":   {files: map[string]string{"/etc/resolv.conf": stub + real}},
		"link-local":                {files: map[string]string{"/etc/resolv.conf": zoned}, want: inside},
		"link-local, by resolved":   {files: map[string]string{"/etc/resolv.conf": stub, upstreams[0]: zoned}, want: inside},
		"no file on the host":       {},
		"the network's":             {dns: types.DNS{Nameservers: []string{"192.0.2.1", "2001:db8::1"}, Domain: "a.example", Options: []string{"ndots:2"}}, files: map[string]string{"/etc/resolv.conf": real}, want: "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.example\noptions ndots:2\n"},
		"resolved's stub":           {files: map[string]string{"/etc/resolv.conf": stub, upstreams[0]: real}, want: real},
		"NetworkManager's":          {files: map[string]string{"/etc/resolv.conf": "nameserver ::1\n", upstreams[1]: real}, want: real},
		"resolved without any":      {files: map[string]string{"/etc/resolv.conf": stub, upstreams[0]: "# none\n"}, fails: true},
		"no server means one's own": {files: map[string]string{"/etc/resolv.conf": "search x\n"}, fails: true},
	} {
		read := func(file string) ([]byte, error) {
			if text, ok := c.files[file]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		}
		ours := func(text string) string { return rezone(text, []string{"eth0", "2"}, "mv0") }
		if got, _, err := chooseDNS(c.dns, read, ours); got != c.want || (err != nil) != c.fails {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
