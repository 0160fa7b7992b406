package journal

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
)

// whole makes a journal with one of everything, and gives the folder above it.
func whole(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := errorOf(open(t, dir), "everything"); err != nil {
		t.Fatal(err)
	}
	lock, err := open(t, dir).Lock("mv-int")
	if err != nil {
		t.Fatal(err)
	}
	lock.Unlock()
	return dir
}

var vip = netip.MustParseAddr("192.0.2.1")

// errorOf does one thing, or everything that an ADD does.
func errorOf(s *Store, what string) error {
	rec := &Record{Key: key("a"), HostInterface: "mv-int", ClaimScope: "link-1", Claims: []string{vip.String()}}
	all := []struct {
		name string
		do   func() error
	}{
		{"load", func() error { _, err := s.Load(rec.Key); return err }},
		{"list", func() error { _, err := s.List("lan"); return err }},
		{"save", func() error { return s.Save(rec) }},
		{"lock", func() error {
			lock, err := s.Lock("mv-int")
			if err == nil {
				lock.Unlock()
			}
			return err
		}},
		{"join", func() error { return s.Join("mv-int", rec.Key) }},
		{"claim", func() error { _, err := s.Claim("link-1", vip, rec.Key); return err }},
		{"owner", func() error { _, err := s.Owner("link-1", vip); return err }},
		{"unclaim", func() error { return s.UnclaimAll(rec) }},
		{"leave", func() error {
			_, err := s.Unused("mv-int", rec.Key)
			return errors.Join(err, s.Leave("mv-int", rec.Key))
		}},
		{"remove", func() error { return s.Remove(rec.Key) }},
	}
	for i, step := range all {
		if what == step.name || what == "everything" && i < 6 {
			if err := step.do(); err != nil {
				return fmt.Errorf("%s: %w", step.name, err)
			}
		}
	}
	return nil
}

// tree lists a folder with what everything in it is.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, describe(info), info.Size())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestFoldersThatCannotBeTrusted: nothing is read, written or removed in them,
// nor where they lead to, and the error names the folder and the remedy.
func TestFoldersThatCannotBeTrusted(t *testing.T) {
	tricks := map[string]func(path, elsewhere string) error{
		"a link to another folder": func(path, elsewhere string) error {
			return first(os.Rename(path, elsewhere), os.Symlink(elsewhere, path))
		},
		"a link to nothing":       func(path, elsewhere string) error { return first(os.RemoveAll(path), os.Symlink(elsewhere, path)) },
		"others can write to it":  func(path, _ string) error { return os.Chmod(path, 0o702) },
		"a group can write to it": func(path, _ string) error { return os.Chmod(path, 0o720) },
		"another user's":          func(path, _ string) error { return os.Chown(path, 65534, 65534) },
		"a file":                  func(path, _ string) error { return first(os.RemoveAll(path), os.WriteFile(path, nil, 0o600)) },
	}
	inRecords := []string{"load", "list", "save", "remove"}
	for sub, verbs := range map[string][]string{
		"": nil, "plugin": nil, "plugin/netns-1": nil, "plugin/netns-1/attachments": inRecords,
		"plugin/netns-1/claims": {"claim", "owner", "unclaim"}, "plugin/netns-1/claims/link-1": {"claim", "owner", "unclaim"},
		"plugin/netns-1/users": {"join", "leave"}, "plugin/netns-1/users/mv-int": {"join", "leave"},
	} {
		for trick, play := range tricks {
			t.Run(sub+" "+trick, func(t *testing.T) {
				dir := whole(t)
				path := filepath.Join(dir, "cni", sub)
				if err := play(path, filepath.Join(dir, "elsewhere")); err != nil {
					t.Fatal(err)
				}
				before := tree(t, dir)
				if verbs == nil {
					_, err := openAt(filepath.Join(dir, "cni"), "plugin", "netns-1")
					refused(t, err, path)
				}
				for _, verb := range verbs {
					refused(t, errorOf(open(t, dir), verb), path)
				}
				if after := tree(t, dir); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
			})
		}
	}
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func refused(t *testing.T, err error, path string) {
	t.Helper()
	cni := cnierr.ToCNI(err)
	if cni == nil || cni.Code != types.ErrIOFailure || !strings.Contains(cni.Msg, path) || !strings.Contains(cni.Details, "remove it") {
		t.Errorf("want an error 5 that names %s and the remedy, got %#v", path, cni)
	}
}

// fileTricks put something else in a file's place.
var fileTricks = map[string]func(path, elsewhere string) error{
	"a link to another file": func(path, elsewhere string) error {
		return first(os.Rename(path, elsewhere), os.Symlink(elsewhere, path))
	},
	"a link to nothing":      func(path, elsewhere string) error { return first(os.Remove(path), os.Symlink(elsewhere, path)) },
	"a file of two names":    os.Link,
	"others can write to it": func(path, _ string) error { return os.Chmod(path, 0o602) },
	"another user's":         func(path, _ string) error { return os.Chown(path, 65534, 65534) },
	"a pipe":                 func(path, _ string) error { return first(os.Remove(path), unix.Mkfifo(path, 0o600)) },
	"a folder":               func(path, _ string) error { return first(os.Remove(path), os.Mkdir(path, 0o700)) },
	"a socket": func(path, _ string) error {
		_ = os.Remove(path)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err == nil {
			l.SetUnlinkOnClose(false)
			err = l.Close()
		}
		return err
	},
}

// TestFilesThatCannotBeTrusted: none of them is read or written to, and no
// verb hangs at a pipe. Of a user's entry nothing but the name counts.
func TestFilesThatCannotBeTrusted(t *testing.T) {
	for file, verbs := range map[string][]string{
		"attachments/lan:a:mv0.json": {"load"}, "mv-int.lock": {"lock"}, "users/mv-int/lan:a:mv0": {"join"},
	} {
		for trick, play := range fileTricks {
			t.Run(file+" "+trick, func(t *testing.T) {
				dir := shortDir(t, whole(t))
				path := filepath.Join(dir, "cni/plugin/netns-1", file)
				if err := play(path, filepath.Join(dir, "elsewhere")); err != nil {
					t.Fatal(err)
				}
				before := tree(t, dir)
				for _, verb := range verbs {
					err := errorOf(open(t, dir), verb)
					switch {
					case verb == "load":
						refused(t, err, path)
					case verb == "join" && err != nil:
						t.Error(err)
					case verb == "lock" && (err == nil || !strings.Contains(err.Error(), path)):
						t.Errorf("want an error that names %s, got %v", path, err)
					}
				}
				if after := tree(t, dir); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
			})
		}
	}
}

// shortDir gives a folder a name that leaves room for a socket's (unix(7): 108
// bytes in all).
func shortDir(t *testing.T, dir string) string {
	t.Helper()
	short, err := os.MkdirTemp("", "j")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	if err := os.Rename(filepath.Join(dir, "cni"), filepath.Join(short, "cni")); err != nil {
		t.Fatal(err)
	}
	return short
}

// TestUnfinishedRecordInTheWay: what lies under the name of the file that is
// written first goes away; what it leads to is not touched.
func TestUnfinishedRecordInTheWay(t *testing.T) {
	for trick, play := range fileTricks {
		t.Run(trick, func(t *testing.T) {
			dir := shortDir(t, whole(t))
			elsewhere := filepath.Join(dir, "elsewhere")
			path := filepath.Join(dir, "cni/plugin/netns-1/attachments/lan:a:mv0.json")
			if err := first(os.WriteFile(path+tmp, []byte("precious"), 0o600), play(path+tmp, elsewhere)); err != nil {
				t.Fatal(err)
			}
			held, _ := os.ReadFile(elsewhere)
			if err := errorOf(open(t, dir), "save"); err != nil {
				t.Error(err)
			}
			if err := errorOf(open(t, dir), "load"); err != nil {
				t.Error(err)
			}
			if after, _ := os.ReadFile(elsewhere); string(after) != string(held) {
				t.Errorf("%s was %q and is %q", elsewhere, held, after)
			}
		})
	}
}

func TestRecordThatIsNone(t *testing.T) {
	s := store(t)
	save(t, s, &Record{Key: key("a")})
	save(t, s, &Record{Key: key("b")})
	of, err := os.ReadFile(s.attachment(key("b")))
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"{", "", "null", "[]", string(of)} {
		if err := os.WriteFile(s.attachment(key("a")), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Load(key("a"))
		refused(t, err, s.attachment(key("a")))
	}
	long := Key{Network: "lan", ContainerID: strings.Repeat("x", 300), IfName: "mv0"}
	if rec, err := s.Load(long); rec != nil || err != nil {
		t.Errorf("a key too long for a file's name: %v, %v", rec, err)
	}
	if err := s.Save(&Record{Key: long}); err == nil {
		t.Error("a key too long for a file's name was saved")
	}
}

// TestClaimThatLeadsAway: a claim is a link that is only ever read, and one
// whose text is no key is nobody's.
func TestClaimThatLeadsAway(t *testing.T) {
	for _, target := range []string{"lan:../../../../outside:mv0", "/etc/passwd", "lan:a", "", "::"} {
		t.Run(target, func(t *testing.T) {
			dir := whole(t)
			s := open(t, dir)
			outside := filepath.Join(dir, "outside:mv0.json")
			if err := os.WriteFile(outside, []byte(`{"network": "lan", "containerID": "../../../../outside", "ifName": "mv0"}`), 0o600); err != nil {
				t.Fatal(err)
			}
			path := s.claim("link-1", vip)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if target == "" {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
			if owner, err := s.Claim("link-1", vip, key("b")); owner != key("b") || err != nil {
				t.Errorf("owner %s, %v", owner, err)
			}
		})
	}
}
