package attach

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
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

// TestCopyLabel: a confined service reads the shim's resolv.conf by the label of the host's,
// which may be a link. A kernel without SELinux keeps labels all the same.
func TestCopyLabel(t *testing.T) {
	const key, label = "security.selinux", "system_u:object_r:net_conf_t:s0\x00"
	dir := t.TempDir()
	stub, link, ours := filepath.Join(dir, "stub"), filepath.Join(dir, "link"), filepath.Join(dir, "ours")
	if err := errors.Join(os.WriteFile(stub, nil, 0o644), os.Symlink(stub, link), os.WriteFile(ours, nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	if err := copyLabel(link, ours); err != nil {
		t.Errorf("no label: %v", err)
	}
	if _, err := unix.Getxattr(ours, key, got); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("a label from a file that has none: %v", err)
	}
	if err := unix.Setxattr(stub, key, []byte(label), 0); err != nil {
		t.Skipf("no labels here: %v", err)
	}
	if err := copyLabel(link, ours); err != nil {
		t.Error(err)
	}
	if size, err := unix.Getxattr(ours, key, got); err != nil || string(got[:size]) != label {
		t.Errorf("%q, %v", got[:max(size, 0)], err)
	}
	if err := copyLabel(filepath.Join(dir, "none"), ours); err != nil {
		t.Errorf("a host without the file: %v", err)
	}
}
