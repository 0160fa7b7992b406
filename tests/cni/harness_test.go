// Package cni tests the built plugins from outside, as runtimes use them:
// through the real cnitool, and by the protocol's environment and standard
// streams. Every host is a network namespace of the test's own.
package cni

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"macvlan-vip/tests/testnet"
)

func TestMain(m *testing.M) {
	const upstream = "github.com/containernetworking/plugins/plugins/"
	os.Exit(testnet.Plugins(m,
		"macvlan-vip/plugins/macvlan-vip", "macvlan-vip/plugins/hairpin-route",
		upstream+"ipam/static", upstream+"ipam/host-local", upstream+"ipam/dhcp", upstream+"main/macvlan", upstream+"meta/tuning",
		"github.com/containernetworking/cni/cnitool"))
}

// lab is a host with an uplink, and the service's namespaces on it.
type lab struct {
	t         testing.TB
	host, lan *testnet.Namespace
	// path is CNI_PATH.
	path string
	// leases is the folder of host-local's leases, if the test uses any.
	leases string
}

// newLab makes a host with the given addresses. At the test's end it must
// hold what it held at the beginning.
func newLab(t testing.TB, addrs ...string) *lab {
	t.Helper()
	l := &lab{t: t, path: os.Getenv("PATH"), leases: t.TempDir()}
	l.host, l.lan = testnet.NewHost(t, addrs...)
	before := l.state()
	t.Cleanup(func() { l.mustBe(before, "after the test") })
	return l
}

// state is all that an attachment can change outside its own namespace.
func (l *lab) state() string {
	l.t.Helper()
	return l.host.Snapshot() + files(l.t, l.journals()...) + files(l.t, l.leases)
}

func (l *lab) mustBe(want, when string) {
	l.t.Helper()
	if diff := lines(want, l.state()); diff != "" {
		l.t.Errorf("%s the host's state is another: %s", when, diff)
	}
}

// lines compares two states line by line.
func lines(want, have string) string {
	return cmp.Diff(strings.Split(want, "\n"), strings.Split(have, "\n"))
}

// journals are the folders in which the plugins keep what they know of a host.
func (l *lab) journals() (dirs []string) {
	scope := l.scope()
	for _, plugin := range []string{"macvlan-vip", "hairpin-route"} {
		dirs = append(dirs, filepath.Join("/run/cni", plugin, scope))
	}
	return dirs
}

// scope names the host's namespace as the plugins do.
func (l *lab) scope() string {
	l.t.Helper()
	if cookie, err := l.netnsCookie(); err == nil {
		return fmt.Sprintf("netns-%d", cookie)
	}
	return fmt.Sprintf("netns-inode-%d", l.cookie())
}

// cookie is the number that the kernel gives a namespace once and for all or,
// before Linux 5.14, its inode's.
func (l *lab) cookie() uint64 {
	l.t.Helper()
	if cookie, err := l.netnsCookie(); err == nil {
		return cookie
	}
	var stat unix.Stat_t
	if err := unix.Stat(l.host.Path(), &stat); err != nil {
		l.t.Fatal(err)
	}
	return stat.Ino
}

func (l *lab) netnsCookie() (cookie uint64, err error) {
	l.t.Helper()
	l.host.Do(func() error {
		fd, e := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if e != nil {
			return e
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return nil
	})
	return cookie, err
}

// files lists folders with all that is in them.
func files(t testing.TB, dirs ...string) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || entry.IsDir() || isBookkeeping(entry.Name()) {
				return err
			}
			var content []byte
			if strings.HasSuffix(path, ".lock") {
				// It names the last process that held it.
			} else if entry.Type() == fs.ModeSymlink {
				target, _ := os.Readlink(path)
				content = []byte(target)
			} else if content, err = os.ReadFile(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			fmt.Fprintf(&b, "# %s\n%s\n", path, content)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// isBookkeeping tells host-local's own files, which it never removes, from its
// leases.
func isBookkeeping(name string) bool {
	return name == "lock" || strings.HasPrefix(name, "last_reserved_ip")
}

// outcome is what a process that the protocol starts leaves behind.
type outcome struct {
	stdout, stderr string
	status         int
	// cpu is the time that it and its children computed, whatever else the
	// machine was busy with.
	cpu time.Duration
}

// ok tells whether the verb succeeded.
func (o outcome) ok() bool { return o.status == 0 }

// err is the error structure on the standard output; it is the zero value
// where there is none.
func (o outcome) err() (e types.Error) {
	if json.Unmarshal([]byte(o.stdout), &e) != nil {
		return types.Error{}
	}
	return e
}

func (o outcome) String() string {
	return fmt.Sprintf("exit status %d\nstdout: %s\nstderr: %s", o.status, o.stdout, o.stderr)
}

// exec runs a program in the host's namespace with nothing in its environment
// but what is given.
func (l *lab) exec(env []string, stdin string, argv ...string) (o outcome) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	env = append(slices.Clone(env), testnet.CoverEnv()...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, strings.NewReader(stdin), &stdout, &stderr
	l.host.Do(func() error {
		// The child begins in the namespace of the thread that starts it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			return err
		}
		return nil
	})
	ended := cmd.ProcessState
	return outcome{stdout.String(), stderr.String(), ended.ExitCode(), ended.UserTime() + ended.SystemTime()}
}

// attachment is a service's link as the protocol names it.
type attachment struct {
	*lab
	service *testnet.Namespace
	// netns is CNI_NETNS where it is another path than the service's own.
	netns  string
	id     string
	ifName string
	args   string
}

func (l *lab) attachment(id string) *attachment {
	l.t.Helper()
	return &attachment{lab: l, service: testnet.New(l.t), id: id, ifName: "mv0"}
}

// env is the protocol's environment for a verb.
func (a *attachment) env(verb string) []string {
	env := []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + a.id, "CNI_IFNAME=" + a.ifName, "CNI_PATH=" + a.path}
	if a.args != "" {
		env = append(env, "CNI_ARGS="+a.args)
	}
	if a.netns != "" {
		env = append(env, "CNI_NETNS="+a.netns)
	} else if a.service != nil {
		env = append(env, "CNI_NETNS="+a.service.Path())
	}
	return env
}

// run runs a verb of a plugin.
func (a *attachment) run(plugin, verb, conf string) outcome {
	return a.exec(a.env(verb), conf, plugin)
}

// must runs a verb that has to succeed.
func (a *attachment) must(plugin, verb, conf string) outcome {
	a.t.Helper()
	o := a.run(plugin, verb, conf)
	if !o.ok() {
		a.t.Errorf("%s of %s: %s", verb, plugin, o)
	}
	return o
}

// cnitool runs the real one on a network in a folder.
func (l *lab) cnitool(verb, folder, network, netns string) outcome {
	return l.exec([]string{"NETCONFPATH=" + folder, "CNI_PATH=" + l.path, "PATH=" + l.path}, "", lookPath("cnitool"), verb, network, netns)
}

// lookPath finds a program that TestMain built, for calls without a PATH.
func lookPath(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		panic(err)
	}
	return path
}

// cached lists what libcni keeps about an attachment of cnitool's.
func cached(t testing.TB, netns string) string {
	t.Helper()
	sum := sha512.Sum512([]byte(netns))
	found, err := filepath.Glob(fmt.Sprintf("/var/lib/cni/results/*cnitool-%x*", sum[:10]))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, "\n")
}

// conf is a plugin's configuration with the given keys.
func conf(cniVersion, plugin, network, keys string) string {
	if keys != "" {
		keys = ", " + keys
	}
	if plugin == "macvlan-vip" {
		keys += `, "probe": {"count": 1, "waitMs": 20}, "announce": {"count": 1}`
	}
	return fmt.Sprintf(`{"cniVersion": %q, "name": %q, "type": %q%s}`, cniVersion, network, plugin, keys)
}
