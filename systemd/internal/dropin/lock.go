package dropin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile keeps apart transactions on one host. In /run/lock anybody could make it first.
const lockFile = "/run/systemd-netns.lock"

// Lock waits until no other transaction is at work, and calls waiting if it has to. The
// kernel gives the lock up with the process.
func Lock(ctx context.Context, waiting func()) (unlock func(), err error) {
	f, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for told := false; ; told = true {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", lockFile, err)
		}
		if !told {
			waiting()
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another systemd-netns: %w", context.Cause(ctx))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
