package main

import (
	"fmt"
	"strings"
	"time"
)

// scene is one command, and what its output must and must not hold.
type scene struct {
	// title begins a new part of the story.
	title string
	// onPeer runs the command on the LAN peer instead of the machine.
	onPeer  bool
	command string
	want    []string
	not     []string
	// fails says that the command must fail.
	fails bool
	// settles says that what is asked for takes systemd a moment.
	settles bool
}

var story = []scene{
	{title: "haproxy runs on the host's own address",
		command: "systemctl start haproxy"},

	{title: "Two VIPs of its own: one command, and nothing to edit",
		command: "systemd-netns enable haproxy --vip 172.16.26.1/22 --vip 172.16.26.2/22",
		want:    []string{"haproxy.service is in namespace haproxy", "172.16.26.1/22 172.16.26.2/22 on mv0", "this host reaches its VIPs"}},
	{command: "curl -s 172.16.26.1", want: []string{"hello from the backend, asked by 172.16.27.217"}},
	{onPeer: true, command: "curl -s 172.16.26.2", want: []string{"hello from the backend, asked by 172.16.27.5"}},
	{onPeer: true, command: "ping -c 1 172.16.26.1", want: []string{" 0% packet loss"}},
	{command: "systemd-netns list", want: []string{"haproxy.service  active"}},

	{title: "Inside: a network namespace with the VIPs",
		command: "systemctl status haproxy --no-pager --lines 0", want: []string{"active (running)", "netns.conf"}},
	{command: "ip netns", want: []string{"haproxy"}},
	{command: "ip netns exec haproxy ip address show mv0", want: []string{"inet 172.16.26.1/22", "inet 172.16.26.2/22", "state UP"}},
	{command: "ip netns exec haproxy ss -ntl", want: []string{":80 "}},
	{command: "ss -ntlH | wc -l", want: []string{"0"}},

	{title: "The host's side: a macvlan without an address, and a route to each VIP",
		command: "ip address show mv-int", want: []string{"mv-int@eth0", "state UP"}, not: []string{"inet "}},
	{command: "ip route show table local proto 118", want: []string{"172.16.26.1 dev mv-int scope link src 172.16.27.217 metric 100", "172.16.26.2 dev mv-int"}},
	{command: "ping -c 3 -i 0.2 -I mv-int 172.16.26.2", want: []string{" 0% packet loss"}},

	{title: "A crash: systemd brings haproxy back, in the same namespace",
		command: "kill -KILL $(systemctl show haproxy -p MainPID --value)"},
	{onPeer: true, settles: true, command: "curl -s 172.16.26.1", want: []string{"hello"}},

	{title: "Undo: haproxy is on the host's own address again, and nothing is left",
		command: "systemd-netns disable haproxy --yes"},
	{command: "curl -s 172.16.27.217", want: []string{"hello"}},
	{settles: true, command: "ip netns | wc -l", want: []string{"0"}},
	{command: "ip -brief link", not: []string{"mv-int"}},
	{command: "ip route show table local proto 118 | wc -l", want: []string{"0"}},
	{command: "find /run/cni /etc/systemd-netns /etc/systemd/system/haproxy.service.d -type f 2>/dev/null | wc -l", want: []string{"0"}},
	{onPeer: true, fails: true, command: "ping -c 1 -W 1 172.16.26.1", want: []string{"100% packet loss"}},
}

func (s *stage) play() error {
	for _, sc := range story {
		if err := s.show(sc); err != nil {
			return err
		}
	}
	return nil
}

func (s *stage) show(sc scene) error {
	if sc.title != "" {
		fmt.Printf("\n# %s\n", sc.title)
	}
	prompt := "root@utility:~# "
	if sc.onPeer {
		prompt = "root@peer:~# "
	}
	var out string
	var err error
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		out, err = s.perform(sc)
		if err = sc.judge(out, err); err == nil || !sc.settles || time.Now().After(deadline) {
			break
		}
	}
	fmt.Printf("%s%s\n", prompt, sc.command)
	if out != "" {
		fmt.Println(out)
	}
	return err
}

func (s *stage) perform(sc scene) (string, error) {
	if sc.onPeer {
		return in(s.peer, sc.command)
	}
	out, err := s.m.Run("sh", "-c", sc.command)
	return strings.TrimRight(out, "\n"), err
}

func (sc scene) judge(out string, err error) error {
	if (err != nil) != sc.fails {
		return fmt.Errorf("%s: it should fail: %v; it did: %w", sc.command, sc.fails, err)
	}
	for _, want := range sc.want {
		if !strings.Contains(out, want) {
			return fmt.Errorf("%s: printed no %q", sc.command, want)
		}
	}
	for _, not := range sc.not {
		if strings.Contains(out, not) {
			return fmt.Errorf("%s: printed %q", sc.command, not)
		}
	}
	return nil
}
