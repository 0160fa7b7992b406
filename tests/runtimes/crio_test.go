package runtimes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"macvlan-vip/tests/testnet"
)

// crioConfig is the page's, and the test's own: an image for the pod's sandbox,
// and what a host without systemd and without overlays has.
func crioConfig(t testing.TB) string {
	return fenced(t, "CRI-O", "toml") + `
[crio]
storage_driver = "vfs"
[crio.image]
pause_image = "` + criImage + `"
pause_command = "" # the image's
[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
pinns_path = "/usr/local/bin/pinns"
[crio.runtime.runtimes.runc]
runtime_path = "/usr/local/bin/runc"
monitor_path = "/usr/bin/conmon"
`
}

// TestCRIO runs CRI-O, which takes minutes to build, so `make test-cri-o` does.
func TestCRIO(t *testing.T) {
	crio := os.Getenv("CRIO")
	if crio == "" {
		t.Skip("CRIO names no folder with crio and pinns; `make test-cri-o` builds them and runs this")
	}
	requirePackages(t, "podman", "conmon", "runc")
	m := newMachine(t, "")
	for _, program := range []string{"crio", "pinns"} {
		if out, err := exec.Command("cp", filepath.Join(crio, program), m.path("/usr/local/bin")).CombinedOutput(); err != nil {
			t.Fatalf("install %s: %v: %s", program, err, out)
		}
	}
	m.write("/etc/cni/net.d/web.conflist", fenced(t, "Runtimes that call CHECK", "json"))
	m.sh("mkdir -p /etc/crio")
	m.write("/etc/crio/crio.conf", crioConfig(t))
	// CRI-O shields a sandbox from the out-of-memory killer, which takes a privilege.
	m.wrap("runc", `
previous=
for arg; do
	[ "$previous" != --bundle ] || sed -i 's/"oomScoreAdj": -[0-9]*/"oomScoreAdj": 0/' "$arg/config.json"
	previous=$arg
done
exec /usr/sbin/runc "$@"`)
	m.podmanWrapper()
	m.load("podman load --input", criImage, "pause")
	before := m.crash()
	m.start("crio")
	testnet.Eventually(t, "CRI-O removes what is no pod's", func() error {
		if after := m.state(); after != before {
			return fmt.Errorf("there is\n%s\nand not\n%s", after, before)
		}
		return nil
	})
	testnet.Eventually(t, "CRI-O answers", func() error {
		_, err := m.try("test -S /run/crio/crio.sock")
		return err
	})
	m.pods(newCRI(t, m.path("/run/crio/crio.sock")))
}

// crash leaves what a pod does whose host has not been asked to stop it, and gives
// what there was before.
func (m *machine) crash() (before string) {
	m.t.Helper()
	before = m.state()
	m.sh("ip netns add stale; CNI_PATH=/opt/cni/bin NETCONFPATH=/etc/cni/net.d cnitool add web /run/netns/stale; ip netns del stale")
	if m.state() == before {
		m.t.Error("cnitool leaves nothing")
	}
	return before
}
