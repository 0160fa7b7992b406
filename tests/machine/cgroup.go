package machine

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// makeCgroups makes a cgroup below this process's own, in each hierarchy in
// which a container's systemd has cgroups: containers that shared one would
// stop each other's services.
func makeCgroups(name string) (dirs []string, err error) {
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts := map[string][]string{"name=systemd": {"/sys/fs/cgroup/systemd"}, "": {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"}}
	for line := range strings.Lines(string(own)) {
		// hierarchy:controllers:path (cgroups(7)).
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, mount := range mounts[fields[1]] {
			parent := filepath.Join(mount, fields[2])
			if !exists(parent + "/cgroup.procs") {
				continue
			}
			dir := filepath.Join(parent, name)
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return nil, err
			}
			dirs = append(dirs, dir)
			break
		}
	}
	return dirs, nil
}

// removeCgroup removes a cgroup and those in it, once their last processes
// have gone.
func removeCgroup(top string) error {
	var err error
	for range 100 {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		// The deepest come last.
		slices.Reverse(dirs)
		err = nil
		for _, dir := range dirs {
			if e := os.Remove(dir); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = e
			}
		}
		if err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
