package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/delegate"
	"macvlan-vip/plugins/internal/journal"
)

// ipamError says which plugin failed, keeps its code, and tells where the
// plugin is looked for when it is not there.
func ipamError(kind, doing string, err error) error {
	if err == nil {
		return nil
	}
	var foreign *types.Error
	if errors.As(err, &foreign) {
		code := foreign.Code
		if code == types.ErrInternal || code == types.ErrUnknown {
			// Upstream's plugins give no other code, and it is nearly always
			// the configuration that they complain of.
			code = types.ErrInvalidNetworkConfig
		}
		return &cnierr.Error{Code: code, Text: fmt.Sprintf("ipam: %q: %s", kind, doing), Cause: err, Remedy: "look at the keys under ipam"}
	}
	if errors.Is(err, delegate.ErrNotFound) {
		return cnierr.Config("ipam.type", kind, "no such plugin in CNI_PATH "+os.Getenv("CNI_PATH"), "install it, or use static, host-local or dhcp")
	}
	return fmt.Errorf("ipam: %q: %s: %w", kind, doing, err)
}

// limits bound how long an IPAM plugin is waited for.
type limits struct{ add, del time.Duration }

// limitsOf gives those of a plugin. One that hangs must not keep a DEL from the rest,
// nor an ADD past the minute that systemd gives a start by default. whereabouts takes
// turns with the cluster's other nodes, and ends by itself after two minutes at ADD and
// one at DEL (AddTimeLimit and DelTimeLimit in its pkg/types). A kubelet waits as long,
// and Multus forgets the networks of a pod at the first DEL, even if that fails.
func limitsOf(kind string) limits {
	if kind == "whereabouts" {
		return limits{add: 125 * time.Second, del: 65 * time.Second}
	}
	return limits{add: 45 * time.Second, del: 15 * time.Second}
}

// asked is an IPAM plugin, and what it is asked with.
type asked struct{ delegate.Call }

func ask(kind string, stdin []byte, key journal.Key, netns, args, path string) asked {
	return asked{delegate.Call{Type: kind, Stdin: stdin, Path: path, Env: append(cpus(kind),
		"CNI_CONTAINERID="+key.ContainerID, "CNI_NETNS="+netns, "CNI_IFNAME="+key.IfName,
		"CNI_ARGS="+args, "CNI_PATH="+path,
	)}}
}

// linkless are the IPAM plugins that read only their configuration and their own
// files. They can run while the links are being created.
var linkless = []string{stateless, "host-local"}

// cpus is the environment that has Go take one CPU for such a plugin. It ends within
// milliseconds, of which getting ready for more takes a part, on CPUs that ADD needs.
func cpus(kind string) []string {
	if slices.Contains(linkless, kind) {
		return []string{"GOMAXPROCS=1"}
	}
	return nil
}

// asks is the IPAM plugin of this ADD's configuration.
func (a *attachment) asks() asked {
	return ask(a.conf.IPAM.Type, a.Args.StdinData, a.Key, a.Args.Netns, a.Args.Args, a.Args.Path)
}

// asksAgain is the IPAM plugin of a record, by what it was asked with at ADD,
// whatever the configuration and the environment are now; by these where the record
// is lost. netns is where the record's namespace is now, if anywhere: what its path
// leads to can be another one, and a plugin that is called with its own refuses.
func (d remover) asksAgain(rec *journal.Record, netns string) asked {
	stdin, args := d.stdin, d.args
	if rec.Input != nil {
		stdin, args = rec.Input, rec.Args
	}
	return ask(rec.IPAMType, stdin, rec.Key, netns, args, d.path)
}

// add asks host-local a second time where leases that name nobody were in the way.
func (q asked) add() (*current.Result, error) {
	result, err := q.addOnce()
	if err == nil || q.Type != "host-local" {
		return result, err
	}
	if dropped, dropErr := dropBrokenLeases(q.Stdin); dropErr != nil || !dropped {
		return result, err
	}
	return q.addOnce()
}

func (q asked) addOnce() (*current.Result, error) {
	var raw types.Result
	err := bounded(limitsOf(q.Type).add, q.Type, "give addresses", func(ctx context.Context) (err error) {
		out, err := q.Do(ctx, "ADD")
		if err != nil {
			return err
		}
		asked, err := new(version.ConfigDecoder).Decode(q.Stdin)
		if err == nil {
			raw, err = config.ReadResult(out, asked)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	result, err := config.CurrentResult(raw)
	if err != nil {
		return nil, cnierr.New(types.ErrDecodingFailure, "use an IPAM plugin that prints a valid result", "ipam: %q: its result: %v", q.Type, err)
	}
	return result, nil
}

// del hands addresses back. A plugin that keeps nothing is not started for it.
func (q asked) del() error {
	if q.Type == stateless {
		return nil
	}
	return bounded(limitsOf(q.Type).del, q.Type, "take addresses back", func(ctx context.Context) error {
		_, err := q.Do(ctx, "DEL")
		return err
	})
}

// stateless is the IPAM plugin that keeps nothing of what it gives. Its DEL does nothing.
const stateless = "static"

// bounded asks an IPAM plugin for something, and gives it up when it takes too
// long.
func bounded(limit time.Duration, kind, doing string, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := ask(ctx)
	if ctx.Err() != nil {
		return cnierr.Transient("find out what it waits for", "ipam: %q: %s: no answer within %s", kind, doing, limit)
	}
	return ipamError(kind, doing, err)
}

// ipamVerb is a verb that this process was called with, handed on.
func ipamVerb(kind, verb, doing string, stdin []byte) error {
	return bounded(limitsOf(kind).add, kind, doing, func(ctx context.Context) error {
		_, err := delegate.Call{Type: kind, Stdin: stdin, Path: os.Getenv("CNI_PATH"), Env: cpus(kind)}.Do(ctx, verb)
		return err
	})
}

func ipamCheck(kind string, stdin []byte) error {
	return ipamVerb(kind, "CHECK", "check its addresses", stdin)
}

// ipamGC lets the IPAM plugin collect its own garbage, as the specification
// asks of a delegating plugin.
func ipamGC(conf *types.NetConf, stdin []byte) error {
	if conf.IPAM.Type == "" {
		return nil
	}
	return ipamVerb(conf.IPAM.Type, "GC", "collect garbage", stdin)
}

func ipamStatus(kind string, stdin []byte) error {
	err := ipamVerb(kind, "STATUS", "be ready for ADD", stdin)
	if err == nil {
		return nil
	}
	code := types.ErrPluginNotAvailable
	var foreign *types.Error
	if errors.As(err, &foreign) && foreign.Code == types.ErrLimitedConnectivity {
		code = types.ErrLimitedConnectivity
	}
	return &cnierr.Error{Code: code, Text: "not ready for ADD", Cause: err, Remedy: "make the IPAM plugin ready"}
}
