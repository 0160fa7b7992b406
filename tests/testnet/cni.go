package testnet

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/pkg/testutils"
)

// Plugins builds CNI plugins into a folder that lives as long as the test
// binary, and makes it part of CNI_PATH. Where TEST_PLUGINS names a folder, they
// are there already, as on a machine that has no Go. It is for TestMain.
func Plugins(m *testing.M, packages ...string) int {
	if fuzzing() {
		return m.Run()
	}
	if built := os.Getenv("TEST_PLUGINS"); built != "" {
		os.Setenv("PATH", built+":"+os.Getenv("PATH"))
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "cni-plugins-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, pkg := range packages {
		build := exec.Command("go", append(buildArgs(pkg), "-o", filepath.Join(dir, filepath.Base(pkg)), pkg)...)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			return 1
		}
	}
	// testutils makes PATH the CNI_PATH.
	os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return m.Run()
}

// Soak gives a number of rounds: the usual one, or that of `make soak`.
func Soak(usual, soak int) int {
	if os.Getenv("SOAK") != "" {
		return soak
	}
	return usual
}

// buildArgs makes binaries of this project that say what of them was run, if
// GOCOVERDIR names a folder for that (go.dev/doc/build-cover).
func buildArgs(pkg string) []string {
	if len(CoverEnv()) > 0 && strings.HasPrefix(pkg, "macvlan-vip/") {
		return []string{"build", "-cover", "-coverpkg=macvlan-vip/plugins/..."}
	}
	return []string{"build"}
}

// CoverEnv is what a process that is given an environment of its own needs in
// it, to say what of it was run; empty where nobody asks.
func CoverEnv() []string {
	if dir := os.Getenv("GOCOVERDIR"); dir != "" {
		return []string{"GOCOVERDIR=" + dir}
	}
	return nil
}

// fuzzing tells whether the test binary is to fuzz, in worker processes that
// come and go, or to list its tests: neither runs a plugin.
func fuzzing() bool {
	flag.Parse()
	for _, name := range []string{"test.fuzz", "test.fuzzworker", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != f.DefValue {
			return true
		}
	}
	return false
}

// Attachment is one that a test adds, checks and deletes by calling a
// plugin's verbs in this process, on a thread in the host's namespace.
type Attachment struct {
	Host    *Namespace
	Service *Namespace
	ID      string
	IfName  string
	Args    string
}

func (a *Attachment) args(conf string) *skel.CmdArgs {
	return &skel.CmdArgs{
		ContainerID: a.ID, Netns: a.Service.Path(), IfName: a.IfName, Args: a.Args,
		Path: os.Getenv("PATH"), StdinData: []byte(conf),
	}
}

// Add runs ADD and gives the result that was printed.
func (a *Attachment) Add(conf string, add func(*skel.CmdArgs) error) (result types.Result, printed []byte, err error) {
	return a.AddAt(a.Service.Path(), conf, add)
}

// AddAt is Add with another CNI_NETNS than the service's.
func (a *Attachment) AddAt(netns, conf string, add func(*skel.CmdArgs) error) (result types.Result, printed []byte, err error) {
	args := a.args(conf)
	args.Netns = netns
	a.in(func() error {
		result, printed, err = testutils.CmdAddWithArgs(args, func() error { return add(args) })
		return nil
	})
	return result, printed, err
}

// Check runs CHECK.
func (a *Attachment) Check(conf string, check func(*skel.CmdArgs) error) (err error) {
	args := a.args(conf)
	a.in(func() error {
		err = testutils.CmdCheckWithArgs(args, func() error { return check(args) })
		return nil
	})
	return err
}

// Del runs DEL.
func (a *Attachment) Del(conf string, del func(*skel.CmdArgs) error) error {
	return a.DelAt(a.Service.Path(), conf, del)
}

// DelAt is Del with another CNI_NETNS than the service's.
func (a *Attachment) DelAt(netns, conf string, del func(*skel.CmdArgs) error) (err error) {
	args := a.args(conf)
	args.Netns = netns
	a.in(func() error {
		err = testutils.CmdDelWithArgs(args, func() error { return del(args) })
		return nil
	})
	return err
}

// GC runs GC or STATUS, which are about no attachment.
func (a *Attachment) GC(conf string, verb func(*skel.CmdArgs) error) (err error) {
	args := &skel.CmdArgs{Path: os.Getenv("PATH"), StdinData: []byte(conf)}
	os.Setenv("CNI_PATH", args.Path)
	defer os.Unsetenv("CNI_PATH")
	a.in(func() error {
		err = verb(args)
		return nil
	})
	return err
}

// in runs a verb in the host's namespace. What the verb runs itself finds that
// namespace, too, since a child begins in its parent thread's.
func (a *Attachment) in(f func() error) {
	a.Host.t.Helper()
	a.Host.Do(f)
}

// With puts a key into a configuration.
func With(t testing.TB, conf, key string, value any) string {
	t.Helper()
	var keys map[string]json.RawMessage
	if err := json.Unmarshal([]byte(conf), &keys); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	keys[key] = raw
	out, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
