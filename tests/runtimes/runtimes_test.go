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
		"macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route",
		"github.com/containernetworking/plugins/plugins/ipam/static",
		"github.com/containernetworking/cni/cnitool",
	))
}

// conflist is what README.md shows. Debian's podman and containerd do not know
// version 1.1.0 yet.
const conflist = `{
  "cniVersion": "1.0.0",
  "name": "web",
  "plugins": [
    {
      "type": "macvlan-vip",
      "master": "eth0",
      "ipam": {
        "type": "static",
        "addresses": [
          { "address": "192.0.2.10/24" },
          { "address": "2001:db8::10/64" }
        ]
      }
    },
    { "type": "hairpin-route" }
  ]
}
`

const (
	vip4 = "192.0.2.10"
	vip6 = "2001:db8::10"
)

const containersConf = `[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
`

const containerdConf = `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
`

func newPodman(t testing.TB) *machine {
	t.Helper()
	m := newMachine(t, "podman", "runc")
	m.write("/etc/containers/containers.conf", containersConf)
	m.write("/etc/cni/net.d/web.conflist", conflist)
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
	m.run("/usr/local/libexec/systemd-netns", "add", "web")
	with := m.host.Snapshot()
	for range 2 {
		m.podmanRun("ns:/run/netns/web")
		m.reached(vip4, vip6)
		m.podman("rm", "--force", "--time=0", "web")
		if after := m.host.Snapshot(); after != with {
			t.Errorf("a container that joins and leaves changes the host:\n%s\nbefore:\n%s", after, with)
		}
	}
	m.run("/usr/local/libexec/systemd-netns", "clear", "web")
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
		web := m.ctrRun("--rm")
		m.reached(vip4, vip6)
		m.ctr("task", "kill", "--signal=KILL", "web")
		if err := web.wait(t); err == nil {
			t.Error("ctr tells nothing of a container that was killed")
		}
		m.clean(before)
	}
}

// TestContainerdGarbage is of what `ctr run --detach` leaves: the kernel drops
// the service's link with its namespace, and libcni's GC has the rest removed.
func TestContainerdGarbage(t *testing.T) {
	m := newContainerd(t)
	before := m.host.Snapshot()
	if err := m.ctrRun("--detach").wait(t); err != nil {
		t.Fatal(err)
	}
	m.reached(vip4, vip6)
	m.ctr("task", "delete", "--force", "web")
	m.ctr("container", "delete", "web")
	if m.host.Snapshot() == before {
		t.Error("ctr removes a detached container from its network: README.md says that it does not")
	}
	m.run("env", "CNI_PATH=/opt/cni/bin", "NETCONFPATH=/etc/cni/net.d", "cnitool", "gc", "web", "/run/netns/any")
	m.clean(before)
}

func newContainerd(t testing.TB) *machine {
	t.Helper()
	m := newMachine(t, "containerd", "runc")
	m.write("/etc/containerd/config.toml", containerdConf)
	m.write("/etc/cni/net.d/web.conflist", conflist)
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

// ctrRun starts the container web on the first network in /etc/cni/net.d.
func (m *machine) ctrRun(flag string) *background {
	m.t.Helper()
	args := []string{
		"ctr", "run", flag, "--cni", "--runc-binary=/usr/sbin/runc", "--cgroup=" + m.cgroup + "/web", "--rootfs", m.root, "web",
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
