// Package verb is what the verbs of both plugins share: how they start, which
// namespaces they open, how they print errors and help.
package verb

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/config"
	"macvlan-vip/plugins/internal/journal"
	"macvlan-vip/plugins/internal/kernel"
	"macvlan-vip/plugins/internal/plan"
	"macvlan-vip/plugins/internal/reconcile"
)

// Main runs a plugin: one CNI verb, as the environment asks for.
func Main(f skel.CNIFuncs, about, help string) {
	if len(os.Args) > 1 {
		answer(os.Args[1], about, help)
		return
	}
	// A path that leads to the plugin's own namespace: ADD and CHECK refuse it themselves,
	// before they do anything, and at DEL it is nothing to refuse. skel looks afterwards.
	_ = os.Setenv("CNI_NETNS_OVERRIDE", "1")
	var stdin []byte
	with := func(f func(*skel.CmdArgs) error) func(*skel.CmdArgs) error {
		return func(args *skel.CmdArgs) error {
			stdin = args.StdinData
			return withCode(f)(args)
		}
	}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add: with(f.Add), Del: with(f.Del), Check: with(f.Check), GC: with(f.GC), Status: with(f.Status),
	}, version.All, about)
	if err != nil {
		printError(versionOf(stdin), err)
		os.Exit(1)
	}
}

// versionOf is the configuration's version of the specification; the newest
// where the configuration has not been read.
func versionOf(stdin []byte) string {
	if v, err := (&version.ConfigDecoder{}).Decode(stdin); err == nil {
		return v
	}
	return version.Current()
}

// printError prints all that the specification asks for (section "Error");
// skel's own way leaves the version out.
func printError(cniVersion string, err *types.Error) {
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "    ")
	if err := out.Encode(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{cniVersion, err}); err != nil {
		fmt.Fprintf(os.Stderr, "%s: print the error: %v\n", os.Args[0], err)
	}
}

// answer serves a person at a terminal; runtimes pass no arguments.
func answer(arg, about, help string) {
	switch arg {
	case "-h", "--help", "help":
		fmt.Printf("%s\n\n%s\nCNI versions: %s\n", about, help, strings.Join(version.All.SupportedVersions(), ", "))
	case "-v", "--version", "version":
		fmt.Println(about)
	default:
		fmt.Fprintf(os.Stderr, "%s: unknown argument %q: a CNI plugin takes its orders from the environment; see --help\n", os.Args[0], arg)
		os.Exit(2)
	}
}

// Logf writes to the runtime's log.
func Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func withCode(f func(*skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		if err := f(args); err != nil {
			return cnierr.ToCNI(err)
		}
		return nil
	}
}

// rollBack undoes a failed ADD, and returns its error joined with those of the
// rollback.
func rollBack(err error, undo *reconcile.Undo) error {
	if undone := undo.Run(); undone != nil {
		return fmt.Errorf("%w (and while undoing it: %w)", err, undone)
	}
	return err
}

// PrintResult prints a result in the configuration's version of the
// specification, which may have no room for it.
func PrintResult(result types.Result, cniVersion string) error {
	converted, err := result.GetAsVersion(cniVersion)
	if err != nil {
		return cnierr.Config("cniVersion", cniVersion, "has no form for this result: "+err.Error(), "use 0.3.0 or later: before that a result needs an address")
	}
	newest, is := converted.(*current.Result)
	if !is {
		return converted.Print()
	}
	data, err := config.MarshalResult(newest)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(data)
	return err
}

// PassOn prints the previous result, as a chained plugin does that adds nothing
// to it.
func PassOn(conf *config.NetConf) error {
	if raw, ok := conf.Unchanged(); ok {
		_, err := os.Stdout.Write(raw)
		return err
	}
	return PrintResult(conf.PrevResult, conf.CNIVersion)
}

// openKernel opens both namespaces for ADD and CHECK, in which the service's
// must be there, and another than the host's.
func openKernel(netns string) (*kernel.Kernel, error) {
	host, err := kernel.OpenHost()
	if err != nil {
		return nil, err
	}
	service, err := kernel.OpenService(netns)
	if err != nil {
		host.Close()
		return nil, err
	}
	k := &kernel.Kernel{Host: host, Service: service}
	if host.Same(service) {
		k.Close()
		return nil, cnierr.New(types.ErrInvalidNetNS, "pass the path of the service's own netns", "CNI_NETNS: %q is the netns that the plugin itself is in", netns)
	}
	return k, nil
}

// OpenRecorded opens, for DEL and GC, the host's namespace and, if it is still
// there, the one that a record names. It looks at the path that the runtime
// passes, and at the one that ADD was given. Either can have come to lead to
// somebody else's namespace, which is none of this attachment's business.
func OpenRecorded(rec *journal.Record, path string) (*kernel.Kernel, error) {
	host, err := kernel.OpenHost()
	if err != nil {
		return nil, err
	}
	k := &kernel.Kernel{Host: host}
	for _, at := range slices.Compact([]string{path, rec.Netns}) {
		service, err := openRecorded(rec, at)
		if err == nil && service != nil && host.Same(service) {
			service.Close()
			continue
		}
		if service != nil {
			k.Service, k.Unseen = service, nil
			break
		}
		k.Unseen = errors.Join(k.Unseen, err)
	}
	return k, nil
}

// FindRecorded is OpenRecorded for whoever removes the attachment. A namespace
// without a path lives on, and its VIPs answer, as long as a thread is in it: it is
// looked for by the link, which costs a look at every thread.
func FindRecorded(rec *journal.Record, path string) (*kernel.Kernel, error) {
	k, err := OpenRecorded(rec, path)
	if err == nil && k.Service == nil {
		k.FindService(rec.IfName, plan.ServiceAlias(rec.Network, rec.ContainerID), rec.NetnsID)
	}
	return k, err
}

// FindUnrecorded is FindRecorded where no record tells of the attachment.
func FindUnrecorded(key journal.Key, netns string) (*kernel.Kernel, error) {
	return FindRecorded(&journal.Record{Key: key, Netns: netns}, "")
}

// openRecorded opens the namespace at a path; nil where there is none, or
// another than the record's.
func openRecorded(rec *journal.Record, path string) (*kernel.Namespace, error) {
	if path == "" {
		return nil, nil
	}
	service, err := kernel.OpenService(path)
	if err != nil {
		if kernel.IsGone(err) {
			err = nil
		}
		return nil, err
	}
	if rec.NetnsID == "" {
		return service, nil
	}
	id, err := service.Identity()
	if err != nil || id != rec.NetnsID {
		service.Close()
		return nil, err
	}
	return service, nil
}

// OpenJournal opens a plugin's journal of the namespace that it runs in.
func OpenJournal(plugin string) (*journal.Store, error) {
	scope, err := kernel.HostScope()
	if err != nil {
		return nil, err
	}
	return journal.Open(plugin, scope)
}

// OpenLeniently opens what DEL and GC need: the network's name and IPAM, but no
// more of the configuration, since one that was edited after ADD must not keep
// them from cleaning up, and a plugin's journal.
func OpenLeniently(plugin string, stdin []byte) (*types.NetConf, *journal.Store, error) {
	conf, err := config.ParseNet(stdin)
	if err != nil {
		return nil, nil, err
	}
	store, err := OpenJournal(plugin)
	return conf, store, err
}

// Recall opens what DEL needs, and the attachment's record; nil where there is
// none, or none that can be read: then DEL goes by what it finds.
func Recall(plugin string, args *skel.CmdArgs) (conf *types.NetConf, store *journal.Store, key journal.Key, rec *journal.Record, err error) {
	conf, store, err = OpenLeniently(plugin, args.StdinData)
	if err != nil {
		return nil, nil, key, nil, err
	}
	key = journal.Key{Network: conf.Name, ContainerID: args.ContainerID, IfName: args.IfName}
	rec, bad, err := store.Recall(key)
	if bad != nil {
		Logf("%s: %v: removing what the kernel and the claims show instead", plugin, bad)
	}
	return conf, store, key, rec, err
}

// Remove undoes all that a record holds, the one before it as well, and gives
// up its claims. It goes on after an error, and removes the record only when
// everything is undone.
func Remove(store *journal.Store, key journal.Key, rec *journal.Record, undo func(*journal.Record) error) error {
	var errs []error
	for r := range rec.All() {
		errs = append(errs, undo(r), store.UnclaimAll(r))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return store.Remove(key)
}

// Collect runs a plugin's own DEL for every attachment of a network that the
// runtime does not list as valid (CNI specification, "GC"). Without a list it
// does nothing: cnitool's gc sends none, and none is not an empty one. del is
// given no record where there is none that can be read.
func Collect(stdin []byte, network string, store *journal.Store, del func(journal.Key, *journal.Record) error) error {
	valid, known, err := config.ValidAttachments(stdin)
	if err != nil || !known {
		return err
	}
	keep := map[journal.Key]bool{}
	for _, a := range valid {
		keep[journal.Key{Network: network, ContainerID: a.ContainerID, IfName: a.IfName}] = true
	}
	keys, err := store.List(network)
	errs := []error{err}
	for _, key := range keys {
		if keep[key] {
			continue
		}
		rec, bad, err := store.Recall(key)
		if bad != nil {
			Logf("%v: removing what the kernel and the claims show instead", bad)
		}
		switch {
		case err != nil:
		case rec == nil && bad == nil:
			err = store.Remove(key)
		default:
			err = del(key, rec)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// DriftError is CHECK's answer: every difference, one a line.
func DriftError(drift []string) error {
	if len(drift) == 0 {
		return nil
	}
	return cnierr.New(cnierr.Drift, "repeat ADD to repair it (systemctl reload systemd-netns@NAME)",
		"the kernel's state is not what ADD makes:\n  %s", strings.Join(drift, "\n  "))
}
