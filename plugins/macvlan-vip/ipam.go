package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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

func ipamAdd(kind string, stdin []byte) (*current.Result, error) {
	raw, err := invoke.DelegateAdd(context.Background(), kind, stdin, nil)
	if err != nil {
		return nil, ipamError(kind, "give addresses", err)
	}
	result, err := config.CurrentResult(raw)
	if err != nil {
		return nil, cnierr.New(types.ErrDecodingFailure, "use an IPAM plugin that prints a valid result", "ipam: %q: its result: %v", kind, err)
	}
	return result, nil
}

func ipamDel(kind string, stdin []byte) error {
	return ipamError(kind, "take addresses back", invoke.DelegateDel(context.Background(), kind, stdin, nil))
}

func ipamCheck(kind string, stdin []byte) error {
	return ipamError(kind, "check its addresses", invoke.DelegateCheck(context.Background(), kind, stdin, nil))
}

// ipamDelFor takes back the addresses of the attachment that a record names,
// which at GC is not the one that the environment names.
func ipamDelFor(kind string, stdin []byte, path, cniArgs string, rec *journal.Record) error {
	plugin, err := invoke.FindInPath(kind, filepath.SplitList(path))
	if err != nil {
		return ipamError(kind, "take addresses back", err)
	}
	args := &invoke.Args{Command: "DEL", ContainerID: rec.ContainerID, NetNS: rec.Netns, IfName: rec.IfName, PluginArgsStr: cniArgs, Path: path}
	return ipamError(kind, "take addresses back", invoke.ExecPluginWithoutResult(context.Background(), plugin, stdin, args, nil))
}

// ipamGC lets the IPAM plugin collect its own garbage, as the specification
// asks of a delegating plugin.
func ipamGC(conf *types.NetConf, stdin []byte) error {
	if conf.IPAM.Type == "" {
		return nil
	}
	return ipamError(conf.IPAM.Type, "collect garbage", invoke.DelegateGC(context.Background(), conf.IPAM.Type, stdin, nil))
}

func ipamStatus(kind string, stdin []byte) error {
	err := invoke.DelegateStatus(context.Background(), kind, stdin, nil)
	if err == nil {
		return nil
	}
	code := types.ErrPluginNotAvailable
	var foreign *types.Error
	if errors.As(err, &foreign) && foreign.Code == types.ErrLimitedConnectivity {
		code = types.ErrLimitedConnectivity
	}
	return &cnierr.Error{Code: code, Text: fmt.Sprintf("ipam: %q: not ready for ADD", kind), Cause: err, Remedy: "make the IPAM plugin ready"}
}
