package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// qemu is a virtual machine: with KVM where it works, else with an emulated CPU.
type qemu struct {
	platform
	m      *Machine
	nics   []NIC
	memory int
	kvm    bool
	kernel kernel
	// disk is the machine's own layer over the image of its root.
	disk string
	// files is a tar archive of what was written before the first boot.
	files string
	*process

	mu     sync.Mutex
	client *ssh.Client
}

func newQEMU(m *Machine, root string, o options) (driver, error) {
	image, err := makeImage(root, o.arch)
	if err != nil {
		return nil, err
	}
	q := &qemu{
		m: m, nics: o.nics, memory: o.memory, platform: platforms[o.arch],
		kvm:    o.arch == "" && kvmWorks(),
		kernel: image.kernel, disk: filepath.Join(m.dir, "disk"), files: filepath.Join(m.dir, "files"),
	}
	out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image.disk, q.disk).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	if err := stageAgent(m, o.arch); err != nil {
		return nil, err
	}
	for i, nic := range q.nics {
		// The port stays when the machine is off, as that of a switch does.
		file, err := openTap(nic, true)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("port %s of eth%d: %w", nic.Port, i, err), q.destroy())
		}
		file.Close()
	}
	return q, nil
}

// kvmWorks says whether KVM can run the kernels of distributions. On a virtual machine
// without hardware support there can be a /dev/kvm that is for kernels made for it
// alone: its CPUs lack what each of 64 bits has, or end qemu.
var kvmWorks = sync.OnceValue(func() bool {
	if unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) != nil {
		return false
	}
	for _, cpu := range []string{"host", "kvm64,enforce"} {
		cmd := exec.Command(platforms[""].program, "-accel", "kvm", "-cpu", cpu, "-nodefaults", "-no-user-config", "-display", "none", "-S", "-monitor", "stdio")
		cmd.Stdin = strings.NewReader("quit\n")
		if cmd.Run() != nil {
			return false
		}
	}
	return true
})

func (q *qemu) slowness() int {
	if q.kvm {
		return 2
	}
	return 10
}

func (q *qemu) init() (int, error) { return 1, nil }

func (q *qemu) start() error {
	if !q.m.everRan {
		if err := packLayer(filepath.Join(q.m.dir, "upper"), q.files); err != nil {
			return err
		}
		if err := q.m.unmount(); err != nil {
			return err
		}
	} else if err := os.Remove(q.files); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.Command(q.program, q.args()...)
	for _, nic := range q.nics {
		tap, err := openTap(nic, true)
		if err != nil {
			return err
		}
		defer tap.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, tap)
	}
	complaints, err := os.OpenFile(q.m.console, os.O_CREATE|os.O_TRUNC|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer complaints.Close()
	cmd.Stderr = complaints
	for _, socket := range []string{q.agentSocket(), q.qmpSocket()} {
		if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	q.process, err = startProcess(cmd, unix.SIGKILL, q.hangUp)
	if err != nil {
		return err
	}
	return q.connect()
}

// The path of a socket has at most 107 bytes, which that of the project's
// folder may exceed, so they lie in /tmp.
func (q *qemu) agentSocket() string {
	return filepath.Join(os.TempDir(), filepath.Base(q.m.dir)+".agent")
}
func (q *qemu) qmpSocket() string {
	return filepath.Join(os.TempDir(), filepath.Base(q.m.dir)+".qmp")
}

// filesArg tells the machine's agent whether there is a disk with its files.
func (q *qemu) filesArg() string {
	if q.m.everRan {
		return ""
	}
	return "files=yes "
}

// args are qemu's arguments.
func (q *qemu) args() []string {
	// One thread, with which a main job takes 6 % longer: before QEMU 8.1 one CPU translates
	// code that another is just changing (fixed by deba78709a, "Always lock pages before
	// translation"), and a kernel, which changes itself, ends by an int3 now and then.
	accel := []string{"-accel", "tcg,thread=single,tb-size=256", "-cpu", q.cpu}
	if q.kvm {
		accel = []string{"-accel", "kvm", "-cpu", "host"}
	}
	args := slices.Concat(accel, q.devices, []string{
		"-machine", q.machine, "-smp", "2", "-m", fmt.Sprint(q.memory), "-nodefaults", "-no-user-config", "-display", "none",
		"-kernel", q.kernel.image, "-initrd", q.kernel.initrd,
		"-append", "console=" + q.console + " " + q.filesArg() + kernelArgs,
		"-no-reboot",
		"-chardev", "file,id=console,append=on,path=" + q.m.console,
		// Whoever is killed has written what the machine has flushed.
		"-drive", "file=" + q.disk + ",if=none,id=root,format=qcow2,cache=unsafe", "-device", "virtio-blk,drive=root,serial=root",
		"-device", "virtio-rng",
		"-chardev", "socket,id=agent,server=on,wait=off,path=" + q.agentSocket(),
		"-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=agent",
		"-qmp", "unix:" + q.qmpSocket() + ",server=on,wait=off",
	})
	for i, nic := range q.nics {
		device := fmt.Sprintf("virtio-net,id=eth%d,netdev=net%d", i, i)
		if nic.MAC != "" {
			device += ",mac=" + nic.MAC
		}
		// Files that a process is given begin at 3.
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net%d,fd=%d", i, 3+i), "-device", device)
	}
	// After the NICs, whose slots have to stay: networkd's DHCP client is known by them.
	if !q.m.everRan {
		args = append(args, "-drive", "file="+q.files+",if=none,id=files,format=raw,readonly=on", "-device", "virtio-blk,drive=files,serial=files")
	}
	return args
}

// kernelArgs are the kernel's and systemd's. The serial console is for what
// they say: a login on it would hang up whoever else writes there. What Debian
// does at every boot or once a day, and no test is about, takes an emulated CPU
// many seconds. One that has to wait for a busy host fails the kernel's check of
// its timer (Documentation/admin-guide/kernel-parameters.txt, no_timer_check).
var kernelArgs = "loglevel=5 net.ifnames=0 mitigations=off no_timer_check panic=1 systemd.mask=" + strings.Join([]string{
	"serial-getty@ttyS0.service", "getty@tty1.service", "e2scrub_reap.service", "e2scrub_all.timer", "apt-daily.timer", "apt-daily-upgrade.timer",
	"man-db.timer", "fstrim.timer", "dpkg-db-backup.timer", "modprobe@drm.service", "modprobe@efi_pstore.service", "modprobe@fuse.service",
}, " systemd.mask=")

// connect connects to the agent, in whose port qemu keeps what is sent until
// the machine has got so far.
func (q *qemu) connect() error {
	var conn net.Conn
	for deadline := time.Now().Add(bootTimeout); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if conn, err = net.Dial("unix", q.agentSocket()); err == nil {
			break
		}
		select {
		case <-q.exited():
			return fmt.Errorf("qemu has ended: %s", q.m.Console())
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("connect to the agent: %w", err)
		}
	}
	go func() {
		// The machine has no name that a key could be for.
		config := &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()}
		c, channels, requests, err := ssh.NewClientConn(conn, "agent", config)
		if err != nil {
			conn.Close()
			return
		}
		q.mu.Lock()
		defer q.mu.Unlock()
		q.client = ssh.NewClient(c, channels, requests)
	}()
	return nil
}

// hangUp forgets the agent of a machine that has ended.
func (q *qemu) hangUp() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.client != nil {
		_ = q.client.Close()
	}
	q.client = nil
	return nil
}

func (q *qemu) exec(ctx context.Context, c Command) error {
	q.mu.Lock()
	client := q.client
	q.mu.Unlock()
	if client == nil {
		return errors.New("the machine's agent is not running yet")
	}
	session, err := client.NewSession()
	if err != nil {
		return fmt.Errorf("ask the machine's agent: %w", err)
	}
	defer func() { _ = session.Close() }()
	defer context.AfterFunc(ctx, func() { _ = session.Close() })()
	session.Stdin, session.Stdout, session.Stderr = c.Stdin, c.Stdout, c.Stderr
	args, err := json.Marshal(c.Args)
	if err != nil {
		return err
	}
	err = session.Run(string(args))
	var exit *ssh.ExitError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit):
		return &ExitError{Status: exit.ExitStatus()}
	}
	return err
}

func (q *qemu) shutDown() error {
	_, err := q.m.Run("systemctl", "poweroff", "--no-block")
	return err
}

func (q *qemu) kill() { _ = q.cmd.Process.Kill() }

func (q *qemu) setCarrier(nic int, on bool) error {
	return q.qmp("set_link", map[string]any{"name": fmt.Sprintf("eth%d", nic), "up": on})
}

// qmp runs a command of QEMU's own (QEMU Machine Protocol).
func (q *qemu) qmp(command string, arguments map[string]any) error {
	conn, err := net.Dial("unix", q.qmpSocket())
	if err != nil {
		return err
	}
	defer conn.Close()
	to, from := json.NewEncoder(conn), json.NewDecoder(conn)
	for _, request := range []map[string]any{{"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}} {
		if err := to.Encode(request); err != nil {
			return err
		}
		if err := answer(from); err != nil {
			return fmt.Errorf("qmp %s: %w", request["execute"], err)
		}
	}
	return nil
}

// answer reads on until the answer to a command, which greeting and events
// may precede.
func answer(from *json.Decoder) error {
	for {
		var reply struct {
			Return, QMP json.RawMessage
			Error       *struct{ Desc string }
		}
		switch err := from.Decode(&reply); {
		case err != nil:
			return err
		case reply.Error != nil:
			return errors.New(reply.Error.Desc)
		case reply.Return != nil:
			return nil
		}
	}
}

func (q *qemu) destroy() error {
	var errs []error
	for _, nic := range q.nics {
		file, err := openTap(nic, false)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		file.Close()
	}
	for _, socket := range []string{q.agentSocket(), q.qmpSocket()} {
		_ = os.Remove(socket)
	}
	return errors.Join(errs...)
}

// openTap opens a card's port on the LAN, a tap device, which is made if it
// is not there, and stays after the file is closed if it is to.
func openTap(nic NIC, stay bool) (*os.File, error) {
	lan, err := ns.GetNS(nic.LAN)
	if err != nil {
		return nil, err
	}
	defer lan.Close()
	var file *os.File
	err = lan.Do(func(ns.NetNS) error {
		if file, err = os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
			return err
		}
		request, err := unix.NewIfreq(nic.Port)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		fd := int(file.Fd())
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
			return fmt.Errorf("TUNSETIFF: %w", err)
		}
		persist := 0
		if stay {
			persist = 1
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, persist); err != nil {
			return fmt.Errorf("TUNSETPERSIST: %w", err)
		}
		if !stay {
			return nil
		}
		return setUp(nic.Port, true)
	})
	if err != nil && file != nil {
		file.Close()
	}
	return file, err
}
