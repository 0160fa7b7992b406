package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/sdlog"
)

// Config configures a Keeper.
type Config struct {
	// Records is the folder of the records, Names that of the namespaces' names.
	Records, Names string
	// Reload repairs a namespace, by reloading its unit. broken says that something
	// of it is known to be, which need not be found out first.
	Reload func(ctx context.Context, namespace, unit string, broken bool) error
	// Say writes a line for the journal, about a namespace, at a level of
	// syslog(3).
	Say func(level int, namespace, line string)
	// Conflicts is called with the VIPs of a namespace that others use, without any
	// when the conflict is over.
	Conflicts func(namespace string, lines []string) error
	// Doubt is told why the LAN may not have been asked about VIPs of a namespace, ""
	// at the end.
	Doubt func(namespace, line string) error
	// Status is called with a summary of all namespaces.
	Status func(line string)
}

// atOnce is how many repairs run at the same time.
const atOnce = 4

// Keeper watches namespaces, and triggers repairs.
type Keeper struct {
	Config
	state    *state
	schedule *schedule
	socket   *socket
	folders  *folders
	// records and names are the folders' numbers.
	records, names int32
	// repaired gets the namespace of each repair that has ended.
	repaired chan outcome
	running  int
	// ears are by their master's index; deaf is when they must be reopened for the
	// current VIPs, zero for never.
	ears      map[int]*ear
	deaf      time.Time
	uses      chan use
	conflicts map[netip.Addr]*conflict
	// doubts are by their master's index.
	doubts map[int]*doubt
	signs  chan sign
}

type outcome struct {
	namespace string
	err       error
}

// Run watches until ctx ends. It first repairs all existing namespaces, since earlier
// events were missed.
func Run(ctx context.Context, c Config) error {
	k := &Keeper{Config: c, state: newState(), schedule: newSchedule(), repaired: make(chan outcome),
		ears: map[int]*ear{}, uses: make(chan use, 64), conflicts: map[netip.Addr]*conflict{},
		doubts: map[int]*doubt{}, signs: make(chan sign, 16)}
	if err := k.open(); err != nil {
		return err
	}
	defer k.socket.close()
	defer k.folders.close()
	events, failed := make(chan batch), make(chan error, 2)
	files := make(chan []nameEvent)
	go func() { failed <- k.receive(ctx, events) }()
	go func() { failed <- k.readFolders(ctx, files) }()
	if err := k.begin(); err != nil {
		return err
	}
	for {
		timer := time.NewTimer(k.untilNext())
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case b := <-events:
			k.take(b)
		case all := <-files:
			for _, e := range all {
				k.file(e)
			}
		case done := <-k.repaired:
			k.ended(done)
		case u := <-k.uses:
			k.heard(u, time.Now())
		case s := <-k.signs:
			k.sign(s, time.Now())
		case now := <-timer.C:
			k.tick(now)
		}
		timer.Stop()
		k.startDue(ctx)
	}
}

// tick does what is due.
func (k *Keeper) tick(now time.Time) {
	k.forgetConflicts(now)
	if !k.deaf.IsZero() && !now.Before(k.deaf) {
		k.deaf = time.Time{}
		k.listenAnew()
	}
	k.pursueDoubts(now)
}

func (k *Keeper) open() (err error) {
	if k.socket, err = listen(); err != nil {
		return err
	}
	if k.folders, err = openFolders(); err != nil {
		return err
	}
	k.records, err = k.folders.add(k.Records)
	return err
}

// batch is the events that were received together.
type batch struct {
	events []event
	// overrun says that there was more.
	overrun bool
}

func (k *Keeper) receive(ctx context.Context, to chan<- batch) error {
	for {
		events, err := k.socket.receive()
		b := batch{events, errors.Is(err, errOverrun)}
		if err != nil && !b.overrun {
			return err
		}
		select {
		case to <- b:
		case <-ctx.Done():
			return nil
		}
	}
}

func (k *Keeper) readFolders(ctx context.Context, to chan<- []nameEvent) error {
	buf := make([]byte, 16<<10)
	for {
		all, err := k.folders.read(buf)
		if err != nil {
			return err
		}
		select {
		case to <- all:
		case <-ctx.Done():
			return nil
		}
	}
}

// begin reads the initial state.
func (k *Keeper) begin() error {
	if err := k.lookAtHost(); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(k.Records, "*"))
	if err != nil {
		return err
	}
	for _, file := range files {
		k.learn(filepath.Base(file))
	}
	k.findAll(newNote("systemd-netns-watch has started"))
	k.tellStatus()
	return nil
}

// lookAtHost rereads the host's links and addresses.
func (k *Keeper) lookAtHost() error {
	links, err := dump(unix.RTM_GETLINK, unix.RTM_NEWLINK)
	if err != nil {
		return err
	}
	addrs, err := dump(unix.RTM_GETADDR, unix.RTM_NEWADDR)
	if err != nil {
		return err
	}
	clear(k.state.links)
	clear(k.state.addrs)
	for _, e := range links {
		k.state.links[e.link.index] = e.link
	}
	for _, e := range addrs {
		k.state.hostAddress(e)
	}
	return nil
}

// findAll is find for all namespaces.
func (k *Keeper) findAll(f finding) {
	for namespace := range k.state.attachments {
		k.find(f.in(namespace))
	}
}

// take processes a batch of events.
func (k *Keeper) take(b batch) {
	if b.overrun {
		if err := k.lookAtHost(); err != nil {
			k.Say(sdlog.LevelErr, "systemd-netns-watch", err.Error())
		}
		k.findAll(newNote("more changed at once than could be followed"))
	}
	for _, e := range b.events {
		was := k.state.links[e.link.index].carrier()
		for _, f := range k.state.apply(e) {
			k.find(f)
		}
		if e.nsid != hosts || e.kind != unix.RTM_NEWLINK || k.ears[e.link.index] == nil {
			continue
		}
		switch is := e.link.carrier(); {
		case !was && is:
			k.beginDoubt(e.link.index, time.Now())
		case was && !is:
			k.endDoubt(e.link.index, "")
		}
	}
}

// find plans a repair, and logs if it is delayed because it did not last.
func (k *Keeper) find(f finding) {
	pause, times := k.schedule.add(f, time.Now())
	k.tellPause(f.namespace, pause, times)
}

func (k *Keeper) tellPause(namespace string, pause time.Duration, times int) {
	if pause > 0 {
		found := k.schedule.turns[namespace].found
		f := found[len(found)-1]
		k.Say(sdlog.LevelWarning, namespace, fmt.Sprintf("%s again, after %d repairs; the next one is in %s: find out who does it, or stop the service", f, times, pause))
	}
}

// file follows the records, and the names of the namespaces.
func (k *Keeper) file(e nameEvent) {
	switch {
	case e.watch == k.records:
		k.learn(e.name)
	case e.watch == k.names && e.gone && k.state.attachments[e.name] != nil:
		k.find(newFinding("the name of the namespace was removed").in(e.name))
	}
}

// learn reads the record of a namespace, which may be gone by now.
func (k *Keeper) learn(name string) {
	if strings.HasSuffix(name, "~") {
		return
	}
	a, err := k.read(name)
	if err != nil {
		k.Say(sdlog.LevelWarning, name, fmt.Sprintf("not watched: %v", err))
	}
	was := k.state.attachments[name]
	if k.deaf.IsZero() && !was.sounds(a) {
		// Many services start together.
		k.deaf = time.Now().Add(debounce)
	}
	if a == nil {
		k.state.drop(name)
		k.schedule.forget(name)
	} else {
		k.state.put(a)
	}
	if (was == nil) != (a == nil) {
		k.tellStatus()
	}
	if was == nil && a != nil {
		k.welcome(a)
	}
}

// welcome is for an attachment that is new. What a keeper before this one has told of
// it holds no more.
func (k *Keeper) welcome(a *attachment) {
	if err := k.Conflicts(a.namespace, nil); err != nil {
		k.Say(sdlog.LevelWarning, a.namespace, err.Error())
	}
	line := ""
	if d := k.doubts[a.inside.lower]; d != nil && d.told && a.conflict != conflictIgnore {
		line = d.String()
	}
	k.tellDoubt(a, line, line)
	if a.inside.index == 0 {
		k.find(newFinding("%s is missing", a.inside.name).in(a.namespace))
	}
}

// read returns what to watch of a namespace; nil for nothing.
func (k *Keeper) read(name string) (*attachment, error) {
	all, err := record.Read(filepath.Join(k.Records, name))
	if errors.Is(err, record.ErrDamaged) {
		// The teardown logs this.
		return nil, nil
	}
	i := slices.IndexFunc(all, func(a record.Attachment) bool { return len(a.Result) > 0 && !a.Undoing })
	if err != nil || i < 0 {
		return nil, err
	}
	a, host, err := fromRecord(name, all[i])
	if err != nil {
		return nil, err
	}
	was := k.state.attachments[name]
	a.nsid, err = number(filepath.Join(k.Names, name))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		// A namespace that has lost its name or, if it is new here, a record that was
		// left of one that is gone.
		return was, nil
	}
	if err != nil {
		return nil, err
	}
	a.inside, err = linkInside(a.nsid, all[i].IfName)
	switch {
	case errors.Is(err, unix.ENODEV) && was != nil:
		// Somebody has deleted it, and it is not repaired yet.
		a.inside = was.inside
	case errors.Is(err, unix.ENODEV):
		a.inside = link{name: all[i].IfName}
	case err != nil:
		return nil, err
	}
	if k.names, err = k.folders.add(k.Names); err != nil {
		return nil, err
	}
	k.place(a, host)
	return a, nil
}

// place finds the links of the host's that an attachment needs, of which host
// are candidates.
func (k *Keeper) place(a *attachment, host []string) {
	if was := k.state.attachments[a.namespace]; was != nil {
		// What is gone is to come back under its name.
		a.master, a.hostLink = was.master, was.hostLink
	}
	if l, ok := k.state.links[a.inside.lower]; ok {
		a.master = l.name
	}
	for _, l := range k.state.links {
		if slices.Contains(host, l.name) && l.lower == a.inside.lower {
			a.hostLink = l.name
			k.state.macs[l.name] = l.mac
		}
	}
}

// untilNext is the time until the next planned action.
func (k *Keeper) untilNext() time.Duration {
	wait := time.Hour
	if len(k.conflicts) > 0 {
		wait = conflictLife
	}
	if !k.deaf.IsZero() {
		wait = min(wait, max(0, time.Until(k.deaf)))
	}
	for _, d := range k.doubts {
		if !d.next.IsZero() {
			wait = min(wait, max(0, time.Until(d.next)))
		}
	}
	if next := k.schedule.next(); !next.IsZero() && k.running < atOnce {
		wait = min(wait, max(0, time.Until(next)))
	}
	return wait
}

// startDue starts the repairs that are due.
func (k *Keeper) startDue(ctx context.Context) {
	for name, why := range k.schedule.start(time.Now(), atOnce-k.running) {
		a := k.state.attachments[name]
		if a == nil {
			k.schedule.forget(name)
			continue
		}
		if !k.state.ready(a) {
			k.Say(sdlog.LevelWarning, name, fmt.Sprintf("%s: the master %s is gone; repaired when it is back", &why, a.master))
			k.schedule.done(name, false, time.Now())
			continue
		}
		broken := why.broken()
		doing := ": repairing"
		if !broken {
			doing = ": checking"
		}
		k.Say(sdlog.LevelNotice, name, why.String()+doing)
		k.running++
		go func() {
			err := k.Reload(ctx, name, a.unit, broken)
			select {
			case k.repaired <- outcome{name, err}:
			case <-ctx.Done():
			}
		}()
	}
}

// ended notes that a repair has ended.
func (k *Keeper) ended(done outcome) {
	k.running--
	k.refresh(done.namespace)
	if done.err != nil && k.state.attachments[done.namespace] != nil {
		k.Say(sdlog.LevelErr, done.namespace, fmt.Sprintf("could not be repaired: %v", done.err))
	}
	pause, times := k.schedule.done(done.namespace, done.err == nil, time.Now())
	if done.err != nil && k.state.attachments[done.namespace] != nil {
		k.find(newFinding("the repair failed").in(done.namespace))
	}
	k.tellPause(done.namespace, pause, times)
}

// refresh is for links that a repair has made anew, or given another MTU.
func (k *Keeper) refresh(namespace string) {
	a := k.state.attachments[namespace]
	if a == nil {
		return
	}
	is, err := linkInside(a.nsid, a.inside.name)
	if err != nil || is.index != a.inside.index || is.lower != a.inside.lower {
		k.learn(namespace)
		return
	}
	a.inside.mtu = is.mtu
}

func (k *Keeper) tellStatus() {
	line := fmt.Sprintf("%d namespaces are watched", len(k.state.attachments))
	for _, c := range k.conflicts {
		line += "; " + c.namespace + ": " + c.String()
	}
	for _, d := range k.doubts {
		if d.told {
			line += "; " + d.String()
		}
	}
	k.Status(line)
}
