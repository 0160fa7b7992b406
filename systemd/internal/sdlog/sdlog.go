// Package sdlog writes lines for the journal (sd-daemon(3)) or a terminal, and the
// status line of a unit (sd_notify(3)).
package sdlog

import (
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Levels of syslog(3).
const (
	LevelErr     = 3
	LevelWarning = 4
	LevelNotice  = 5
	LevelInfo    = 6
)

// Voice writes log lines about a namespace, to the journal or a terminal.
type Voice struct {
	who string
	// leveled puts the level before each line, as sd-daemon(3) has it.
	leveled bool
}

// New returns the Voice of a namespace or a program.
func New(name string) Voice {
	return Voice{who: name, leveled: os.Getenv("JOURNAL_STREAM") != ""}
}

// Outlive lets the process go on when nobody reads what it says any more, as while the journal
// is restarted: Go ends one that writes to a closed pipe on standard error. Programs that
// it runs do not inherit this, as they would signal.Ignore.
func Outlive() { signal.Notify(make(chan os.Signal, 1), unix.SIGPIPE) }

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
// until systemd has processed it: systemd ignores a message whose sender has
// exited.
func (v Voice) Status(format string, args ...any) {
	sent, err := daemon.SdNotify(false, "STATUS="+fmt.Sprintf(format, args...))
	if sent && err == nil {
		err = barrier()
	}
	if err != nil {
		v.Say(LevelWarning, "set the status of the unit: %v", err)
	}
}

// Note is Status for a process that goes on running, which need not wait.
func (v Voice) Note(format string, args ...any) {
	_, _ = daemon.SdNotify(false, "STATUS="+fmt.Sprintf(format, args...))
}

// Extend extends the unit's timeout to at least this long from now
// (EXTEND_TIMEOUT_USEC=).
func (v Voice) Extend(d time.Duration) {
	if _, err := daemon.SdNotify(false, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds())); err != nil {
		v.Say(LevelWarning, "extend the timeout of the unit: %v", err)
	}
}

// Supervised tells whether systemd takes messages from this process.
func Supervised() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Store has systemd keep a file open for the unit's next processes, until it is dropped or the
// unit is dead (FDSTORE= in sd_notify(3)).
func (v Voice) Store(name string, f *os.File) error {
	if err := send("FDSTORE=1\nFDNAME="+name, f); err != nil {
		return err
	}
	return barrier()
}

// Drop has systemd close what was stored.
func (v Voice) Drop(name string) error {
	_, err := daemon.SdNotify(false, "FDSTOREREMOVE=1\nFDNAME="+name)
	return err
}

// Stored is a file that systemd has kept, or nil.
func Stored(name string) (found *os.File) {
	for _, f := range activation.Files(true) {
		if f.Name() == name && found == nil {
			found = f
		} else {
			f.Close()
		}
	}
	return found
}

// notifyTimeout bounds the wait for systemd, which may be busy.
const notifyTimeout = 10 * time.Second

// barrier waits until systemd has processed what was sent before
// (sd_notify_barrier(3)).
func barrier() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	err = send("BARRIER=1", write)
	write.Close()
	if err != nil {
		return err
	}
	// systemd closes its copy of the pipe when it gets to the message.
	_ = read.SetReadDeadline(time.Now().Add(notifyTimeout))
	_, _ = read.Read(make([]byte, 1))
	return nil
}

// send sends systemd a message with an open file, which go-systemd v22.6 cannot.
func send(message string, f *os.File) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	// A name that begins with @ is an abstract one, as it is for systemd.
	return unix.Sendmsg(fd, []byte(message), unix.UnixRights(int(f.Fd())), &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}, 0)
}
