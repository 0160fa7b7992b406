package testnet

import (
	"os"
	"testing"
	"time"
)

// Patience bounds waits for what systemd or the kernel is about to do, on a
// machine that may be busy with other things, or have an emulated CPU.
var Patience = patience()

func patience() time.Duration {
	if os.Getenv("MACHINE") == "qemu" {
		return 3 * time.Minute
	}
	return 30 * time.Second
}

// Eventually waits for something that is about to happen, for at most Patience.
func Eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	Within(t, Patience, what, check)
}

// Within is Eventually with a patience of the caller's.
func Within(t testing.TB, patience time.Duration, what string, check func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatalf("waited in vain until %s: %v", what, err)
}
