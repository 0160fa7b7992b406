package cni

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"macvlan-vip/tests/testnet"
)

// A verb changes something by the system calls below alone: netlink messages,
// and what makes, locks, writes and removes files, those of the journal and the
// keys below /proc/sys. The IPAM plugin is run by execve; what that does
// itself is its own affair. strace(1) could tamper with them, too, but counts
// them for each thread, and the Go runtime has any thread do anything.
var calls = map[uint64]string{
	unix.SYS_SENDTO: "sendto", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_OPENAT: "openat", unix.SYS_WRITE: "write",
	unix.SYS_RENAMEAT: "renameat", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_UNLINKAT: "unlinkat",
	unix.SYS_FLOCK: "flock", unix.SYS_EXECVE: "execve",
}

// change is one of these system calls, which changes something.
type change struct {
	call string
	// about is the file's path, or the type of the first netlink message.
	about string
	// n is how many of this call and about the process has made by then, this
	// one included.
	n int
}

func (c change) String() string { return fmt.Sprintf("%s %s %d", c.call, filepath.Base(c.about), c.n) }

func (c change) compare(o change) int {
	return cmp.Or(cmp.Compare(c.call, o.call), cmp.Compare(c.about, o.about), cmp.Compare(c.n, o.n))
}

// tampering is what happens at a change: the process is killed before it, or
// the call fails with an error instead of being made. The zero value is
// nothing.
type tampering struct {
	kill bool
	fail unix.Errno
}

// tracer traces a process and its threads.
type tracer struct {
	at func(change) tampering
	// follow says that the programs that it starts are traced, too.
	follow bool
	counts map[change]int
	// failing are the threads whose call was taken away, and the errors that
	// they get for it.
	failing map[int]unix.Errno
}

// traced runs a verb, and calls at for every change before it is made.
func (a *attachment) traced(plugin, verb, conf string, at func(change) tampering) (o outcome) {
	a.t.Helper()
	cmd := exec.Command(lookPath(plugin))
	cmd.Env, cmd.Stdin = a.env(verb), strings.NewReader(conf)
	return a.trace(cmd, &tracer{at: at})
}

// trace runs a program under a tracer.
func (l *lab) trace(cmd *exec.Cmd, t *tracer) (o outcome) {
	l.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(cmd.Env, testnet.CoverEnv()...), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	t.counts, t.failing = map[change]int{}, map[int]unix.Errno{}
	l.host.Do(func() error {
		// The thread that starts a process is the one that traces it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			return err
		}
		var err error
		o.status, err = t.run(cmd.Process.Pid)
		// The process has been waited for; what it wrote has not.
		_ = cmd.Wait()
		return err
	})
	o.stdout, o.stderr = stdout.String(), stderr.String()
	return o
}

const traceOptions = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK |
	unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL

// run goes on until all that is traced has ended, and gives the exit status of
// the process; -1 where a signal ended it.
func (t *tracer) run(process int) (status int, err error) {
	var w unix.WaitStatus
	if _, err := unix.Wait4(process, &w, unix.WALL, nil); err != nil {
		return 0, fmt.Errorf("wait for the process to stop: %w", err)
	}
	if err := unix.PtraceSetOptions(process, traceOptions); err != nil {
		return 0, fmt.Errorf("trace: %w", err)
	}
	for thread := process; ; {
		if err := t.resume(thread, w); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, fmt.Errorf("trace: %w", err)
		}
		for {
			thread, err = unix.Wait4(-1, &w, unix.WALL|unix.WNOTHREAD, nil)
			if errors.Is(err, unix.ECHILD) {
				return status, nil
			}
			if err == nil && w.Stopped() {
				break
			}
			if err == nil && thread == process {
				status = w.ExitStatus()
			}
		}
	}
}

// resume lets a thread that has stopped go on to its next system call.
func (t *tracer) resume(thread int, w unix.WaitStatus) error {
	switch signal := w.StopSignal(); {
	case signal == unix.SIGTRAP|0x80:
		if err := t.systemCall(thread); err != nil {
			return err
		}
	case signal == unix.SIGTRAP && w.TrapCause() == unix.PTRACE_EVENT_EXEC && !t.follow:
		return unix.PtraceDetach(thread)
	case signal != unix.SIGTRAP && signal != unix.SIGSTOP:
		return unix.PtraceSyscall(thread, int(signal))
	}
	return unix.PtraceSyscall(thread, 0)
}

// callInfo is the kernel's struct ptrace_syscall_info, as far as it is needed.
type callInfo struct {
	op   uint8
	_    [23]byte
	nr   uint64
	args [6]uint64
}

const opEntry = 1

// systemCall looks at a thread that has stopped before a system call or after.
func (t *tracer) systemCall(thread int) error {
	var info callInfo
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(thread), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0); errno != 0 {
		return errno
	}
	if info.op != opEntry {
		errno, ok := t.failing[thread]
		if !ok {
			return nil
		}
		delete(t.failing, thread)
		return setResult(thread, errno)
	}
	at, ok := changeAt(thread, info)
	if !ok {
		return nil
	}
	t.counts[at]++
	at.n = t.counts[at]
	what := t.at(at)
	if what.kill {
		return unix.Kill(thread, unix.SIGKILL)
	}
	if what.fail != 0 {
		t.failing[thread] = what.fail
		return skipCall(thread)
	}
	return nil
}

// changeAt tells what a system call is about, and whether it changes something.
func changeAt(thread int, info callInfo) (at change, ok bool) {
	at.call, ok = calls[info.nr]
	if !ok {
		return at, false
	}
	switch at.call {
	case "sendto":
		var family, kind [2]byte
		peek(thread, info.args[4], family[:])
		peek(thread, info.args[1]+4, kind[:])
		at.about, ok = messages[binary.NativeEndian.Uint16(kind[:])]
		return at, ok && binary.NativeEndian.Uint16(family[:]) == unix.AF_NETLINK
	case "write", "flock":
		at.about, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", thread, info.args[0]))
	case "execve":
		at.about = text(thread, info.args[0])
	case "symlinkat":
		at.about = text(thread, info.args[2])
	default:
		at.about = text(thread, info.args[1])
	}
	return at, strings.HasPrefix(at.about, "/") && (at.call != "openat" || info.args[2]&unix.O_CREAT != 0)
}

// messages are the types of netlink message that change something.
var messages = map[uint16]string{
	unix.RTM_NEWLINK: "RTM_NEWLINK", unix.RTM_DELLINK: "RTM_DELLINK", unix.RTM_SETLINK: "RTM_SETLINK",
	unix.RTM_NEWADDR: "RTM_NEWADDR", unix.RTM_DELADDR: "RTM_DELADDR", unix.RTM_NEWROUTE: "RTM_NEWROUTE",
	unix.RTM_DELROUTE: "RTM_DELROUTE", unix.RTM_NEWNEIGH: "RTM_NEWNEIGH", unix.RTM_DELNEIGH: "RTM_DELNEIGH",
}

// peek reads a thread's memory; what cannot be read stays zero.
func peek(thread int, at uint64, into []byte) {
	_, _ = unix.PtracePeekData(thread, uintptr(at), into)
}

// text reads a string that ends with a zero byte.
func text(thread int, at uint64) string {
	var all []byte
	for word := make([]byte, 8); len(all) < unix.PathMax; at += uint64(len(word)) {
		clear(word)
		peek(thread, at, word)
		before, _, ends := bytes.Cut(word, []byte{0})
		all = append(all, before...)
		if ends {
			break
		}
	}
	return string(all)
}
