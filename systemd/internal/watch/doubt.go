package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/sdlog"
)

const (
	// settle is how long a master that has a carrier is left alone before the LAN is
	// asked. Repairs begin meanwhile.
	settle = 200 * time.Millisecond
	// silence is how long nothing is heard before that is told.
	silence = 2 * time.Second
	// forwarding is how long after the carrier a port forwards for certain: a switch
	// with a spanning tree listens for 15 seconds, and learns for as long (IEEE
	// 802.1D-2004, table 17-1; a Linux bridge's forward_delay is the same).
	forwarding = 35 * time.Second
)

// doubt is about a master that has a carrier: whether its port forwards already. A
// question that a switch drops has no answers, which looks as if the VIPs were free.
// The LAN has been asked when it was after a frame that nobody but another station
// can have sent, or forwarding after the carrier.
type doubt struct {
	// index is the master's, by which the keeper has the doubt.
	index  int
	master string
	since  time.Time
	// next is when there is something to do, zero for not before something is heard.
	next time.Time
	// witness waits for the first frame.
	witness *os.File
	// heard says that there was one, asking that the LAN is being asked, last that
	// it is for the last time, and told that the doubt is shown.
	heard, asking, last, told bool
}

func (d *doubt) String() string {
	return fmt.Sprintf("%s has received no frame of the LAN yet: its port may not forward, and the LAN is asked again whether the VIPs are free", d.master)
}

// sign is what a doubt waits for.
type sign struct {
	doubt *doubt
	// asked says that the LAN has been asked, else a frame was heard.
	asked bool
}

// beginDoubt is for a master that has got a carrier.
func (k *Keeper) beginDoubt(master int, now time.Time) {
	k.endDoubt(master, "")
	d := &doubt{index: master, master: k.state.links[master].name, since: now, next: now.Add(settle)}
	k.doubts[master] = d
	fd, err := packetSocket(master, unix.ETH_P_ALL, slices.Concat(notFrom(k.state.ownMACs()), fromStations))
	if err != nil {
		k.Say(sdlog.LevelWarning, "systemd-netns-watch", fmt.Sprintf("listen on %s: %v", d.master, err))
		return
	}
	d.witness = os.NewFile(uintptr(fd), "packet")
	go func() {
		if _, err := d.witness.Read(make([]byte, 1)); err == nil {
			k.signs <- sign{doubt: d}
		}
	}()
}

// maxOwn bounds notFrom's program, of which the kernel takes 4096 instructions at most.
const maxOwn = 800

// notFrom stops what macvlans of this host send to each other: the kernel shows it to the
// master's sockets as received (macvlan_queue_xmit in drivers/net/macvlan.c).
func notFrom(own []net.HardwareAddr) (program []bpf.Instruction) {
	for _, mac := range own[:min(len(own), maxOwn)] {
		program = append(program,
			bpf.LoadAbsolute{Off: 6, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: binary.BigEndian.Uint32(mac), SkipFalse: 3},
			bpf.LoadAbsolute{Off: 10, Size: 2},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipFalse: 1},
			bpf.RetConstant{Val: 0})
	}
	return program
}

// fromStations passes what a port that does not forward cannot have let through:
// nothing of this host's own, nor what is for the switch at the other end alone (IEEE
// 802.1D-2004, table 7-10) or for Cisco's, both of which may come from it.
var fromStations = []bpf.Instruction{
	bpf.LoadExtension{Num: bpf.ExtType},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 0, Size: 4},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0180c200, SkipTrue: 2},
	bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x01000ccc, SkipTrue: 3},
	bpf.RetConstant{Val: 1},
	bpf.LoadAbsolute{Off: 4, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: 0xf, SkipTrue: 1},
	bpf.RetConstant{Val: 0},
	bpf.RetConstant{Val: 1},
}

// sign takes in that a frame was heard, or that the LAN has been asked.
func (k *Keeper) sign(s sign, now time.Time) {
	d := s.doubt
	if k.doubts[d.index] != d {
		return
	}
	if s.asked {
		d.asking = false
	} else {
		d.heard = true
		d.witness.Close()
	}
	switch {
	case d.asking:
	case s.asked && d.last:
		k.endDoubt(d.index, "the LAN was asked again whether the VIPs are free")
	case d.heard:
		// What was asked before may have been lost.
		d.next = d.since.Add(settle)
		k.pursueDoubts(now)
	case s.asked:
		d.next = d.since.Add(silence)
	}
}

// pursueDoubts does what is due.
func (k *Keeper) pursueDoubts(now time.Time) {
	for _, d := range k.doubts {
		if d.next.IsZero() || now.Before(d.next) || d.asking {
			continue
		}
		tell := !d.heard && !d.told && now.Sub(d.since) >= silence && now.Sub(d.since) < forwarding
		if tell {
			d.told = true
			d.next = d.since.Add(forwarding)
			for _, a := range k.on(d.index) {
				k.tellDoubt(a, d.String(), d.String())
			}
			k.tellStatus()
			continue
		}
		d.next = time.Time{}
		d.asking, d.last = true, d.heard || now.Sub(d.since) >= forwarding
		k.askLAN(d)
	}
}

// endDoubt ends what there is of one about a master. why, if it is not "", has the
// units show that.
func (k *Keeper) endDoubt(master int, why string) {
	d := k.doubts[master]
	if d == nil {
		return
	}
	delete(k.doubts, master)
	if d.witness != nil {
		d.witness.Close()
	}
	if d.told {
		for _, a := range k.on(master) {
			k.tellDoubt(a, "", why)
		}
		k.tellStatus()
	}
}

// tellDoubt notes a doubt about a namespace's VIPs, or "" for none, and has the unit
// show it because of what.
func (k *Keeper) tellDoubt(a *attachment, line, what string) {
	if err := k.Doubt(a.namespace, line); err != nil {
		k.Say(sdlog.LevelWarning, a.namespace, err.Error())
	}
	if what != "" {
		k.find(finding{namespace: a.namespace, kind: "doubt", what: what, note: true})
	}
}

// on gives the attachments on a master that others are not to use the VIPs of.
func (k *Keeper) on(master int) (all []*attachment) {
	for _, a := range k.state.attachments {
		if a.inside.lower == master && a.conflict != conflictIgnore {
			all = append(all, a)
		}
	}
	return all
}

// askLAN asks the LAN whether somebody else has the VIPs on a doubt's master, and
// tells it where they are. It takes some hundred milliseconds.
func (k *Keeper) askLAN(d *doubt) {
	var vips []netip.Addr
	var networks []netip.Prefix
	var frames [][]byte
	var err error
	for _, a := range k.on(d.index) {
		of := slices.Collect(maps.Keys(a.vips))
		vips, networks = append(vips, of...), append(networks, a.prefixes...)
		its, bad := a.announcements(of...)
		frames, err = append(frames, its...), errors.Join(err, bad)
	}
	nobodys := decoys(networks, vips)
	l := k.state.links[d.index]
	go func() {
		var found []use
		if err == nil {
			found, err = ask(l, vips, nobodys)
		}
		if err == nil {
			err = send(d.index, frames...)
		}
		if err != nil {
			k.Say(sdlog.LevelWarning, "systemd-netns-watch", fmt.Sprintf("ask the LAN on %s about the VIPs: %v", l.name, err))
		}
		for _, u := range found {
			k.uses <- u
		}
		k.signs <- sign{doubt: d, asked: true}
	}()
}
