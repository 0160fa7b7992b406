package machine

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is how a machine is made.
type Kind string

// The kinds of machines. The environment variable MACHINE chooses for all
// tests that do not insist on one.
const (
	// Nspawn is a systemd in a container, on this machine's kernel: up in a
	// second or two.
	Nspawn Kind = "nspawn"
	// QEMU is a virtual machine that boots the distribution's own kernel.
	QEMU Kind = "qemu"
)

// NIC is a network card of a machine: eth0 is the first, eth1 the second.
type NIC struct {
	// LAN is the path of the network namespace that the card is cabled to,
	// and Port the name of the link there. The link stays for as long as the
	// machine does, over reboots, and has a carrier while the machine runs.
	LAN, Port string
	// MAC is the card's [one that the kind chooses].
	MAC string
	// Addresses are the card's, with their prefix length, from early in each
	// boot. A card without any is left to the machine's own configuration,
	// down.
	Addresses []string
}

// options are what New can be told.
type options struct {
	kind     Kind
	arch     string
	suite    string
	packages []string
	bare     bool
	memory   int
	nics     []NIC
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

// Of makes a machine of one kind, whatever MACHINE says.
func Of(kind Kind) Option {
	return func(o *options) { o.kind = kind }
}

// Suite makes a machine of a Debian release, whatever DEBIAN_SUITE says.
func Suite(name string) Option {
	return func(o *options) { o.suite = name }
}

// Arch makes a machine of another architecture, arm64 or s390x, which is of the
// kind QEMU and runs Debian's packages as they come, not configured. It has few
// packages, and no others can be asked for.
func Arch(name string) Option {
	return func(o *options) { o.arch, o.kind = name, QEMU }
}

// Memory gives a QEMU machine another size than 1024 MiB.
func Memory(mib int) Option {
	return func(o *options) { o.memory = mib }
}

// Connect gives the machine network cards.
func Connect(nics ...NIC) Option {
	return func(o *options) { o.nics = append(o.nics, nics...) }
}

// driver is what a kind of machine can do.
type driver interface {
	// start starts the machine, which has the folder root as its root file
	// system if it never ran before. It is not up when start returns.
	start() error
	// exec runs a command on the running machine.
	exec(ctx context.Context, c Command) error
	// exited is closed when the machine has ended.
	exited() <-chan struct{}
	// failure is what went wrong with a machine that has ended: its process was
	// killed, or its status is not 0, or what the kind does afterwards failed.
	failure() error
	// shutDown asks the machine to power off.
	shutDown() error
	// kill ends the machine.
	kill()
	setCarrier(nic int, on bool) error
	// destroy removes what the kind has made, of a machine that has ended.
	destroy() error
	// slowness is how many times slower than an Nspawn machine it may be.
	slowness() int
	// init is the process ID of its systemd, as the kernel that it runs on counts.
	init() (int, error)
}

// Machine is a throwaway machine with a systemd of its own.
type Machine struct {
	driver
	// Kind is which kind it is.
	Kind Kind
	// Suite is the Debian release that it runs.
	Suite string

	dir, console string
	// state: whether the folder of its files is still what it runs on.
	running, everRan bool
	t                testing.TB
}

// Command is a command to be run on a machine.
type Command struct {
	Args []string
	// Env is what it has in its environment besides the usual.
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// ExitError is the end of a command with another status than 0.
type ExitError struct {
	// Status is 128 and more for a command that a signal has ended.
	Status int
}

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// New makes a machine that is not booted yet: a copy of the root that all
// machines share, into which the project is installed.
func New(opts ...Option) (*Machine, error) {
	o := options{
		kind:   Kind(cmp.Or(os.Getenv("MACHINE"), string(Nspawn))),
		suite:  DefaultSuite(),
		memory: 1024,
	}
	for _, opt := range opts {
		opt(&o)
	}
	if o.kind == QEMU {
		o.packages = append(o.packages, kernelPackages...)
	}
	root, err := rootFor(o)
	if err != nil {
		return nil, err
	}
	// On disk, not in /tmp, which may be a tmpfs that overlayfs cannot use.
	dir, err := os.MkdirTemp(filepath.Dir(root), "machine-")
	if err != nil {
		return nil, err
	}
	m := &Machine{dir: dir, Kind: o.kind, Suite: o.suite, console: filepath.Join(dir, "console")}
	if err := m.prepare(root, o); err != nil {
		return nil, errors.Join(err, m.Destroy())
	}
	return m, nil
}

func (m *Machine) prepare(root string, o options) (err error) {
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
		install := m.install
		if o.arch != "" {
			install = func() error { return m.installFor(o.arch) }
		}
		if err := install(); err != nil {
			return err
		}
	}
	if err := m.writeLAN(o.nics); err != nil {
		return err
	}
	switch o.kind {
	case Nspawn:
		m.driver, err = newNspawn(m, o)
	case QEMU:
		m.driver, err = newQEMU(m, root, o)
	default:
		err = fmt.Errorf("no such kind of machine: %q; MACHINE is nspawn or qemu", o.kind)
	}
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

// writeLAN gives the machine a unit that sets the addresses of its cards, as a
// network manager would, but within milliseconds.
func (m *Machine) writeLAN(nics []NIC) error {
	var script strings.Builder
	for i, nic := range nics {
		if len(nic.Addresses) == 0 {
			continue
		}
		fmt.Fprintf(&script, "ExecStart=sh -c 'until ip link set eth%d up; do sleep 0.05; done'\n", i)
		for _, addr := range nic.Addresses {
			if strings.Contains(addr, ":") {
				addr += " nodad"
			}
			fmt.Fprintf(&script, "ExecStart=ip address add dev eth%d %s\n", i, addr)
		}
	}
	if script.Len() == 0 {
		return nil
	}
	unit := "[Unit]\nDefaultDependencies=no\nAfter=systemd-sysctl.service\nBefore=network.target network-online.target\n" +
		"[Service]\nType=oneshot\nRemainAfterExit=yes\n" + script.String()
	return errors.Join(
		m.stage("etc/systemd/system/test-lan.service", unit),
		m.stageLink("etc/systemd/system/sysinit.target.wants/test-lan.service", "../test-lan.service"),
	)
}

// Path is where the machine's file lies in this one's file system. Of a
// machine that was booted, this holds for the kind Nspawn alone: tests that
// are to run on either use Write, Read and Run.
func (m *Machine) Path(name string) string { return filepath.Join(m.dir, "root", name) }

// here tells whether Path is what the machine has.
func (m *Machine) here() bool { return m.Kind == Nspawn || !m.everRan }

// Write writes a file of the machine, with the folders above it. A virtual
// machine that was booted has to be running.
func (m *Machine) Write(name, content string) error {
	if m.here() {
		return m.stage(name, content)
	}
	path := filepath.Join("/", name)
	_, err := m.run(context.Background(), strings.NewReader(content), "sh", "-c", `mkdir -p "${1%/*}" && cat >"$1"`, "sh", path)
	return err
}

func (m *Machine) stage(name, content string) error {
	path := m.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

// Chmod changes who may do what with a file of the machine.
func (m *Machine) Chmod(name string, mode os.FileMode) error {
	if m.here() {
		return os.Chmod(m.Path(name), mode)
	}
	_, err := m.Run("chmod", fmt.Sprintf("%o", mode), filepath.Join("/", name))
	return err
}

// Link makes a symbolic link on the machine, with the folders above it.
func (m *Machine) Link(name, target string) error {
	if m.here() {
		return m.stageLink(name, target)
	}
	_, err := m.Run("sh", "-c", `mkdir -p "${1%/*}" && ln -sfnT "$2" "$1"`, "sh", filepath.Join("/", name), target)
	return err
}

func (m *Machine) stageLink(name, target string) error {
	path := m.Path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}

// Read reads a file of the machine.
func (m *Machine) Read(name string) (string, error) {
	if m.here() {
		data, err := os.ReadFile(m.Path(name))
		return string(data), err
	}
	return m.Run("cat", filepath.Join("/", name))
}

// Systemctl runs systemctl on the files of a machine that was never booted,
// to enable, disable or mask units.
func (m *Machine) Systemctl(args ...string) error {
	if m.everRan {
		_, err := m.Run(append([]string{"systemctl"}, args...)...)
		return err
	}
	out, err := exec.Command("systemctl", append([]string{"--quiet", "--root=" + m.Path("")}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Boot boots the machine and waits until systemd has nothing left to do.
func (m *Machine) Boot() error {
	if m.running {
		return errors.New("boot: the machine is running")
	}
	if err := m.start(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	m.running, m.everRan = true, true
	if err := m.waitForBoot(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return nil
}

// bootTimeout bounds the wait for a machine to come up, which takes it a
// second or two as a container, and 20 times that where a CPU is emulated.
const bootTimeout = 60 * time.Second

func (m *Machine) waitForBoot() error {
	limit := bootTimeout * time.Duration(m.slowness())
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		select {
		case <-m.exited():
			return fmt.Errorf("it has ended: %s", m.Console())
		case <-ctx.Done():
			return fmt.Errorf("not up after %s: %s", limit, m.Console())
		case <-time.After(50 * time.Millisecond):
		}
		// Units may fail, which is what some tests want.
		state, _ := m.RunContext(ctx, "systemctl", "is-system-running")
		switch strings.TrimSpace(state) {
		case "running", "degraded":
			return nil
		}
	}
}

// Console is what the machine has printed on its console.
func (m *Machine) Console() string {
	data, _ := os.ReadFile(m.console)
	return string(data)
}

// environment is that of all commands.
var environment = []string{
	"/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root", "TERM=dumb", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0",
}

// Run runs a command on the machine and gives what it prints on standard
// output; the error holds what it prints on standard error, and is an
// ExitError if the command has ended with a status.
func (m *Machine) Run(command ...string) (string, error) {
	return m.RunContext(context.Background(), command...)
}

// RunContext is Run with an end.
func (m *Machine) RunContext(ctx context.Context, command ...string) (string, error) {
	return m.run(ctx, nil, command...)
}

func (m *Machine) run(ctx context.Context, stdin io.Reader, command ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	err := m.Exec(ctx, Command{Args: command, Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, stderr.String())
	}
	return stdout.String(), err
}

// Exec runs a command on the machine until it or the context ends. Any number
// can run at once. Nil for an input or an output is nothing.
func (m *Machine) Exec(ctx context.Context, c Command) error {
	if !m.running {
		return errors.New("the machine is not running")
	}
	c.Args = slices.Concat(environment, c.Env, c.Args)
	return m.exec(ctx, c)
}

// PowerOff shuts the machine down in an orderly way. It can be booted again.
func (m *Machine) PowerOff() error {
	if !m.running {
		return errors.New("power off: the machine is not running")
	}
	if err := m.shutDown(); err != nil {
		return fmt.Errorf("power off: %w", err)
	}
	limit := bootTimeout * time.Duration(m.slowness())
	select {
	case <-m.exited():
		m.running = false
		return nil
	case <-time.After(limit):
		return fmt.Errorf("power off: still running after %s: %s", limit, m.Console())
	}
}

// Cut ends the machine as a power cut would. It can be booted again.
func (m *Machine) Cut() {
	if !m.running {
		return
	}
	m.kill()
	<-m.exited()
	m.running = false
}

// SetCarrier plugs the cable of a card in or out; nic counts from 0.
func (m *Machine) SetCarrier(nic int, on bool) error {
	if err := m.setCarrier(nic, on); err != nil {
		return fmt.Errorf("carrier of eth%d: %w", nic, err)
	}
	return nil
}

// Destroy ends the machine, as pulling its plug would, and removes it.
func (m *Machine) Destroy() error {
	m.Cut()
	var errs []error
	if m.driver != nil {
		errs = append(errs, m.destroy())
	}
	if err := m.unmount(); err != nil {
		return errors.Join(append(errs, err)...)
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}

// unmount unmounts the machine's root, which the kernel lets go of when the
// last process has gone.
func (m *Machine) unmount() error {
	var err error
	for range 100 {
		if err = unix.Unmount(m.Path(""), 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", m.Path(""), err)
	}
	return nil
}

// Slowness is how many times slower than an Nspawn machine it may be, for
// tests that bound their waits.
func (m *Machine) Slowness() int { return m.slowness() }

// Init is the process ID of the machine's systemd, as the kernel that the machine
// runs on counts: this machine's one for the kind Nspawn.
func (m *Machine) Init() (int, error) { return m.init() }
