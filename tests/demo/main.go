// demo shows the main job, whole, on a throwaway machine with a real systemd:
// the distribution's haproxy moves to two VIPs of the LAN, is reached from its
// own host and from a LAN peer, and moves back without a trace. It prints what the
// machine prints, and ends with status 1 when any step is wrong.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/containernetworking/plugins/pkg/testutils"

	"macvlan-vip/tests/machine"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
	fmt.Println("\nEvery step printed what it should.")
}

// stage is the scene: a host and a peer on one LAN, each a network namespace.
type stage struct {
	peer ns.NetNS
	m    *machine.Machine
}

func run() (err error) {
	if os.Geteuid() != 0 {
		return errors.New("making namespaces takes root: run `sudo make demo`")
	}
	s := &stage{}
	defer func() { err = errors.Join(err, s.strike()) }()
	for _, step := range []func() error{s.buildMachine, s.buildLAN, func() error { return s.m.Boot() }, s.play} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) buildLAN() error {
	if _, err := in(s.peer, "ip address add 172.16.27.5/22 dev eth0"); err != nil {
		return err
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
	bind :80
	default_backend peer
backend peer
	server peer 172.16.27.5:8080
`

func (s *stage) buildMachine() (err error) {
	fmt.Println("# A throwaway Debian machine with haproxy, as packaged, and `make install`")
	if s.peer, err = testutils.NewNS(); err != nil {
		return err
	}
	s.m, err = machine.New(machine.Connect(machine.NIC{LAN: s.peer.Path(), Port: "eth0", Addresses: []string{"172.16.27.217/22"}}))
	if err != nil {
		return err
	}
	// It is started by hand below, for all to see.
	if err := s.m.Systemctl("disable", "haproxy.service"); err != nil {
		return err
	}
	return s.m.Write("etc/haproxy/haproxy.cfg", haproxyConfig)
}

// strike clears the scene away.
func (s *stage) strike() error {
	var errs []error
	if s.m != nil {
		errs = append(errs, s.m.Destroy())
	}
	if s.peer != nil {
		errs = append(errs, s.peer.Close(), testutils.UnmountNS(s.peer))
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
