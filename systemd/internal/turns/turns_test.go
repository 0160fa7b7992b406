package turns

import (
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// TestTurns: no more have a turn than there are, who waits gets the first that is given back,
// whoever has a copy of it, and one whose last copy is closed is free.
func TestTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "turns")
	never := func() { t.Error("waits for longer than this test may take") }
	var held []*os.File
	for range perCPU * runtime.NumCPU() {
		f, err := Take(path, never)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, f)
	}
	got := make(chan *os.File)
	for range 2 {
		go func() {
			f, err := Take(path, never)
			if err != nil {
				t.Error(err)
			}
			got <- f
		}()
	}
	none := func(when string) {
		t.Helper()
		select {
		case <-got:
			t.Fatal("there is one turn more " + when)
		case <-time.After(20 * poll):
		}
	}
	none("at first")

	copied, err := syscall.Dup(int(held[0].Fd()))
	if err != nil {
		t.Fatal(err)
	}
	held[0].Close()
	none("when one of two copies is closed")
	if err := End(os.NewFile(uintptr(copied), "copy")); err != nil {
		t.Fatal(err)
	}
	held = append(held[1:], <-got)
	none("when one has ended")
	held[0].Close()
	held = append(held[1:], <-got)
	for _, f := range held {
		if err := End(f); err != nil {
			t.Error(err)
		}
	}
}
