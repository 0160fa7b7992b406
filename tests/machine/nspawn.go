package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nspawn is a systemd-nspawn container with a network namespace of its own.
type nspawn struct {
	m    *Machine
	nics []NIC
	// netns is the machine's network. Each boot has a new one; the cards go
	// from one to the next, and so their other ends stay.
	netns   ns.NetNS
	cgroups []string
	// outlived are the network namespaces that services had when the machine was
	// killed.
	outlived []ns.NetNS
	*process
}

func newNspawn(m *Machine, o options) (driver, error) {
	n := &nspawn{m: m, nics: o.nics}
	var err error
	if n.cgroups, err = makeCgroups(filepath.Base(m.dir)); err != nil {
		return nil, err
	}
	if n.netns, err = testutils.NewNS(); err != nil {
		return nil, err
	}
	for i, nic := range o.nics {
		if err := n.plug(i, nic); err != nil {
			return nil, errors.Join(fmt.Errorf("cable eth%d: %w", i, err), n.destroy())
		}
	}
	return n, nil
}

func (n *nspawn) slowness() int { return 1 }

// plug makes a card, down, and the link at the other end of its cable.
func (n *nspawn) plug(number int, nic NIC) error {
	lan, err := ns.GetNS(nic.LAN)
	if err != nil {
		return err
	}
	defer lan.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("eth%d", number)
	if err := n.netns.Do(func(ns.NetNS) error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nic.Port, PeerNamespace: netlink.NsFd(int(lan.Fd()))})
		if err != nil || nic.MAC == "" {
			return err
		}
		return setMAC(attrs.Name, nic.MAC)
	}); err != nil {
		return err
	}
	return linkUp(lan, nic.Port, true)
}

// replug gives the machine a new network, into which its cards go, down.
func (n *nspawn) replug() error {
	next, err := testutils.NewNS()
	if err != nil {
		return err
	}
	err = errors.Join(n.cardsDown(), n.endOutlived(), n.netns.Do(func(ns.NetNS) error {
		for i := range n.nics {
			link, err := netlink.LinkByName(fmt.Sprintf("eth%d", i))
			if err != nil {
				return err
			}
			if err := netlink.LinkSetNsFd(link, int(next.Fd())); err != nil {
				return err
			}
		}
		return nil
	}))
	old := n.netns
	n.netns = next
	return errors.Join(err, removeNS(old))
}

// endOutlived removes the links of namespaces of a machine that was killed. The kernel,
// which goes on, keeps such a namespace for as long as it has a connection of it to end,
// and would send through the next boot's card.
func (n *nspawn) endOutlived() error {
	var errs []error
	for _, netns := range n.outlived {
		errs = append(errs, netns.Do(func(ns.NetNS) error {
			links, err := netlink.LinkList()
			for _, link := range links {
				if link.Type() == "macvlan" {
					err = errors.Join(err, netlink.LinkDel(link))
				}
			}
			return err
		}), netns.Close())
	}
	n.outlived = nil
	return errors.Join(errs...)
}

// rememberNamespaces opens the namespaces that the machine has named.
func (n *nspawn) rememberNamespaces(init int) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/root/run/netns/*", init))
	for _, name := range names {
		if netns, err := ns.GetNS(name); err == nil {
			n.outlived = append(n.outlived, netns)
		}
	}
}

func (n *nspawn) cardsDown() error {
	var errs []error
	for i := range n.nics {
		errs = append(errs, linkUp(n.netns, fmt.Sprintf("eth%d", i), false))
	}
	return errors.Join(errs...)
}

func removeNS(n ns.NetNS) error {
	n.Close()
	if err := unix.Unmount(n.Path(), unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Remove(n.Path())
}

func (n *nspawn) start() error {
	console, err := os.Create(n.m.console)
	if err != nil {
		return err
	}
	defer console.Close()
	cmd := exec.Command("sh", "-ec", `for dir in $1; do echo $$ >"$dir/cgroup.procs"; done; shift; exec "$@"`, "sh", strings.Join(n.cgroups, " "),
		"systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
		"--capability=CAP_NET_ADMIN", "--network-namespace-path="+n.netns.Path(), "--directory="+n.m.Path(""))
	// The machine is to set sysctls of its network, as a real one can.
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network")
	cmd.Stdout, cmd.Stderr = console, console
	// When whoever runs the tests is killed, nspawn ends the machine.
	n.process, err = startProcess(cmd, unix.SIGTERM, n.replug)
	return err
}

// init is the process of the machine's systemd.
func (n *nspawn) init() (int, error) {
	pid := n.cmd.Process.Pid
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
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

func (n *nspawn) exec(ctx context.Context, c Command) error {
	pid, err := n.init()
	if err != nil {
		return err
	}
	args := append([]string{"--target", strconv.Itoa(pid), "--all", "--wdns=/"}, c.Args...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	// nsenter has a child in the machine, which is to end with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return &ExitError{Status: exit.ExitCode()}
	}
	return err
}

func (n *nspawn) shutDown() error {
	pid, err := n.init()
	if err != nil {
		return err
	}
	// SIGRTMIN+4 makes systemd power off (systemd(1), "SIGNALS").
	return unix.Kill(pid, unix.Signal(34+4))
}

// kill kills the machine's first process, which takes all others of it along.
// Its cards go before, since the kernel that they belong to goes on answering.
func (n *nspawn) kill() {
	_ = n.cardsDown()
	pid, err := n.init()
	if err != nil {
		_ = n.cmd.Process.Kill()
		return
	}
	n.rememberNamespaces(pid)
	_ = unix.Kill(pid, unix.SIGKILL)
}

func (n *nspawn) setCarrier(nic int, on bool) error {
	lan, err := ns.GetNS(n.nics[nic].LAN)
	if err != nil {
		return err
	}
	defer lan.Close()
	return linkUp(lan, n.nics[nic].Port, on)
}

func (n *nspawn) destroy() error {
	errs := []error{removeNS(n.netns)}
	for _, dir := range n.cgroups {
		errs = append(errs, removeCgroup(dir))
	}
	return errors.Join(errs...)
}

// linkUp sets a link of a namespace up or down.
func linkUp(in ns.NetNS, name string, up bool) error {
	return in.Do(func(ns.NetNS) error { return setUp(name, up) })
}

func setUp(name string, up bool) error {
	link, err := netlink.LinkByName(name)
	switch {
	case err != nil:
		return err
	case up:
		return netlink.LinkSetUp(link)
	}
	return netlink.LinkSetDown(link)
}

func setMAC(name, mac string) error {
	addr, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetHardwareAddr(link, addr)
}
