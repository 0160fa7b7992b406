package verb

import (
	"github.com/containernetworking/cni/pkg/skel"
	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/reconcile"
)

// Attachment is what ADD and CHECK of either plugin know of an attachment
// before they look at their own configuration.
type Attachment struct {
	Args *skel.CmdArgs
	// Prev is the result that came with the configuration, if any: at ADD that
	// of the plugins before this one, at CHECK that of ADD.
	Prev  *current.Result
	Key   journal.Key
	Store *journal.Store
	K     *kernel.Kernel
	// NetnsID is the service's namespace (kernel.Namespace.Identity).
	NetnsID string
	// Undo holds the inverse of each step that ADD has taken.
	Undo reconcile.Undo
}

// Open reads prevResult and opens the plugin's journal and both namespaces.
// Close closes them.
func Open(plugin string, args *skel.CmdArgs, conf *config.NetConf) (*Attachment, error) {
	prev, err := config.ParsePrevResult(conf)
	if err != nil {
		return nil, err
	}
	store, err := OpenJournal(plugin)
	if err != nil {
		return nil, err
	}
	k, err := openKernel(args.Netns)
	if err != nil {
		return nil, err
	}
	a := &Attachment{
		Args: args, Prev: prev, Store: store, K: k,
		Key: journal.Key{Network: conf.Name, ContainerID: args.ContainerID, IfName: args.IfName},
	}
	if a.NetnsID, err = k.Service.Identity(); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Close closes the namespaces.
func (a *Attachment) Close() { a.K.Close() }

// NewRecord is a record of this attachment, without what there is to be.
func (a *Attachment) NewRecord() *journal.Record {
	return &journal.Record{Key: a.Key, Netns: a.Args.Netns, NetnsID: a.NetnsID, Input: a.Args.StdinData}
}

// Save writes a record before the kernel is touched; rolling back restores the
// one before, if there was any.
func (a *Attachment) Save(rec, before *journal.Record) error {
	a.Undo.Push(func() error {
		if before != nil {
			return a.Store.Save(before)
		}
		return a.Store.Remove(a.Key)
	})
	return a.Store.Save(rec)
}

// Finish ends an ADD: it prints the result, or rolls back if there was an error, or
// if the result cannot be printed.
func (a *Attachment) Finish(err error, print func() error) error {
	if err == nil {
		err = print()
	}
	if err != nil {
		return rollBack(err, &a.Undo)
	}
	return nil
}
