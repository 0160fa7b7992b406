package watch

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// nameEvent says that a file in a watched directory was created or removed.
type nameEvent struct {
	// watch is the number that add gave the folder.
	watch int32
	name  string
	gone  bool
}

// folders reports files that are created and removed (inotify(7)).
type folders struct {
	file *os.File
	fd   int
}

func openFolders() (*folders, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch folders: %w", err)
	}
	return &folders{file: os.NewFile(uintptr(fd), "inotify"), fd: fd}, nil
}

// add watches a directory, and returns its number; it can be repeated.
func (f *folders) add(path string) (int32, error) {
	wd, err := unix.InotifyAddWatch(f.fd, path, unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_ONLYDIR)
	if err != nil {
		return 0, fmt.Errorf("watch %s: %w", path, err)
	}
	return int32(wd), nil
}

// read waits for events.
func (f *folders) read(buf []byte) ([]nameEvent, error) {
	n, err := f.file.Read(buf)
	if err != nil {
		return nil, fmt.Errorf("watch folders: %w", err)
	}
	var all []nameEvent
	for data := buf[:n]; len(data) >= unix.SizeofInotifyEvent; {
		wd := int32(binary.NativeEndian.Uint32(data))
		mask := binary.NativeEndian.Uint32(data[4:])
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(data[12:]))
		if end > len(data) {
			break
		}
		all = append(all, nameEvent{watch: wd, name: unix.ByteSliceToString(data[unix.SizeofInotifyEvent:end]), gone: mask&unix.IN_MOVED_TO == 0})
		data = data[end:]
	}
	return all, nil
}

func (f *folders) close() { f.file.Close() }
