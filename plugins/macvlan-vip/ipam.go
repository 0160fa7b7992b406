package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
)

// The IPAM plugin is run by libcni's invoke rather than by plugins/pkg/ipam,
// which does no more than call it, but brings along what doubles the time that
// the process takes to start.

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
	if !hasIPAM(kind, os.Getenv("CNI_PATH")) {
		return cnierr.Config("ipam.type", kind, "no such plugin in CNI_PATH "+os.Getenv("CNI_PATH"), "install it, or use static, host-local or dhcp")
	}
	return fmt.Errorf("ipam: %q: %s: %w", kind, doing, err)
}

func hasIPAM(kind, path string) bool {
	_, err := invoke.FindInPath(kind, filepath.SplitList(path))
	return err == nil
}

// An IPAM plugin that hangs must not keep a DEL from the rest, nor an ADD past
// the minute that systemd gives a start by default.
const (
	delTimeout = 15 * time.Second
	addTimeout = 45 * time.Second
)

// asked is an IPAM plugin, and what it is asked with.
type asked struct {
	kind  string
	stdin []byte
	// env is its environment but for the verb.
	env invoke.Args
}

// asks is the IPAM plugin of this ADD's configuration.
func (a *attachment) asks() asked {
	return asked{a.conf.IPAM.Type, a.args.StdinData, invoke.Args{
		ContainerID: a.args.ContainerID, NetNS: a.args.Netns, IfName: a.args.IfName, PluginArgsStr: a.args.Args, Path: a.args.Path,
	}}
}

// asksAgain is the IPAM plugin of a record, by what it was asked with at ADD,
// whatever the configuration and the environment are now. Records of earlier
// versions have no more than its section of the configuration.
func (d remover) asksAgain(rec *journal.Record) (asked, error) {
	q := asked{d.ipamOf(rec), d.stdin, invoke.Args{
		ContainerID: rec.ContainerID, NetNS: rec.Netns, IfName: rec.IfName, PluginArgsStr: d.args, Path: d.path,
	}}
	if rec.Input != nil {
		q.stdin, q.env.PluginArgsStr = rec.Input, rec.Args
		return q, nil
	}
	var err error
	if rec.IPAMType != "" {
		q.stdin, err = config.WithIPAM(d.stdin, rec.IPAMConfig)
	}
	return q, err
}

// add asks host-local a second time where leases that name nobody were in the way.
func (q asked) add() (*current.Result, error) {
	result, err := q.addOnce()
	if err == nil || q.kind != "host-local" {
		return result, err
	}
	if dropped, dropErr := dropBrokenLeases(q.stdin); dropErr != nil || !dropped {
		return result, err
	}
	return q.addOnce()
}

func (q asked) addOnce() (*current.Result, error) {
	raw, err := bounded(addTimeout, q.kind, "give addresses", func(ctx context.Context) (types.Result, error) {
		plugin, env, err := q.run("ADD")
		if err != nil {
			return nil, err
		}
		return invoke.ExecPluginWithResult(ctx, plugin, q.stdin, env, nil)
	})
	if err != nil {
		return nil, err
	}
	result, err := config.CurrentResult(raw)
	if err != nil {
		return nil, cnierr.New(types.ErrDecodingFailure, "use an IPAM plugin that prints a valid result", "ipam: %q: its result: %v", q.kind, err)
	}
	return result, nil
}

func (q asked) del() error {
	_, err := bounded(delTimeout, q.kind, "take addresses back", func(ctx context.Context) (none struct{}, err error) {
		plugin, env, err := q.run("DEL")
		if err != nil {
			if q.kind == stateless {
				err = nil
			}
			return none, err
		}
		return none, invoke.ExecPluginWithoutResult(ctx, plugin, q.stdin, env, nil)
	})
	return err
}

// run finds the plugin, and gives it its environment for a verb.
func (q asked) run(verb string) (plugin string, env *invoke.Args, err error) {
	q.env.Command = verb
	plugin, err = invoke.FindInPath(q.kind, filepath.SplitList(q.env.Path))
	return plugin, &q.env, err
}

// stateless is the IPAM plugin that keeps nothing of what it gives.
const stateless = "static"

// bounded asks an IPAM plugin for something, and gives it up when it takes too
// long. What it has started itself can hold its output open for as long as it
// likes.
func bounded[T any](limit time.Duration, kind, doing string, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		value, err := ask(ctx)
		answers <- answer{value, err}
	}()
	var got answer
	select {
	case got = <-answers:
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return got.value, cnierr.Transient("look what it waits for", "ipam: %q: %s: no answer within %s", kind, doing, limit)
	}
	return got.value, ipamError(kind, doing, got.err)
}

func ipamCheck(kind string, stdin []byte) error {
	return boundedDelegate(kind, "check its addresses", stdin, invoke.DelegateCheck)
}

func boundedDelegate(kind, doing string, stdin []byte, delegate func(context.Context, string, []byte, invoke.Exec) error) error {
	_, err := bounded(addTimeout, kind, doing, func(ctx context.Context) (none struct{}, err error) {
		return none, delegate(ctx, kind, stdin, nil)
	})
	return err
}

// ipamGC lets the IPAM plugin collect its own garbage, as the specification
// asks of a delegating plugin.
func ipamGC(conf *types.NetConf, stdin []byte) error {
	if conf.IPAM.Type == "" {
		return nil
	}
	return boundedDelegate(conf.IPAM.Type, "collect garbage", stdin, invoke.DelegateGC)
}

func ipamStatus(kind string, stdin []byte) error {
	err := boundedDelegate(kind, "be ready for ADD", stdin, invoke.DelegateStatus)
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
