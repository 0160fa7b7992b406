package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"macvlan-vip/plugins/internal/announce"
	"macvlan-vip/plugins/internal/kernel"
)

// announceArg makes the binary the announcer: a process of its own that
// outlives ADD, so that a service's start does not wait for the rounds after
// the first.
const announceArg = "announce"

// rounds is what the announcer is told, as JSON on its standard input.
type rounds struct {
	// Netns and ID identify the service's namespace; the path alone may lead to
	// another one later.
	Netns, ID string
	Link      string
	VIPs      []netip.Addr
	// Count is how many rounds are left, if any.
	Count    int
	Interval time.Duration
	// Handed is the number of inherited descriptors, from 3 on, to close.
	Handed int
}

// announce announces the new VIPs to the LAN. It never fails an ADD: a peer that
// missed it asks when its entry has aged.
func (a *attachment) announce() {
	if len(a.rec.Unasked) > 0 {
		return
	}
	if err := a.firstRound(); err != nil {
		logf("%v", err)
	}
	if a.lan == nil {
		return
	}
	// It is started even if no round is left: it closes the sockets, which takes the
	// kernel longer than starting a process.
	if err := a.startAnnouncer(rounds{
		Netns: a.Args.Netns, ID: a.NetnsID, Link: a.Args.IfName, VIPs: a.fresh,
		Count: a.conf.Announce.Count - 1, Interval: a.conf.Announce.Interval,
	}); err != nil {
		logf("%v", err)
	}
}

// firstRound is the one that ADD sends itself.
func (a *attachment) firstRound() error {
	if a.conf.Announce.Count == 0 || len(a.fresh) == 0 {
		return nil
	}
	if err := a.openLAN(); err != nil {
		return err
	}
	return a.lan.Announce(context.Background(), a.fresh)
}

func (a *attachment) startAnnouncer(r rounds) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start the announcer: %w", err)
	}
	cmd := exec.Command(self, announceArg)
	if cmd.ExtraFiles, err = a.lan.Files(); err != nil {
		return err
	}
	r.Handed = len(cmd.ExtraFiles)
	// It gets a session of its own and none of the runtime's pipes, since the
	// runtime would wait for those.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Dir = "/"
	// It waits most of the time, for which it needs no memory for every CPU.
	cmd.Env = []string{"GOMAXPROCS=1"}
	orders, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start the announcer: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the announcer: %w", err)
	}
	err = json.NewEncoder(orders).Encode(r)
	if err := errors.Join(err, orders.Close(), cmd.Process.Release()); err != nil {
		return fmt.Errorf("tell the announcer: %w", err)
	}
	return nil
}

// announcer is the process that startAnnouncer starts. Between rounds it is in
// the host's namespace and holds nothing of the service's, so that a namespace
// can go, and its MAC be used again, while the announcer sleeps.
func announcer(orders io.Reader) error {
	var r rounds
	if err := json.NewDecoder(orders).Decode(&r); err != nil {
		return fmt.Errorf("announce: read what to announce: %w", err)
	}
	for fd := 3; fd < 3+r.Handed; fd++ {
		_ = unix.Close(fd)
	}
	for range r.Count {
		time.Sleep(r.Interval)
		goOn, err := r.round()
		if err != nil || !goOn {
			return err
		}
	}
	return nil
}

// round announces what is still there; goOn is false when nothing is.
func (r rounds) round() (goOn bool, err error) {
	service, err := kernel.OpenService(r.Netns)
	if kernel.IsGone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer service.Close()
	if id, err := service.Identity(); err != nil || id != r.ID {
		return false, err
	}
	err = service.Do(func() error {
		goOn, err = r.announceOn(r.Link)
		return err
	})
	if errors.Is(err, announce.ErrLinkDown) {
		return false, nil
	}
	return goOn, err
}

// announceOn runs in the service's namespace.
func (r rounds) announceOn(name string) (goOn bool, err error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return false, nil
	}
	vips := stillOn(link, r.VIPs)
	if len(vips) == 0 {
		return false, nil
	}
	conn, err := announce.Open(link, vips)
	if err != nil {
		return false, err
	}
	err = conn.Announce(context.Background(), vips)
	return true, errors.Join(err, conn.Close())
}

// stillOn drops the addresses that the link no longer has: another station may
// use them by now.
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
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !have[a] })
}
