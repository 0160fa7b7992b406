package nspawn

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bootTimeout bounds the wait for a machine to come up, which takes it a
// second or two.
const bootTimeout = 60 * time.Second

// Machine is a machine with a systemd of its own.
type Machine struct {
	dir, netns string
	nspawn     *exec.Cmd
	// exited is closed when systemd-nspawn has ended.
	exited  chan struct{}
	console *os.File
}

// options are what New can be told.
type options struct {
	packages []string
	bare     bool
}

// Option tells New to make another machine than the usual one.
type Option func(*options)

// With adds Debian packages to those that every machine has.
func With(packages ...string) Option {
	return func(o *options) { o.packages = append(o.packages, packages...) }
}

// Bare leaves the project out, for a test that installs it in its own way.
func Bare() Option {
	return func(o *options) { o.bare = true }
}

// New makes a machine that is not booted yet: a copy of the root, into which
// the project is installed, with a network namespace as its network.
func New(netns string, opts ...Option) (*Machine, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	root, err := Root(o.packages...)
	if err != nil {
		return nil, err
	}
	// On disk, not in /tmp, which may be a tmpfs that overlayfs cannot use.
	dir, err := os.MkdirTemp(filepath.Dir(root), "machine-")
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, netns: netns}
	if err := m.prepare(root, o); err != nil {
		return nil, errors.Join(err, m.Destroy())
	}
	return m, nil
}

func (m *Machine) prepare(root string, o options) error {
	for _, sub := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(m.dir, sub), 0o755); err != nil {
			return err
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", root, m.dir, m.dir)
	if err := unix.Mount("overlay", m.Path(""), "overlay", 0, layers); err != nil {
		return fmt.Errorf("mount the machine's root: %w", err)
	}
	if !o.bare {
		if err := m.install(); err != nil {
			return err
		}
	}
	var err error
	m.console, err = os.Create(filepath.Join(m.dir, "console"))
	return err
}

func (m *Machine) install() error {
	top, err := Top()
	if err != nil {
		return err
	}
	out, err := exec.Command("make", "-C", top, "install", "DESTDIR="+m.Path("")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make install: %w: %s", err, out)
	}
	return nil
}

// Path is where the machine's file lies in this one's file system.
func (m *Machine) Path(name string) string { return filepath.Join(m.dir, "root", name) }

// Write writes a file of the machine, with the folders above it.
func (m *Machine) Write(name, content string) error {
	path := m.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// SetNetns gives the machine another network for its next boot.
func (m *Machine) SetNetns(netns string) { m.netns = netns }

// Cut ends the machine as a power cut would. It can be booted again.
func (m *Machine) Cut() {
	if m.exited == nil {
		return
	}
	// Its first process takes all others of the machine along, and nspawn ends.
	if pid, err := m.init(); err == nil {
		_ = unix.Kill(pid, unix.SIGKILL)
	} else if m.nspawn.Process != nil {
		_ = m.nspawn.Process.Kill()
	}
	<-m.exited
}

// Boot boots the machine and waits until systemd has nothing left to do.
func (m *Machine) Boot() error {
	m.nspawn = exec.Command("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
		"--capability=CAP_NET_ADMIN", "--network-namespace-path="+m.netns, "--directory="+m.Path(""))
	// The machine is to set sysctls of its network, as a real one can.
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network")
	m.nspawn.Stdout, m.nspawn.Stderr = m.console, m.console
	// When whoever runs the tests is killed, nspawn ends the machine.
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	m.exited = make(chan struct{})
	started := make(chan error)
	go func() {
		// The signal comes at the end of the thread, not of the process.
		runtime.LockOSThread()
		defer close(m.exited)
		err := m.nspawn.Start()
		started <- err
		if err == nil {
			_ = m.nspawn.Wait()
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return m.waitForBoot()
}

func (m *Machine) waitForBoot() error {
	for deadline := time.Now().Add(bootTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case <-m.exited:
			return fmt.Errorf("boot: systemd-nspawn has ended: %s", m.Console())
		default:
		}
		// Units may fail, which is what some tests want.
		state, _ := m.Run("systemctl", "is-system-running")
		switch strings.TrimSpace(state) {
		case "running", "degraded":
			return nil
		}
	}
	return fmt.Errorf("boot: not up after %s: %s", bootTimeout, m.Console())
}

// Console is what the machine has printed on its console.
func (m *Machine) Console() string {
	data, _ := os.ReadFile(m.console.Name())
	return string(data)
}

// init is the process of the machine's systemd.
func (m *Machine) init() (int, error) {
	if m.nspawn == nil || m.nspawn.Process == nil {
		return 0, errors.New("the machine is not running")
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.nspawn.Process.Pid, m.nspawn.Process.Pid))
	if err != nil {
		return 0, err
	}
	for _, child := range strings.Fields(string(data)) {
		comm, _ := os.ReadFile("/proc/" + child + "/comm")
		if strings.TrimSpace(string(comm)) == "systemd" {
			return strconv.Atoi(child)
		}
	}
	return 0, errors.New("systemd is not running yet")
}

// Run runs a command in the machine and gives what it prints on standard
// output; the error holds what it prints on standard error.
func (m *Machine) Run(command ...string) (string, error) {
	return m.RunContext(context.Background(), command...)
}

// RunContext is Run with an end.
func (m *Machine) RunContext(ctx context.Context, command ...string) (string, error) {
	pid, err := m.init()
	if err != nil {
		return "", err
	}
	args := append([]string{"--target", strconv.Itoa(pid), "--all", "--wdns=/", "env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=dumb", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}, command...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// PowerOff shuts the machine down in an orderly way.
func (m *Machine) PowerOff() error {
	pid, err := m.init()
	if err != nil {
		return err
	}
	// SIGRTMIN+4 makes systemd power off (systemd(1), "SIGNALS").
	if err := unix.Kill(pid, unix.Signal(34+4)); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	select {
	case <-m.exited:
		return nil
	case <-time.After(bootTimeout):
		return fmt.Errorf("power off: still running after %s: %s", bootTimeout, m.Console())
	}
}

// Destroy ends the machine, as pulling its plug would, and removes it.
func (m *Machine) Destroy() error {
	m.Cut()
	if m.console != nil {
		m.console.Close()
	}
	var err error
	// The kernel lets go of the mount when the last process has gone.
	for range 100 {
		if err = unix.Unmount(m.Path(""), 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", m.Path(""), err)
	}
	return os.RemoveAll(m.dir)
}
