// macvlan-vip is a CNI interface plugin that gives a service virtual IPs on
// the physical LAN: a macvlan on the host's uplink in the service's network
// namespace, and one on the host that all services share, through which the
// host can reach them.
package main

import (
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	bv "github.com/containernetworking/plugins/pkg/utils/buildversion"

	"macvlan-vip/plugins/internal/announce"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/verb"
)

const name = "macvlan-vip"

func main() {
	if len(os.Args) > 1 && os.Args[1] == announceArg {
		if err := announcer(os.Stdin); err != nil {
			logf("%v", err)
			os.Exit(1)
		}
		return
	}
	verb.Main(skel.CNIFuncs{Add: cmdAdd, Del: cmdDel, Check: cmdCheck, GC: cmdGC, Status: cmdStatus}, bv.BuildString(name), help)
}

// attachment is the state of one verb's work on one service's interface.
type attachment struct {
	*verb.Attachment
	conf *config.Macvlan
	plan plan.Attachment
	// found is the journal's record as the verb found it, if there is one; bad is why
	// one that is there cannot be read.
	found *journal.Record
	bad   *journal.BadRecordError
	// rec is the journal's record: an earlier ADD's, if this one repairs what
	// that one made, or else this one's.
	rec *journal.Record
	// before is the record of an existing attachment whose addresses this ADD
	// changes.
	before *journal.Record
	// repairing says that the attachment exists already.
	repairing bool
	// ipam is what the IPAM plugin answers, once it was asked.
	ipam *answer
	// fresh are the VIPs that were not on the link before this ADD.
	fresh []netip.Addr
	// lan sends and receives ARP and NDP on the service's link, once it is open.
	lan *announce.Conn
	// host and service are the plan's two sides; vips is the part of the
	// service's side that waits for the claim.
	host, service, vips plan.Desired
	// forwarding is what this attachment has, or makes, in the bridge under its master.
	forwarding []plan.Forwarding
}

// open is the first step of ADD and CHECK: it reads the configuration and the
// record, and opens the namespaces.
func open(args *skel.CmdArgs) (*attachment, error) {
	conf, err := config.ParseMacvlan(args.StdinData, args.Args, args.IfName)
	if err != nil {
		return nil, err
	}
	opened, err := verb.Open(name, args, &conf.NetConf)
	if err != nil {
		return nil, err
	}
	a := &attachment{Attachment: opened, conf: conf}
	if a.found, a.bad, err = a.Store.Recall(a.Key); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// findMaster finds the link that the service's is to lie on, and plans it.
func (a *attachment) findMaster() error {
	at := a.K.Host
	if a.conf.LinkInContainer {
		at = a.K.Service
	}
	name := a.conf.Master
	if name == "" {
		var err error
		if name, err = a.masterSoFar(at); err != nil {
			return err
		}
	}
	master, err := at.Master(name)
	if err != nil {
		return err
	}
	a.plan = plan.Attachment{Conf: a.conf, Master: master, ContainerID: a.Args.ContainerID, IfName: a.Args.IfName}
	a.service, err = a.plan.ServiceSide()
	return err
}

// masterSoFar is the master that the attachment lies on, whatever has the default
// route or the master's name by now. One that is gone is waited for by its name. It is
// empty for a new attachment.
func (a *attachment) masterSoFar(at *kernel.Namespace) (string, error) {
	if !a.isHere(a.found) {
		return "", nil
	}
	rec := a.found
	i := slices.IndexFunc(rec.Desired.Links, func(l plan.Link) bool { return l.Master != "" })
	if i < 0 {
		return "", nil
	}
	link, made, err := a.K.Service.Link(a.Args.IfName)
	if err != nil {
		return "", err
	}
	base := link.Lower
	if !made {
		// One that tells of none is found by name.
		_, _ = fmt.Sscanf(rec.ClaimScope, scopeFormat, &base)
	}
	name := rec.Desired.Links[i].Master
	if master, found, err := at.Link(name); err != nil || found && master.Base() == base {
		return name, err
	}
	if renamed, err := at.LinkByIndex(base); err == nil {
		return renamed.Name, nil
	}
	return name, nil
}

// planHost plans the host's side as its link is now.
func (a *attachment) planHost() error {
	if a.conf.HostInterface == "" {
		a.host = a.plan.HostSide(nil)
		return nil
	}
	before := ""
	switch {
	case a.rec != nil:
		before = a.rec.HostInterface
	case a.before != nil:
		before = a.before.HostInterface
	}
	name, existing, err := a.plan.ChooseHostInterface(a.plan.HostInterfaces(before), func(name string) (*plan.LinkFacts, error) {
		f, found, err := a.K.Host.Link(name)
		if err != nil || !found {
			return nil, err
		}
		return &f, nil
	})
	if err != nil {
		return err
	}
	a.plan.HostInterface = name
	if a.plan.IsForeign(existing) {
		if existing.Addressed, err = a.K.Host.Addressed(name); err != nil {
			return err
		}
	}
	a.host = a.plan.HostSide(existing)
	return nil
}

func cmdAdd(args *skel.CmdArgs) error {
	a, err := open(args)
	if err != nil {
		return err
	}
	defer a.Close()
	result, err := a.add()
	if err == nil {
		err = a.settle()
	}
	return a.Finish(err, func() error { return verb.PrintResult(plan.Chain(a.Prev, result), a.conf.CNIVersion) })
}

func cmdDel(args *skel.CmdArgs) error {
	conf, store, key, rec, err := verb.Recall(name, args)
	if err != nil {
		return err
	}
	d := remover{store: store, ipam: conf.IPAM.Type, stdin: args.StdinData, path: args.Path, args: args.Args}
	return d.remove(key, rec, args.Netns)
}

func cmdCheck(args *skel.CmdArgs) error {
	a, err := open(args)
	if err != nil {
		return err
	}
	defer a.Close()
	return a.check()
}

func cmdStatus(args *skel.CmdArgs) error {
	conf, err := config.ParseMacvlan(args.StdinData, args.Args, "eth0")
	if err != nil {
		return err
	}
	return status(conf, args.StdinData)
}

// logf writes to the runtime's log.
func logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, name+": "+format+"\n", args...)
}
