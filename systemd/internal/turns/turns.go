// Package turns bounds how many namespaces of a host are made and added at a time.
//
// systemd sets up a sandbox by going through all mounts, again and again until it finds no
// new one, and gives up after 32 rounds with EBUSY. Each namespace's name is a mount. With
// hundreds of starts at once, some would fail, and all would need memory and time.
//
// A turn is a lock on one byte of a file, held by an open file description (F_OFD_SETLK in
// fcntl(2)). So a process can hand it on, to systemd and by it to the unit's next process, and
// it ends with the last of them.
package turns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// perCPU is how many turns there are for each CPU. An ADD mostly waits for answers to its
// probe: on two CPUs 16 at a time are as quick as 60, and 8 take a quarter longer.
const perCPU = 8

// poll is how often the first of those that wait looks for a turn.
const poll = 5 * time.Millisecond

// reminder is how often one that waits says so.
const reminder = 15 * time.Second

// Take waits for a turn in a file. It calls waits now and then while it does.
func Take(path string, waits func()) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("wait for a turn: %w", err)
	}
	taken := make(chan error, 1)
	go func() { taken <- take(f, int64(perCPU*runtime.NumCPU())) }()
	for {
		select {
		case err := <-taken:
			if err != nil {
				return nil, errors.Join(fmt.Errorf("wait for a turn in %s: %w", path, err), f.Close())
			}
			return f, nil
		case <-time.After(reminder):
			waits()
		}
	}
}

// take looks for a free turn. Of those that wait one does at a time: it has locked the byte
// behind all turns.
func take(f *os.File, turns int64) error {
	if err := lock(f, unix.F_OFD_SETLKW, turns); err != nil {
		return err
	}
	for ; ; time.Sleep(poll) {
		for at := range turns {
			err := lock(f, unix.F_OFD_SETLK, at)
			if err == nil {
				return unlock(f, turns, 1)
			}
			if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
				return err
			}
		}
	}
}

// End gives a turn back, whoever else has the file open.
func End(f *os.File) error { return errors.Join(unlock(f, 0, 0), f.Close()) }

func lock(f *os.File, how int, at int64) error {
	for {
		err := unix.FcntlFlock(f.Fd(), how, &unix.Flock_t{Type: unix.F_WRLCK, Whence: unix.SEEK_SET, Start: at, Len: 1})
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// unlock unlocks a part of a file; of length 0 is all that is behind its start.
func unlock(f *os.File, start, length int64) error {
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK, Whence: unix.SEEK_SET, Start: start, Len: length})
}
