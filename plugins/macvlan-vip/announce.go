package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"macvlan-vip/plugins/internal/announce"
)

// announceArg makes the binary the announcer: a process of its own that
// outlives ADD, so that a service's start does not wait for the rounds after
// the first.
const announceArg = "announce"

// announce tells the LAN where the VIPs are now. It never fails an ADD: a
// peer that heard nothing asks again when its entry has aged.
func (a *attachment) announce() {
	vips := addressesOf(a.vips)
	rounds := a.conf.Announce.Count
	if rounds == 0 || len(vips) == 0 {
		return
	}
	err := a.openLAN(vips)
	if err == nil && a.plan.Master.Carrier {
		err = a.lan.Announce(context.Background(), vips)
	}
	if err == nil && rounds > 1 {
		err = a.k.Service.Do(func() error { return a.startAnnouncer(rounds-1, vips) })
	}
	if err != nil {
		logf("%v", err)
	}
}

// startAnnouncer starts it on a thread that is in the service's namespace,
// which the child then begins in.
func (a *attachment) startAnnouncer(rounds int, vips []netip.Addr) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start the announcer: %w", err)
	}
	args := []string{announceArg, a.args.IfName, strconv.Itoa(rounds), a.conf.Announce.Interval.String()}
	for _, vip := range vips {
		args = append(args, vip.String())
	}
	cmd := exec.Command(self, args...)
	// Its own session, and none of the runtime's pipes, which the runtime
	// would wait for.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	cmd.Env = []string{}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the announcer: %w", err)
	}
	return cmd.Process.Release()
}

// announcer is the process that startAnnouncer starts. It ends when the rounds
// are done, and at once when the link goes, since it holds the namespace.
func announcer(args []string) error {
	if len(args) < 4 {
		return errors.New("announce: want a link, rounds, an interval and addresses")
	}
	rounds, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("announce: rounds: %w", err)
	}
	interval, err := time.ParseDuration(args[2])
	if err != nil {
		return fmt.Errorf("announce: interval: %w", err)
	}
	var vips []netip.Addr
	for _, text := range args[3:] {
		vip, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("announce: %w", err)
		}
		vips = append(vips, vip)
	}
	link, err := net.InterfaceByName(args[0])
	if err != nil {
		return fmt.Errorf("announce: link %s: %w", args[0], err)
	}
	conn, err := announce.Open(link, vips)
	if err != nil {
		return err
	}
	return conn.Repeat(context.Background(), vips, rounds, interval, func(addrs []netip.Addr) []netip.Addr {
		return stillOn(link, addrs)
	})
}

// stillOn leaves out the addresses that the link has no more: somebody else
// may have them by now.
func stillOn(link *net.Interface, addrs []netip.Addr) []netip.Addr {
	there, err := link.Addrs()
	if err != nil {
		return nil
	}
	have := make(map[netip.Addr]bool, len(there))
	for _, t := range there {
		if prefix, err := netip.ParsePrefix(t.String()); err == nil {
			have[prefix.Addr()] = true
		}
	}
	return slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !have[a] })
}
