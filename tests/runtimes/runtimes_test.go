// Package runtimes runs containers on virtual IPs, by the container runtimes
// that people have.
package runtimes

import (
	"os"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	os.Exit(testnet.Plugins(m,
		"macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route", "macvlan-vip/systemd/cmd/systemd-netns-helper",
		"github.com/containernetworking/plugins/plugins/ipam/static",
		"github.com/containernetworking/plugins/plugins/main/loopback",
		"github.com/containernetworking/cni/cnitool",
		"macvlan-vip/tests/runtimes/answer",
	))
}

// The VIPs in README.md.
const (
	vip4 = "192.0.2.10"
	vip6 = "2001:db8::10"
)

func newPodman(t testing.TB) *machine {
	t.Helper()
	m := newMachine(t, "podman", "runc")
	m.write("/etc/containers/containers.conf", fenced(t, "podman 4", "toml"))
	m.write("/etc/cni/net.d/web.conflist", fenced(t, "The network", "json"))
	return m
}

// podman runs a podman command. The flags before it are for a machine without
// systemd, and with no storage driver's kernel support.
func (m *machine) podman(args ...string) string {
	m.t.Helper()
	flags := []string{
		"podman", "--cgroup-manager=cgroupfs", "--runtime=runc", "--storage-driver=vfs", "--events-backend=none",
	}
	return m.run(append(flags, args...)...)
}

// podmanRun starts the container web on a network. The limits are ones that
// this user may set everywhere.
func (m *machine) podmanRun(network string) {
	m.t.Helper()
	args := []string{
		"run", "--detach", "--name=web", "--network=" + network, "--cgroup-parent=" + m.cgroup,
		"--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000", "--rootfs", m.root,
	}
	m.podman(append(args, serve...)...)
}

func TestPodman(t *testing.T) {
	m := newPodman(t)
	before := m.host.Snapshot()
	for range 2 { // the second start is at once, with the same VIPs
		m.podmanRun("web")
		m.reached(vip4, vip6)
		m.podman("rm", "--force", "--time=0", "web")
		m.clean(before)
	}
}

// TestPodmanJoins is podman 5's way, which has dropped CNI: the shim brings the
// VIPs, and a container joins its network namespace.
func TestPodmanJoins(t *testing.T) {
	m := newPodman(t)
	before := m.host.Snapshot()
	m.run("ip", "netns", "add", "web")
	m.run("/usr/local/bin/systemd-netns-helper", "add", "web")
	with := m.host.Snapshot()
	for range 2 {
		m.podmanRun("ns:/run/netns/web")
		m.reached(vip4, vip6)
		m.podman("rm", "--force", "--time=0", "web")
		if after := m.host.Snapshot(); after != with {
			t.Errorf("a container that joins and leaves changes the host:\n%s\nbefore:\n%s", after, with)
		}
	}
	m.run("/usr/local/bin/systemd-netns-helper", "clear", "web")
	if out := m.run("ip", "netns", "list"); strings.TrimSpace(out) != "" {
		t.Errorf("namespaces are left: %s", out)
	}
	m.clean(before)
}

// TestContainerd runs ctr in the foreground: with --detach it does not remove
// a container from its CNI network, neither then nor on `ctr task delete`.
func TestContainerd(t *testing.T) {
	m := newContainerd(t)
	before := m.host.Snapshot()
	for range 2 {
		web := m.ctrRun("web", "--rm")
		m.reached(vip4, vip6)
		m.ctr("task", "kill", "--signal=KILL", "web")
		if err := web.wait(t); err == nil {
			t.Error("ctr tells nothing of a container that was killed")
		}
		m.clean(before)
	}
}

// TestContainerdGarbage is of what `ctr run --detach` leaves, for which
// README.md gives two remedies.
func TestContainerdGarbage(t *testing.T) {
	m := newContainerd(t)
	before := m.host.Snapshot()
	m.ctrLeak()
	if m.host.Snapshot() == before {
		t.Error("ctr removes a detached container from its network: README.md says that it does not")
	}
	other := m.ctrRun("other", "--rm")
	if err := other.wait(t); err == nil || !strings.Contains(other.String(), vip4) {
		t.Errorf("another container gets a VIP that is taken: %v: %s", err, other)
	}
	m.run("env", "CNI_PATH=/opt/cni/bin", "NETCONFPATH=/etc/cni/net.d", "cnitool", "gc", "web", "/run/netns/any")
	m.clean(before)

	m.ctrLeak()
	web := m.ctrRun("web", "--rm")
	m.reached(vip4, vip6)
	m.ctr("task", "kill", "--signal=KILL", "web")
	_ = web.wait(t)
	m.clean(before)
}

// ctrLeak runs a container, and removes it but for its network.
func (m *machine) ctrLeak() {
	m.t.Helper()
	if err := m.ctrRun("web", "--detach").wait(m.t); err != nil {
		m.t.Fatal(err)
	}
	m.reached(vip4, vip6)
	m.ctr("task", "delete", "--force", "web")
	m.ctr("container", "delete", "web")
}

func newContainerd(t testing.TB) *machine {
	t.Helper()
	return newContainerdWith(t, fenced(t, "containerd", "toml"))
}

func newContainerdWith(t testing.TB, config string) *machine {
	t.Helper()
	m := newMachine(t, "containerd", "runc")
	m.write("/etc/containerd/config.toml", config)
	m.write("/etc/cni/net.d/web.conflist", fenced(t, "The network", "json"))
	m.start("containerd")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := m.command("ctr", "version").Run()
		if err == nil {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatalf("containerd does not answer: %v", err)
		}
	}
}

// ctr runs a ctr command.
func (m *machine) ctr(args ...string) string {
	m.t.Helper()
	return m.run(append([]string{"ctr"}, args...)...)
}

// ctrRun starts a container on the first network in /etc/cni/net.d.
func (m *machine) ctrRun(name, flag string) *background {
	m.t.Helper()
	args := []string{
		"ctr", "run", flag, "--cni", "--runc-binary=/usr/sbin/runc", "--cgroup=" + m.cgroup + "/" + name,
		"--rootfs", m.root, name,
	}
	return m.start(append(args, serve...)...)
}

// wait waits until a background command ends by itself.
func (b *background) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-b.done:
		return err
	case <-time.After(20 * time.Second):
		t.Fatalf("still running: %s", b)
		return nil
	}
}
