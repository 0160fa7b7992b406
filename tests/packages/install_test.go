package packages

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// sums are the checksums of files' contents.
func sums(files map[string]string) map[string]string {
	all := map[string]string{}
	for name, text := range files {
		all[name] = fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	}
	return all
}

// tree gives the contents of the files below a folder, by their paths there.
func tree(t testing.TB, root string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found[strings.TrimPrefix(path, root+"/")] = string(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// put writes files below a folder.
func put(t testing.TB, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// run makes a target that installs or uninstalls below a folder.
func run(t testing.TB, source, target, dest string) {
	t.Helper()
	if out, err := exec.Command("make", "-C", source, target, "DESTDIR="+dest).CombinedOutput(); err != nil {
		t.Fatalf("make %s: %v\n%s", target, err, out)
	}
}

// upstreams are the programs that others install, too, as they are in bin/.
func upstreams(t testing.TB, source string) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, name := range []string{"opt/cni/bin/static", "opt/cni/bin/host-local", "opt/cni/bin/dhcp", "usr/local/bin/cnitool"} {
		found[name] = string(read(t, filepath.Join(source, "bin", filepath.Base(name))))
	}
	return found
}

// wantFiles asserts that files are there, among others.
func wantFiles(t testing.TB, root string, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != text {
			t.Errorf("%s: %d bytes, %v; want %d", name, len(got), err, len(text))
		}
	}
}

// TestInstall: `make uninstall` removes what `make install` has put there, and neither
// touches what others have put there under the same names, before or after it.
func TestInstall(t *testing.T) {
	source := top(t)
	t.Run("beside nobody", func(t *testing.T) {
		dest := t.TempDir()
		run(t, source, "install", dest)
		want := upstreams(t, source)
		for _, name := range []string{"opt/cni/bin/macvlan-vip", "opt/cni/bin/hairpin-route", "usr/local/bin/systemd-netns"} {
			want[name] = string(read(t, filepath.Join(source, "bin", filepath.Base(name))))
		}
		wantFiles(t, dest, want)
		if n := len(tree(t, dest)); n < 35 {
			t.Errorf("%d files are installed", n)
		}
		run(t, source, "uninstall", dest)
		if left := tree(t, dest); len(left) > 0 {
			t.Errorf("left: %v", sums(left))
		}
	})
	t.Run("after others", func(t *testing.T) {
		dest := t.TempDir()
		put(t, dest, map[string]string{
			"opt/cni/bin/host-local": "theirs", "opt/cni/bin/dhcp": "theirs", "opt/cni/bin/bridge": "theirs",
			"usr/local/bin/cnitool": "theirs", "usr/local/lib/systemd/system/their.service": "theirs",
			// The same bytes, and yet not ours to remove.
			"opt/cni/bin/static": string(read(t, filepath.Join(source, "bin/static"))),
		})
		before := tree(t, dest)
		run(t, source, "install", dest)
		wantFiles(t, dest, before)
		run(t, source, "install", dest)
		run(t, source, "uninstall", dest)
		if diff := cmp.Diff(sums(before), sums(tree(t, dest))); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("before others", func(t *testing.T) {
		dest := t.TempDir()
		run(t, source, "install", dest)
		theirs := map[string]string{"opt/cni/bin/host-local": "theirs", "usr/local/bin/cnitool": "theirs"}
		put(t, dest, theirs)
		run(t, source, "install", dest)
		wantFiles(t, dest, theirs)
		run(t, source, "uninstall", dest)
		if diff := cmp.Diff(sums(theirs), sums(tree(t, dest))); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("an upgrade", func(t *testing.T) {
		older, dest := t.TempDir(), t.TempDir()
		copied := exec.Command("sh", "-c", `tar -C "$1" --exclude=./build --exclude=./.git --exclude=./dist -cf - . | tar -C "$2" -xf -`, "sh", source, older)
		if out, err := copied.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		put(t, older, map[string]string{"bin/static": "older", "bin/cnitool": "older"})
		run(t, older, "install", dest)
		wantFiles(t, dest, map[string]string{"opt/cni/bin/static": "older", "usr/local/bin/cnitool": "older"})
		run(t, source, "install", dest)
		wantFiles(t, dest, upstreams(t, source))
		run(t, source, "uninstall", dest)
		if left := tree(t, dest); len(left) > 0 {
			t.Errorf("left: %v", sums(left))
		}
	})
}
