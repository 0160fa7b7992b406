package testnet

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Processes lists those in the namespace that were started with an argument.
func (n *Namespace) Processes(arg string) (pids []int) {
	n.t.Helper()
	own, err := os.Stat(n.Path())
	if err != nil {
		n.t.Fatal(err)
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		netns, err := os.Stat(dir + "/ns/net")
		if err != nil || netns.Sys().(*syscall.Stat_t).Ino != own.Sys().(*syscall.Stat_t).Ino {
			continue
		}
		cmdline, _ := os.ReadFile(dir + "/cmdline")
		args := strings.Split(string(cmdline), "\x00")
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && len(args) > 1 && args[1] == arg {
			pids = append(pids, pid)
		}
	}
	return pids
}
