package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/cnierr"
)

// The plugins run as root, and do to the kernel what a record says. So nothing
// is read, written or removed in a folder that somebody else could have put
// there or can write to, and no file is opened through a link.

// folder gives the path of a folder of the journal, below the store's own, once
// it and every folder above it, down from the root, are known to be private. A
// folder that is not there is fs.ErrNotExist.
func (s *Store) folder(sub string) (string, error) {
	dir := filepath.Join(s.dir, sub)
	if _, ok := s.trusted.Load(dir); ok {
		return dir, nil
	}
	for _, at := range s.down(dir) {
		if err := checkPrivate(at); err != nil {
			return "", err
		}
	}
	s.trusted.Store(dir, true)
	return dir, nil
}

// down lists the folders from the journal's root down to dir.
func (s *Store) down(dir string) (all []string) {
	all = []string{s.root}
	below, _ := filepath.Rel(s.root, dir)
	for _, name := range strings.Split(below, "/") {
		all = append(all, filepath.Join(all[len(all)-1], name))
	}
	return all
}

// inFolder makes a folder of the journal and does something in it, once more
// if another process pruned the folder in between.
func (s *Store) inFolder(sub string, do func(dir string) error) error {
	for try := 0; ; try++ {
		dir, err := s.folder(sub)
		if errors.Is(err, fs.ErrNotExist) {
			dir, err = s.makeFolder(sub)
		}
		if err == nil {
			err = do(dir)
		}
		if !errors.Is(err, fs.ErrNotExist) || try == 100 {
			return err
		}
		s.trusted.Clear()
	}
}

func (s *Store) makeFolder(sub string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(s.root), 0o755); err != nil {
		return "", err
	}
	for _, at := range s.down(filepath.Join(s.dir, sub)) {
		if err := os.Mkdir(at, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		// Before anything is made in it, not after.
		if err := checkPrivate(at); err != nil {
			return "", err
		}
	}
	return s.folder(sub)
}

// checkPrivate refuses a folder that somebody else could have filled.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if !info.IsDir() || !isOurs(info) {
		return cnierr.New(types.ErrIOFailure, "find out who made it, and remove it",
			"journal: %s: %s: want a folder of user %d that nobody else can write", dir, describe(info), os.Geteuid())
	}
	return nil
}

// openFile opens a file of the journal; it never waits for somebody at the
// other end of a pipe, and follows no link.
func openFile(path string, flags int) (*os.File, error) {
	file, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, fileError(path, "a symbolic link")
	}
	if errors.Is(err, unix.ENXIO) {
		return nil, fileError(path, "a pipe or a socket")
	}
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && (!info.Mode().IsRegular() || !isOurs(info) || links(info) > 1) {
		err = fileError(path, describe(info))
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// readFile reads a file of the journal.
func readFile(path string) ([]byte, error) {
	file, err := openFile(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	// io.ReadAll does not know the size, and needs several times the memory.
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	var data bytes.Buffer
	data.Grow(int(info.Size()) + bytes.MinRead)
	_, err = data.ReadFrom(file)
	return data.Bytes(), err
}

func fileError(path, problem string) error {
	return cnierr.New(types.ErrIOFailure, badFileRemedy,
		"journal: %s: %s: want a regular file of one name, of user %d, that nobody else can write", path, problem, os.Geteuid())
}

// badFileRemedy is what to do about a file that is not as this package writes it.
const badFileRemedy = "find out who changed it, and remove it, or have ADD or DEL do so: they go by what the kernel and the claims show"

func isOurs(info fs.FileInfo) bool {
	return int(stat(info).Uid) == os.Geteuid() && info.Mode().Perm()&0o022 == 0
}

// links counts the names of a file: none once it was replaced or removed.
func links(info fs.FileInfo) uint64 { return uint64(stat(info).Nlink) } //nolint:unconvert // 32 bits on arm64

func describe(info fs.FileInfo) string {
	text := fmt.Sprintf("%s of user %d", info.Mode(), stat(info).Uid)
	if n := links(info); n > 1 && !info.IsDir() {
		text += fmt.Sprintf(" with %d names", n)
	}
	return text
}

func stat(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }
