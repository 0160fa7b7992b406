package runtimes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	machines "macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

// booted is a host that has booted Debian 13, with the project and its
// container runtimes installed.
type booted struct {
	site
	m *machines.Machine
}

// newBooted boots a host on a LAN, of the kind that MACHINE names.
func newBooted(t *testing.T) *booted {
	t.Helper()
	lan := testnet.New(t)
	m := machines.NewFor(t, []string{"--lines", "200"}, machines.Suite("trixie"), machines.With(runtimes13...), machines.Memory(1536),
		machines.Connect(machines.NIC{LAN: lan.Path(), Port: "port", Addresses: []string{host4 + "/24", host6 + "/64"}}))
	lan.IP("link set port up")
	newLAN(lan, "port")
	b := &booted{m: m}
	b.site = site{t: t, lan: lan, patience: 2 * testnet.Patience * time.Duration(m.Slowness()), try: func(script string) (string, error) {
		return m.Run("env", "HOME=/root", "sh", "-euc", script)
	}}
	b.stage(podmanImage)
	if m.Kind == machines.Nspawn {
		b.withoutCgroups()
	}
	start := time.Now()
	m.MustBoot(t)
	t.Logf("kernel %s, %s, up after %s", b.sh("uname -r"), b.sh("podman --version"), time.Since(start).Round(time.Second))
	return b
}

// withoutCgroups has podman leave alone the cgroups of a machine that is a
// container on cgroup v1 itself.
func (b *booted) withoutCgroups() {
	b.t.Helper()
	b.m.MustWrite(b.t, "etc/containers/containers.conf", `[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
keyring = false
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
`)
	b.m.MustWrite(b.t, "etc/containers/storage.conf", "[storage]\ndriver = \"vfs\"\nrunroot = \"/run/containers/storage\"\ngraphroot = \"/var/lib/containers/storage\"\n")
	b.m.MustWrite(b.t, "etc/containers/systemd/web.container.d/test.conf", "[Container]\nPodmanArgs=--cgroups=disabled\n")
}

// stage writes the image of a server, by the name of one in the page.
func (b *booted) stage(name string) {
	b.t.Helper()
	program := filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], "answer")
	b.m.MustWrite(b.t, "root/server.tar", string(image(b.t, name, program, "serve")))
}

// units writes the page's files of a section, each below the path in the text
// above it.
func (b *booted) units(section string, names ...string) {
	b.t.Helper()
	for i, text := range blocks(b.t, section, "ini") {
		b.m.MustWrite(b.t, "etc/containers/systemd/"+names[i], text)
	}
}

const quadlets = "At boot, by Quadlet"

func TestBootedPodman(t *testing.T) {
	b := newBooted(t)
	b.sh("podman load --input /root/server.tar")
	podman5(b.site)
	b.rootless()
	before := b.state()
	b.quadlet()
	b.quadletAfterBoot()
	b.sh("podman network rm --force vips")
	b.clean(before)
	b.joins()
	b.clean(before)
}

// rootless: a user without privileges is told why it can't be.
func (b *booted) rootless() {
	b.t.Helper()
	b.sh("useradd --create-home user")
	b.refused("runuser -u user -- env HOME=/home/user sh -c 'cd && podman network create --driver macvlan-vip --opt parent=eth0 --subnet 192.0.2.0/24 mine'",
		"run podman as root")
}

// quadlet starts the page's units, and restarts the service, which makes the
// container anew.
func (b *booted) quadlet() {
	b.t.Helper()
	b.units(quadlets, "vips.network", "web.container")
	for _, step := range blocks(b.t, quadlets, "sh") {
		b.sh(step)
	}
	b.reached(vip4, vip6)
	b.sh("systemctl restart web")
	b.reached(vip4, vip6)
	b.sh("podman kill --signal KILL web") // Restart=always
	b.reached(vip4, vip6)
}

// quadletAfterBoot: both an orderly end of the machine and a power cut bring the
// container back, by itself.
func (b *booted) quadletAfterBoot() {
	b.t.Helper()
	if err := b.m.PowerOff(); err != nil {
		b.t.Fatal(err)
	}
	b.silent(vip4)
	b.m.MustBoot(b.t)
	b.reached(vip4, vip6)
	b.m.Cut()
	b.m.MustBoot(b.t)
	b.reached(vip4, vip6)
	b.sh("systemctl stop web")
	b.silent(vip4)
	b.sh("rm /etc/containers/systemd/vips.network /etc/containers/systemd/web.container; systemctl daemon-reload")
}

// joins is the other way: the shim's namespace, which the container joins.
func (b *booted) joins() {
	b.t.Helper()
	const section = "podman, in the namespace of a service"
	b.m.MustWrite(b.t, "etc/cni/net.d/web.conflist", fenced(b.t, "The network", "json"))
	b.units(section, "web.container")
	b.sh(fenced(b.t, section, "sh"))
	b.reached(vip4, vip6)
	b.sh("systemctl restart web")
	b.reached(vip4, vip6)
	b.sh("systemctl stop web")
	testnet.Within(b.t, b.patience, "the shim has stopped", func() error {
		_, err := b.try(`test "$(systemctl is-active systemd-netns@web)" = inactive`)
		return err
	})
	if left := strings.TrimSpace(b.sh("ip netns list")); left != "" {
		b.t.Errorf("namespaces are left: %s", left)
	}
}
