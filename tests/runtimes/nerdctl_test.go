package runtimes

import (
	"os"
	"os/exec"
	"testing"
)

// TestNerdctl runs nerdctl on containerd of Debian 13, in namespaces. Nerdctl
// takes minutes to build, so `make test-runtimes` does, and names it.
func TestNerdctl(t *testing.T) {
	nerdctl := os.Getenv("NERDCTL")
	if nerdctl == "" {
		t.Skip("NERDCTL names no nerdctl; `make test-runtimes` builds one and runs this")
	}
	m := newMachine(t, trixie(t))
	if out, err := exec.Command("cp", nerdctl, m.path("/usr/local/bin/nerdctl.real")).CombinedOutput(); err != nil {
		t.Fatalf("install nerdctl: %v: %s", err, out)
	}
	m.wrap("nerdctl", `
if [ "$1" = run ]; then
	shift
	set -- run --cgroup-parent=`+m.cgroup+` "$@"
fi
exec /usr/local/bin/nerdctl.real --cgroup-manager=cgroupfs --snapshotter=native "$@"`)
	m.startContainerd(noCRI)
	m.write("/etc/cni/net.d/vips.conflist", fenced(t, "nerdctl", "json"))
	m.load("nerdctl load --input", podmanImage, "serve")
	nerdctlLife(m.site)
}

// nerdctlLife runs, restarts and removes a container, by itself and by compose.
func nerdctlLife(s site) {
	s.t.Helper()
	steps := blocks(s.t, "nerdctl", "sh") // plugins, run, restart, remove
	s.sh(steps[0])
	before := s.state()
	s.sh(steps[1])
	s.reached(vip4, vip6)
	s.sh(steps[2])
	s.reached(vip4)
	s.refused("nerdctl run --name other --net vips --ip "+vip4+" "+podmanImage, vip4)
	s.sh("nerdctl rm --force other || true")
	s.sh(steps[3])
	s.silent(vip4)
	s.clean(before)
	s.sh("mkdir -p /root/web && cat >/root/web/compose.yaml <<'END'\n" + fenced(s.t, "nerdctl", "yaml") + "END")
	s.sh("cd /root/web && nerdctl compose up --detach")
	s.reached(vip4)
	s.sh("cd /root/web && nerdctl compose down")
	s.silent(vip4)
	s.clean(before)
}
