package runtimes

import (
	"fmt"
	"os"
	"testing"

	machines "macvlan-vip/tests/machine"
	"macvlan-vip/tests/page"
	"macvlan-vip/tests/testnet"
)

const (
	// nomadImage is the image of the page's job, and nomadPause the one that
	// Nomad runs in each group's network namespace.
	nomadImage = "haproxy:lts"
	nomadPause = "gcr.io/google_containers/pause-amd64:3.1"
)

// newNomad is a server of Nomad and two clients with Docker, which have the page's
// network and configuration.
func newNomad(t testing.TB) *cluster {
	t.Helper()
	nomad := os.Getenv("NOMAD")
	if nomad == "" {
		t.Skip("NOMAD names no nomad; `make test-nomad` builds one and runs this")
	}
	c := newCluster(t)
	c.control.starts("nomad.service")
	for _, n := range c.all() {
		n.install("usr/local/bin", nomad)
		n.m.MustWrite(t, "etc/nomad.d/agent.hcl", fmt.Sprintf("data_dir = \"/var/lib/nomad\"\ndisable_update_check = true\nadvertise {\n  http = %q\n  rpc = %[1]q\n  serf = %[1]q\n}\n", n.four))
		n.m.MustWrite(t, "etc/systemd/system/nomad.service", "[Unit]\nAfter=docker.service\n[Service]\nExecStart=/usr/local/bin/nomad agent -config=/etc/nomad.d\nKillMode=process\nRestart=always\n")
	}
	c.control.m.MustWrite(t, "etc/nomad.d/server.hcl", "server {\n  enabled = true\n  bootstrap_expect = 1\n}\n")
	for _, n := range c.workers {
		n.m.MustWrite(t, "etc/nomad.d/client.hcl", fenced(t, "Nomad", "hcl"))
		n.m.MustWrite(t, "opt/cni/config/web.conflist", fenced(t, "Runtimes that call CHECK", "json"))
		n.docker()
		n.starts("docker.service", "nomad.service")
		servers := fmt.Sprintf("servers = [%q]\n  network_interface = \"eth0\"", c.control.four)
		if n.m.Kind == machines.Nspawn {
			servers += fmt.Sprintf("\n  cgroup_parent = %q", n.containers)
		}
		n.m.MustWrite(t, "etc/nomad.d/servers.hcl", "client {\n  "+servers+"\n}\n")
	}
	c.boot(c.all()...)
	for _, n := range c.workers {
		n.sh("docker import --change 'ENTRYPOINT [\"/answer\"]' --change 'CMD [\"serve\"]' /root/answer.tar " + nomadImage)
		n.sh("docker import --change 'ENTRYPOINT [\"/answer\"]' --change 'CMD [\"pause\"]' /root/answer.tar " + nomadPause)
	}
	testnet.Within(t, c.control.patience, "two clients are ready", func() error {
		_, err := c.control.try("test $(nomad node status | grep -cw ready) = 2")
		return err
	})
	return c
}

// TestNomad runs Nomad 1.6.1, the last release under an open-source licence: a
// job with the page's network, which starts, stops, and moves between clients.
func TestNomad(t *testing.T) {
	c := newNomad(t)
	before := c.states()
	c.nomadJob("runtimes.md", 1)
	c.holder(vip4)
	c.reached(vip4, vip6)
	c.control.sh("nomad job stop -detach -purge web")
	c.left(before)

	c.nomadJob("clusters.md", 0)
	first := c.holder(vip4)
	c.reached(vip4, vip6)
	steps := blocks(t, "Nomad", "sh") // drain, end of the drain
	outage := c.asked(vip4, vip6)
	first.sh(steps[0])
	second := c.holderAfter(vip4, first)
	c.reached(vip4, vip6)
	t.Logf("a drain: the LAN has no answer for %s", outage())
	first.left(before[first])
	first.sh(steps[1])

	outage = c.asked(vip4, vip6)
	second.m.Cut()
	first = c.holderAfter(vip4, second)
	first.sees(vip4, first.four, first.try)
	first.sees(vip6, peer6, c.lan.Shell)
	t.Logf("a power cut: the LAN has no answer for %s", outage())
	c.boot(second)
	c.reached(vip4, vip6)
	if now := c.holder(vip4); now != first {
		t.Errorf("the VIP went to %s when that was back", now.name)
	}
	c.control.sh("nomad job stop -detach -purge web")
	c.left(before)
}

// nomadJob runs a job of a page.
func (c *cluster) nomadJob(file string, number int) {
	c.t.Helper()
	found, err := page.Blocks("../../docs/"+file, "Nomad", "hcl")
	if err != nil {
		c.t.Fatal(err)
	}
	c.control.m.MustWrite(c.t, "root/web.nomad.hcl", found[number])
	c.control.sh("nomad job run -detach /root/web.nomad.hcl")
}
