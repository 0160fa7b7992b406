// demo shows the main job, whole, on a throwaway machine with a real systemd:
// the distribution's haproxy on two VIPs of the LAN, reached from its own host
// and from a LAN peer, then stopped without a trace. It prints what the
// machine prints, and ends with status 1 when any step is wrong.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"

	"macvlan-vip/tests/nspawn"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
	fmt.Println("\nEverything was as it should be.")
}

// stage is the scene: a host and a peer on one LAN, each a network namespace.
type stage struct {
	host, peer ns.NetNS
	m          *nspawn.Machine
}

func run() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("making namespaces takes root: run `sudo make demo`")
	}
	s := &stage{}
	defer func() { err = errors.Join(err, s.strike()) }()
	for _, step := range []func() error{s.buildLAN, s.buildMachine, func() error { return s.m.Boot() }, s.play} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) buildLAN() (err error) {
	if s.host, err = testutils.NewNS(); err != nil {
		return err
	}
	if s.peer, err = testutils.NewNS(); err != nil {
		return err
	}
	for _, cmd := range []string{
		"link add eth0 type veth peer name eth0 netns " + filepath.Base(s.peer.Path()),
		"link set lo up", "link set eth0 up", "address add 172.16.27.217/22 dev eth0",
	} {
		if _, err := in(s.host, "ip "+cmd); err != nil {
			return err
		}
	}
	for _, cmd := range []string{"link set eth0 up", "address add 172.16.27.5/22 dev eth0"} {
		if _, err := in(s.peer, "ip "+cmd); err != nil {
			return err
		}
	}
	return s.serveBackend()
}

// serveBackend serves, on the LAN peer, what haproxy balances to.
func (s *stage) serveBackend() error {
	return s.peer.Do(func(ns.NetNS) error {
		l, err := net.Listen("tcp", "172.16.27.5:8080")
		if err == nil {
			go func() { _ = http.Serve(l, http.HandlerFunc(greet)) }()
		}
		return err
	})
}

func greet(w http.ResponseWriter, r *http.Request) {
	client, _, _ := strings.Cut(r.Header.Get("X-Forwarded-For"), ",")
	fmt.Fprintf(w, "hello from the backend, asked by %s\n", client)
}

const haproxyConfig = `
defaults
	mode http
	timeout connect 5s
	timeout client 5s
	timeout server 5s
	option forwardfor
frontend vips
	bind 172.16.26.1:80
	bind 172.16.26.2:80
	default_backend peer
backend peer
	server peer 172.16.27.5:8080
`

func (s *stage) buildMachine() (err error) {
	fmt.Println("# A throwaway Debian machine with haproxy, as packaged, and `make install`")
	if s.m, err = nspawn.New(s.host.Path()); err != nil {
		return err
	}
	// It is started by hand below, for all to see.
	disable := exec.Command("systemctl", "--root="+s.m.Path(""), "disable", "--quiet", "haproxy.service")
	if out, err := disable.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return s.m.Write("etc/haproxy/haproxy.cfg", haproxyConfig)
}

// strike clears the scene away.
func (s *stage) strike() error {
	var errs []error
	if s.m != nil {
		errs = append(errs, s.m.Destroy())
	}
	for _, n := range []ns.NetNS{s.host, s.peer} {
		if n != nil {
			errs = append(errs, n.Close(), testutils.UnmountNS(n))
		}
	}
	return errors.Join(errs...)
}

// in runs a command in a network namespace and gives what it prints.
func in(n ns.NetNS, command string) (out string, err error) {
	err = n.Do(func(ns.NetNS) error {
		data, err := exec.Command("sh", "-c", command).CombinedOutput()
		out = strings.TrimRight(string(data), "\n")
		if err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, out)
		}
		return nil
	})
	return out, err
}
