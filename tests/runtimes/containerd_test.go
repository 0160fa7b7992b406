package runtimes

import (
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

// TestContainerd runs ctr in the foreground: with --detach it does not remove
// a container from its CNI network, neither then nor on `ctr task delete`.
func TestContainerd(t *testing.T) {
	m := newCtr(t)
	before := m.state()
	steps := blocks(t, "containerd", "sh") // run, kill
	for range 2 {
		web := m.start(steps[0])
		m.reached(vip4, vip6)
		m.sh(steps[1])
		if err := web.wait(t); err == nil {
			t.Error("ctr tells nothing of a container that was killed")
		}
		m.clean(before)
	}
}

// TestContainerdGarbage is of what `ctr run --detach` leaves, for which the page
// gives two remedies.
func TestContainerdGarbage(t *testing.T) {
	m := newCtr(t)
	before := m.state()
	steps := blocks(t, "containerd", "sh") // run, kill, collect garbage
	m.ctrLeak()
	if m.state() == before {
		t.Error("ctr removes a detached container from its network: the page says that it does not")
	}
	other := m.start(strings.Replace(steps[0], " web", " other", 1))
	if err := other.wait(t); err == nil || !strings.Contains(other.String(), vip4) {
		t.Errorf("another container gets a VIP that is taken: %v: %s", err, other)
	}
	m.sh(steps[2])
	m.clean(before)

	m.ctrLeak()
	web := m.start(steps[0])
	m.reached(vip4, vip6)
	m.sh(steps[1])
	_ = web.wait(t)
	m.clean(before)
}

// ctrLeak runs a container, and removes it but for its network.
func (m *machine) ctrLeak() {
	m.t.Helper()
	m.sh(strings.Replace(fenced(m.t, "containerd", "sh"), "--rm", "--detach", 1))
	m.reached(vip4, vip6)
	m.sh("ctr task delete --force web; ctr container delete web")
}

// noCRI leaves out what needs more privilege than ctr.
const noCRI = `version = 2
disabled_plugins = ["io.containerd.grpc.v1.cri"]
`

// newCtr is a host with containerd and the page's image and network.
func newCtr(t testing.TB) *machine {
	t.Helper()
	m := newContainerd(t, noCRI)
	// A process that goes on in the cgroup of this test's end with it.
	m.wrap("ctr", `
if [ "$1" = run ]; then
	shift
	for name; do :; done
	set -- run --runc-binary=/usr/sbin/runc --cgroup=`+m.cgroup+`/"$name" "$@"
fi
exec /usr/bin/ctr "$@"`)
	m.load("ctr images import", ctrImage, "serve")
	return m
}

const ctrImage = podmanImage + ":latest"

func newContainerd(t testing.TB, config string) *machine {
	t.Helper()
	requirePackages(t, "containerd", "runc")
	m := newMachine(t, "")
	m.write("/etc/cni/net.d/web.conflist", fenced(t, "The network", "json"))
	m.startContainerd(config)
	return m
}

func (m *machine) startContainerd(config string) {
	m.t.Helper()
	m.write("/etc/containerd/config.toml", config)
	m.start("containerd")
	testnet.Eventually(m.t, "containerd answers", func() error {
		_, err := m.try("ctr version")
		return err
	})
}

// wait waits until a background command ends by itself.
func (b *background) wait(t testing.TB) error {
	t.Helper()
	select {
	case err := <-b.done:
		return err
	case <-time.After(testnet.Patience):
		t.Fatalf("still running: %s", b)
		return nil
	}
}

// criConfig is the page's, and the test's own: an image for the pod's sandbox,
// and little privilege.
func criConfig(t testing.TB) string {
	return fenced(t, "CRI", "toml") + `
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "` + criImage + `"
disable_apparmor = true
restrict_oom_score_adj = true
`
}

const criImage = "localhost/answer:1"

func TestCRI(t *testing.T) {
	m := newContainerd(t, criConfig(t))
	m.load("ctr --namespace=k8s.io images import", criImage, "pause")
	m.pods(newCRI(t, m.path("/run/containerd/containerd.sock")))
}
