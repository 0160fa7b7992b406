package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
)

// lockTimeout bounds the wait for one holder of a lock. It is held for
// milliseconds, so one that takes this long hangs.
const lockTimeout = 10 * time.Second

// Lock is held by one process at a time, until Unlock or the process's end.
type Lock struct{ file *os.File }

// Lock takes a named lock of the journal, in turn. One that a process holds for
// more than ten seconds is a CNI error 11 that names the holder's process.
func (s *Store) Lock(name string) (*Lock, error) { return s.lock(name, lockTimeout) }

func (s *Store) lock(name string, timeout time.Duration) (*Lock, error) {
	path := filepath.Join(s.dir, name+".lock")
	file, err := hold(func() (*os.File, error) { return s.openLock(path) }, timeout)
	if err != nil {
		return nil, err
	}
	_ = file.Truncate(0)
	_, _ = file.WriteAt([]byte(fmt.Sprintf("%d\n", os.Getpid())), 0)
	return &Lock{file}, nil
}

// hold opens and locks a file or a folder that has its name still: the one that held it
// before can have removed it.
func hold(open func() (*os.File, error), timeout time.Duration) (*os.File, error) {
	for {
		file, err := open()
		if err != nil {
			return nil, err
		}
		if err := flock(file, timeout); err != nil {
			return nil, holderError(file, file.Name(), timeout, err)
		}
		if sameFile(file, file.Name()) {
			return file, nil
		}
		file.Close()
	}
}

func (s *Store) openLock(path string) (*os.File, error) {
	var file *os.File
	err := s.inFolder("", func(string) (err error) {
		file, err = openFile(path, os.O_RDWR|os.O_CREATE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	return file, nil
}

// flock waits in the kernel, which hands a lock on at once and in turn, and
// gives up when one holder has had it for the timeout. The waiting goroutine then outlives the
// call; the process is about to end with an error.
func flock(file *os.File, timeout time.Duration) error {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	done := make(chan error, 1)
	go func() {
		for {
			err := unix.Flock(int(file.Fd()), unix.LOCK_EX)
			if !errors.Is(err, unix.EINTR) {
				done <- err
				return
			}
		}
	}()
	for before := holder(file); ; {
		select {
		case err := <-done:
			return err
		case <-time.After(timeout):
			// While the holders change, it is only that many wait.
			now := holder(file)
			if now == before {
				return os.ErrDeadlineExceeded
			}
			before = now
		}
	}
}

// holder is the process that took the lock last. It is read through the open
// file: what has its name by now may be something else.
func holder(file *os.File) string {
	text, _ := io.ReadAll(io.NewSectionReader(file, 0, 64))
	return strings.TrimSpace(string(text))
}

func holderError(file *os.File, path string, timeout time.Duration, err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		file.Close()
		return fmt.Errorf("lock %s: %w", path, err)
	}
	// A folder does not tell.
	who := "another process"
	if pid := holder(file); pid != "" {
		who = "process " + pid
	}
	return cnierr.Transient("find out what "+who+" waits for, and end it if it hangs",
		"lock %s: held for more than %s by %s", path, timeout, who)
}

// lockFolder takes a folder of the journal for a lock, which leaves nothing behind when its
// holder is killed. It is for a few system calls.
func (s *Store) lockFolder(sub string) (*Lock, error) {
	dir, err := hold(func() (dir *os.File, err error) {
		err = s.inFolder(sub, func(path string) (err error) {
			dir, err = os.Open(path)
			return err
		})
		return dir, err
	}, lockTimeout)
	if err != nil {
		return nil, err
	}
	return &Lock{dir}, nil
}

func sameFile(file *os.File, path string) bool {
	held, err1 := file.Stat()
	named, err2 := os.Lstat(path)
	return err1 == nil && err2 == nil && os.SameFile(held, named)
}

// Unlock gives the lock to the next one.
func (l *Lock) Unlock() { l.file.Close() }

// users is the folder of those who use a host-side link.
func users(hostInterface string) string { return filepath.Join("users", hostInterface) }

// Join notes that an attachment uses a host-side link, by a file that is empty:
// whatever has its name will do. The lock of that link must be held.
func (s *Store) Join(hostInterface string, key Key) error {
	err := s.inFolder(users(hostInterface), func(dir string) error {
		path := filepath.Join(dir, key.String())
		if _, err := os.Lstat(path); err == nil {
			return nil
		}
		file, err := openFile(path, os.O_WRONLY|os.O_CREATE)
		if err != nil {
			return err
		}
		return file.Close()
	})
	if err != nil {
		return fmt.Errorf("join %s: %w", hostInterface, err)
	}
	return nil
}

// Unused tells whether nobody but an attachment uses a host-side link. The lock of
// that link must be held.
func (s *Store) Unused(hostInterface string, but Key) (bool, error) {
	names, err := s.names(users(hostInterface))
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if name == but.String() {
			continue
		}
		if s.stands(name) {
			return false, nil
		}
		// Left by a process that was killed, or by nobody that is known here.
		if err := os.RemoveAll(filepath.Join(s.dir, users(hostInterface), name)); err != nil {
			return false, fmt.Errorf("users of %s: %w", hostInterface, err)
		}
	}
	return true, nil
}

// Leave notes that an attachment uses a host-side link no more. The lock of that link
// must be held.
func (s *Store) Leave(hostInterface string, key Key) error {
	dir, err := s.folder(users(hostInterface))
	if err != nil {
		return ignoreMissing(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, key.String())); err != nil {
		return fmt.Errorf("leave %s: %w", hostInterface, err)
	}
	s.prune(users(hostInterface))
	return nil
}

// stands tells whether a name is that of an attachment with a record, readable
// or not.
func (s *Store) stands(name string) bool {
	key, ok := parseKey(name)
	if !ok {
		return false
	}
	_, err := os.Lstat(s.attachment(key))
	return !errors.Is(err, fs.ErrNotExist)
}

// Used lists the host-side links that an attachment uses.
func (s *Store) Used(key Key) (hostInterfaces []string, err error) {
	all, err := s.names("users")
	return slices.DeleteFunc(all, func(link string) bool {
		_, err := os.Lstat(filepath.Join(s.dir, users(link), key.String()))
		return err != nil
	}), err
}

// Forget removes the lock's file while the lock is held, once nobody uses
// what it guards. Those who wait for it notice and start again.
func (s *Store) Forget(l *Lock) error {
	err := os.Remove(l.file.Name())
	s.prune("")
	return ignoreMissing(err)
}
