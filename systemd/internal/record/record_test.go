package record

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "web")
	if all, err := Read(path); all != nil || err != nil {
		t.Errorf("none: %v, %v", all, err)
	}
	one := Attachment{Network: "lan", IfName: "mv0", Config: json.RawMessage(`{"name":"lan"}`), CapArgs: "{", Env: map[string]string{"A": "b"}}
	two := Attachment{Network: "lan", IfName: "mv1", Config: json.RawMessage(`{}`)}
	other := one
	other.CNIArgs = "A=b"
	all := Put(Put(Put(nil, one), two), other)
	if diff := cmp.Diff([]Attachment{two, other}, all); diff != "" {
		t.Error(diff)
	}
	if err := Write(path, all); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if diff := cmp.Diff(all, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, text := range []string{"", "{", "[{}]", "null x"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", text, err)
		}
	}
	// A process that was killed while it wrote.
	if err := os.WriteFile(path+"~", []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Write(path, nil); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestFullDisk: what does not fit is refused, and leaves what was there.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("record", dir, "tmpfs", 0, "size=8k"); err != nil {
		t.Skip(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	path := filepath.Join(dir, "web")
	small := []Attachment{{Network: "lan", IfName: "mv0", Config: json.RawMessage(`{}`)}}
	if err := Write(path, small); err != nil {
		t.Fatal(err)
	}
	big := []Attachment{{Network: "lan", IfName: "mv0", Config: json.RawMessage(`{}`), CNIArgs: strings.Repeat("a", 1<<14)}}
	if err := Write(path, big); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("%v", err)
	}
	got, err := Read(path)
	if diff := cmp.Diff(small, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}
