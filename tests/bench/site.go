package bench

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"macvlan-vip/tests/testnet"
)

const (
	hostAddr = "10.99.0.1"
	lanAddr  = "10.99.0.2"
)

// vips are n addresses of the LAN.
func vips(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("10.99.%d.%d/16", 1+i/250, 1+i%250))
	}
	return all
}

func addrOf(vip string) netip.Addr { return netip.MustParsePrefix(vip).Addr() }

// site is a host with an uplink eth0, a LAN, and a service's namespace, which
// is the same for all contenders and all rounds.
type site struct {
	t                  testing.TB
	host, lan, service *testnet.Namespace
	// dir holds networks and batches.
	dir  string
	vips []string
	// shared tells that another service holds mv-int, which stays, then.
	shared bool
}

// articlesLink is the article's mv-int on a host with other services: by that of
// the plugins, which answers no ARP, its way would reach nothing.
const articlesLink = "mv-article"

func newSite(t testing.TB, vips []string, shared bool) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), vips: vips, shared: shared}
	s.host, s.lan = testnet.NewHost(t, hostAddr+"/16")
	s.lan.AddAddress("port", lanAddr+"/16")
	s.service = testnet.New(t)
	// It keeps its own addresses from then on.
	s.service.IP("link set lo up")
	s.service.IP("link set lo down")
	if shared {
		s.host.IP("link add " + articlesLink + " link eth0 up type macvlan mode bridge")
		s.occupy(testnet.New(t), "holder", "10.99.254.1/16")
	}
	return s
}

// occupy attaches another service to the site's host, until the test ends.
func (s *site) occupy(service *testnet.Namespace, network, vip string) {
	s.t.Helper()
	s.writeNetwork(network, ours(quiet), vip)
	s.run(s.cnitool("add", network, service))
	s.t.Cleanup(func() { s.run(s.cnitool("del", network, service)) })
}

// call is a process that is measured.
type call struct {
	argv, env []string
}

// cnitool runs a verb on a network of the site's.
func (s *site) cnitool(verb, network string, service *testnet.Namespace) call {
	return call{
		argv: []string{"cnitool", verb, network, service.Path()},
		env:  []string{"NETCONFPATH=" + s.dir, "CNI_PATH=" + os.Getenv("PATH"), "PATH=" + os.Getenv("PATH"), "CNI_IFNAME=mv0"},
	}
}

// cost is what a call takes: time, and CPU time of all its processes but those
// that outlive it.
type cost struct{ wall, cpu time.Duration }

// run runs a call in the host's namespace; it must succeed.
func (s *site) run(c call) (took cost) {
	s.t.Helper()
	path, err := exec.LookPath(c.argv[0])
	if err != nil {
		s.t.Fatal(err)
	}
	// A file, not a pipe, which would need a goroutine to read it.
	out, err := os.CreateTemp(s.dir, "out-")
	if err != nil {
		s.t.Fatal(err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	cmd := &exec.Cmd{Path: path, Args: c.argv, Env: c.env, Stdout: out, Stderr: out}
	s.host.Do(func() error {
		began := time.Now()
		err = cmd.Run()
		took.wall = time.Since(began)
		return nil
	})
	if err != nil {
		said, _ := os.ReadFile(out.Name())
		s.t.Fatalf("%s: %v: %s", strings.Join(c.argv, " "), err, bytes.TrimSpace(said))
	}
	took.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return took
}

func (s *site) write(name, content string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// writeNetwork writes a conflist.
func (s *site) writeNetwork(name string, plugins []map[string]any, vips ...string) {
	s.t.Helper()
	s.write(name+".conflist", conflist(s.t, name, plugins, vips...))
}

// conflist is a network of plugins, the first of which has the VIPs.
func conflist(t testing.TB, name string, plugins []map[string]any, vips ...string) string {
	t.Helper()
	addresses := make([]map[string]string, len(vips))
	for i, vip := range vips {
		addresses[i] = map[string]string{"address": vip}
	}
	plugins[0]["ipam"] = map[string]any{"type": "static", "addresses": addresses}
	list, err := json.MarshalIndent(map[string]any{"cniVersion": "1.1.0", "name": name, "plugins": plugins}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(list)
}

// restore makes the service's namespace what it was at first, ends announcers,
// and lets the kernel finish.
func (s *site) restore() {
	s.t.Helper()
	for _, pid := range s.host.Processes("announce") {
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
	s.service.IP("link set lo down")
	time.Sleep(settle)
}

// passing is what differs from one making of a link to the next.
var passing = regexp.MustCompile(`(?m)^\d+: |@if\d+|link-netns\S* \S+|NO-CARRIER,|,LOWER_UP|state \S+`)

// snapshot is all that an attachment changes on host and service, sysctls of
// its links among it, as sorted lines: the kernel lists neighbours in any order.
func (s *site) snapshot() (lines []string) {
	s.t.Helper()
	for side, n := range map[string]*testnet.Namespace{"host: ": s.host, "service: ": s.service} {
		state := passing.ReplaceAllString(n.Snapshot(), "")
		n.Do(func() error {
			// It complains of keys that cannot be read.
			out, _ := exec.Command("sysctl", "-a", "-r", `\.(mv0|mv-int)\.`).Output()
			state += string(out)
			return nil
		})
		for line := range strings.Lines(state) {
			lines = append(lines, side+strings.TrimSpace(line))
		}
	}
	slices.Sort(lines)
	return lines
}
