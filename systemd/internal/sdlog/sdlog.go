// Package sdlog writes lines for the journal (sd-daemon(3)) or a terminal, and the
// status line of a unit (sd_notify(3)).
package sdlog

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Levels of syslog(3).
const (
	LevelErr     = 3
	LevelWarning = 4
	LevelNotice  = 5
	LevelInfo    = 6
)

// Voice speaks of a namespace, to the journal or to a person.
type Voice struct {
	who string
	// leveled puts the level before each line, as sd-daemon(3) has it.
	leveled bool
}

// New gives the voice of a namespace or a program.
func New(name string) Voice {
	return Voice{who: name, leveled: os.Getenv("JOURNAL_STREAM") != ""}
}

// Say writes every line of a text.
func (v Voice) Say(level int, format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		line = strings.TrimRight(line, "\n")
		if v.leveled {
			line = fmt.Sprintf("<%d>%s: %s", level, v.who, line)
		} else {
			line = v.who + ": " + line
		}
		fmt.Fprintln(os.Stderr, line)
	}
}

// Status sets the unit's line in `systemctl status` (sd_notify(3)), and waits
// until it is taken: systemd takes none of a process that is gone.
func (v Voice) Status(format string, args ...any) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	if err := notify(socket, "STATUS="+fmt.Sprintf(format, args...)); err != nil {
		v.Say(LevelWarning, "tell systemd the status: %v", err)
	}
}

// Note is Status for a process that lives on, which need not wait.
func (v Voice) Note(format string, args ...any) {
	if socket := os.Getenv("NOTIFY_SOCKET"); socket != "" {
		_ = send(socket, "STATUS="+fmt.Sprintf(format, args...))
	}
}

// Extend has systemd wait for this process for at least so long, from now on, even
// if that is more than the unit's time-out (EXTEND_TIMEOUT_USEC=).
func (v Voice) Extend(d time.Duration) {
	socket := os.Getenv("NOTIFY_SOCKET")
	if socket == "" {
		return
	}
	if err := send(socket, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds())); err != nil {
		v.Say(LevelWarning, "ask systemd for more time: %v", err)
	}
}

// notifyTimeout bounds the wait for systemd, which may be busy.
const notifyTimeout = time.Second

// send tells systemd something, without waiting until it is taken.
func send(socket, state string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Sendto(fd, []byte(state), 0, &unix.SockaddrUnix{Name: socket})
}

func notify(socket, state string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	// A name that begins with @ is an abstract one, as it is for systemd.
	to := &unix.SockaddrUnix{Name: socket}
	if err := unix.Sendto(fd, []byte(state), 0, to); err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	err = unix.Sendmsg(fd, []byte("BARRIER=1"), unix.UnixRights(int(write.Fd())), to, 0)
	write.Close()
	if err != nil {
		return err
	}
	// systemd closes its copy when it has come to it.
	_ = read.SetReadDeadline(time.Now().Add(notifyTimeout))
	_, _ = read.Read(make([]byte, 1))
	return nil
}
