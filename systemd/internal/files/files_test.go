package files

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestPowerCut: a file that Put has written is on the disk when it returns, with the folders
// above it, and one that it has removed is gone. What the disk has is what a copy of the
// image shows, which the kernel has not told that the file system is unmounted.
func TestPowerCut(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this takes root")
	}
	image, copied := filepath.Join(t.TempDir(), "image"), filepath.Join(t.TempDir(), "copy")
	run(t, "truncate", "--size=16M", image)
	run(t, "mkfs.ext4", "-q", image)
	disk := mount(t, image)
	put := func(all ...File) {
		t.Helper()
		for _, f := range all {
			f.Path = filepath.Join(disk, f.Path)
			if err := f.Put(); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(Text("gone", "x"), Text("old", "x"))
	run(t, "sync", "--file-system", disk)
	want := []File{
		None("gone"), Text("old", "y"),
		Text("etc/systemd/system/one.service.d/netns.conf", "[Service]\n"),
		Link("etc/systemd/system/two.service.d/netns.conf", "/usr/lib/systemd/system/netns.conf"),
	}
	put(want...)
	run(t, "cp", image, copied)
	disk = mount(t, copied)
	for _, f := range want {
		got, err := Read(filepath.Join(disk, f.Path))
		if err != nil || !got.Same(f) {
			t.Errorf("after a power cut %s is %q %q, %v; want %q %q", f.Path, got.Content, got.Target, err, f.Content, f.Target)
		}
	}
}

// mount mounts an image and gives where.
func mount(t *testing.T, image string) string {
	t.Helper()
	at := t.TempDir()
	run(t, "mount", "-o", "loop", image, at)
	t.Cleanup(func() { run(t, "umount", at) })
	return at
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}
