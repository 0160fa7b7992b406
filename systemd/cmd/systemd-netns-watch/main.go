// systemd-netns-watch is the keeper of a host's network namespaces, which
// systemd-netns-watch.service runs. It repairs what other programs break.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/sdlog"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/watch"
)

const help = `Usage: systemd-netns-watch

Watches the namespaces of systemd-netns@.service. When something in one changes, it
reloads the namespace's unit, which checks and repairs. It takes no options;
systemd-netns-watch.service runs it.
`

// version is stamped by the build.
var version = "unknown"

func main() {
	os.Exit(run(os.Args[1:]))
}

// run gives the exit status: 2 for a usage error, 1 for anything that failed.
func run(args []string) int {
	switch {
	case len(args) == 1 && args[0] == "--version":
		fmt.Println("systemd-netns-watch", version)
		return 0
	case len(args) == 1 && args[0] == "--help":
		fmt.Print(help)
		return 0
	case len(args) > 0:
		fmt.Fprint(os.Stderr, help)
		return 2
	}
	sdlog.Outlive()
	// Both keep the heap small: there is little to collect, and where the kernel gives
	// every process huge pages, as Debian's does, it would have megabytes of them
	// (PR_SET_THP_DISABLE(2const)). If it cannot be told so, the heap is larger.
	debug.SetGCPercent(20)
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
	own := sdlog.New("systemd-netns-watch")
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := watch.Run(ctx, watch.Config{
		Records:   record.Dir,
		Names:     settings.NetnsDir,
		Reload:    reload,
		Say:       func(level int, namespace, line string) { sdlog.New(namespace).Say(level, "%s", line) },
		Conflicts: record.SetConflicts,
		Doubt:     record.SetDoubt,
		Status:    func(line string) { own.Note("%s", line) },
	})
	if err != nil {
		own.Say(sdlog.LevelErr, "%v", err)
		return 1
	}
	return 0
}

// reload has systemd reload a unit. Its errors are in the unit's own journal.
func reload(ctx context.Context, namespace, unit string, broken bool) error {
	// An edit that is under way must not be applied by this reload.
	if err := record.AskForRepair(namespace, broken); err != nil {
		return err
	}
	// A reload of another mode would take the place of a stop that is under way.
	out, err := systemctl(ctx, "reload", "--job-mode=fail", "--", unit)
	if err == nil || gaveWay(string(out)) {
		return nil
	}
	if _, err := systemctl(ctx, "is-active", "--quiet", "--", unit); err != nil {
		return nil // It has been stopped, and nothing is left to repair.
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if first == "" {
		first = err.Error()
	}
	return errors.New(first)
}

// gaveWay tells by what systemctl(1) says whether a stop has taken a reload's place, or was
// queued before it. The unit is still active then.
func gaveWay(said string) bool {
	return strings.HasSuffix(strings.TrimSpace(said), " canceled.") || strings.Contains(said, " is destructive ")
}

func systemctl(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "systemctl", args...)
	// Otherwise systemctl would notify systemd in the name of this process.
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET=")
	return cmd.CombinedOutput()
}
