package runtimes

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	machines "macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

// prepare is what a machine's first process does: folders that a runtime, CNI
// and the shim write to become the machine's own, under their usual names, so
// that the runtimes run as they are configured everywhere. Overlays and
// /var/lib's folders are on tmpfs, since an overlay cannot be another's upper
// layer. $1 is a folder for the machine, $2 the root file system of another
// Debian, if it is to run one.
const prepare = `
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs state "$1"
overlay() { # from at
	mkdir -p "$1" "$layers$2/upper" "$layers$2/work" "$2"
	mount -t overlay -o "lowerdir=$1,upperdir=$layers$2/upper,workdir=$layers$2/work" overlay "$2"
}
layers=$1 top=
if [ -n "$2" ]; then
	top=$1/root
	overlay "$2" "$top"
	for dir in dev sys; do mount --rbind /$dir "$top/$dir"; done
	mount -t proc proc "$top/proc"
else
	for dir in /etc /opt /usr/local /var/lib; do overlay "$dir" "$dir"; done
	mount -t tmpfs root /root
fi
rm -rf "$top"/etc/cni "$top"/etc/containerd "$top"/opt/cni "$top"/var/lib/cni
for dir in cni containers containerd; do
	mkdir -p "$top/var/lib/$dir"
	mount -t tmpfs $dir "$top/var/lib/$dir"
done
mount -t tmpfs run "$top/run"
mkdir -p "$top"/etc/cni/net.d "$top"/etc/containers "$top"/etc/containerd "$top"/opt/cni/bin "$top"/usr/local/bin \
	"$top"/usr/local/libexec/netavark "$top"/run/netns "$top"/run/lock
echo ready
cat
exit
`

// machine is a host in a network namespace whose processes and files are its
// own, too: whatever ends a test, its runtimes and containers end with it.
type machine struct {
	site
	host *testnet.Namespace
	init int
	// root is the folder of the machine's own root file system; empty for one
	// that runs this machine's Debian.
	root string
	// cgroup is where a test's containers go.
	cgroup string
}

// newMachine makes a machine that runs the Debian in a folder, or this
// machine's own where none is named.
func newMachine(t testing.TB, debian string) *machine {
	t.Helper()
	m := &machine{cgroup: "/" + t.Name() + "-" + strconv.Itoa(os.Getpid())}
	host, lan := testnet.NewHost(t, host4+"/24", host6+"/64")
	newLAN(lan, "port")
	m.host = host
	m.site = site{t: t, try: m.tryScript, lan: lan, patience: testnet.Patience}
	m.boot(debian)
	m.install()
	return m
}

// runtimes13 are what Debian 13 has of container runtimes, and what they need.
var runtimes13 = []string{
	"podman", "netavark", "crun", "passt", "uidmap", "containerd", "runc", "containernetworking-plugins", "iptables",
	"linux-image-amd64", "kmod", "udev", // for the machines that boot it
}

// trixie is the root file system of a Debian 13 with container runtimes.
func trixie(t testing.TB) string {
	t.Helper()
	root, err := machines.Root("trixie", runtimes13...)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// requirePackages fails a test that cannot run: a runtime untested is no pass.
func requirePackages(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		requirePackage(t, name)
	}
}

func requirePackage(t testing.TB, name string) {
	t.Helper()
	out, err := exec.Command("dpkg-query", "-W", "-f", "${Status}", name).Output()
	if err != nil || !strings.HasPrefix(string(out), "install ok") {
		t.Fatalf("this test needs the Debian package %s: apt-get install --no-install-recommends %s", name, name)
	}
}

// boot starts the machine's first process; the machine is there until its
// standard input is closed, which the test's end does, however it ends.
func (m *machine) boot(debian string) {
	m.t.Helper()
	// Last, once no process is in them.
	m.t.Cleanup(func() { removeCgroups(m.t, m.cgroup) })
	dir := m.t.TempDir()
	cmd := exec.Command("sh", "-ec", prepare, "sh", dir, debian)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	m.host.Do(cmd.Start)
	m.t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		m.t.Fatalf("prepare a machine: %v: %s", err, line)
	}
	m.init = cmd.Process.Pid
	if debian != "" {
		m.root = dir + "/root"
	}
}

// removeCgroups removes the containers' parent cgroup, and the empty ones that
// runtimes leave in it.
func removeCgroups(t testing.TB, cgroup string) {
	t.Helper()
	for _, above := range []string{"", "/*", "/*/*", "/*/*/*"} {
		tops, _ := filepath.Glob("/sys/fs/cgroup" + above + cgroup)
		for _, top := range tops {
			var dirs []string
			_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for _, dir := range slices.Backward(dirs) { // the innermost first
				if err := os.Remove(dir); err != nil {
					t.Errorf("a process is left: %v", err)
				}
			}
		}
	}
}

// install puts the plugins, the driver, cnitool and the shim where they belong.
func (m *machine) install() {
	m.t.Helper()
	built := filepath.SplitList(os.Getenv("PATH"))[0]
	for from, to := range map[string]string{
		"macvlan-vip": "/opt/cni/bin", "hairpin-route": "/opt/cni/bin", "static": "/opt/cni/bin", "host-local": "/opt/cni/bin", "loopback": "/opt/cni/bin",
		"netavark-plugin": "/usr/local/libexec/netavark/macvlan-vip", "cnitool": "/usr/local/bin", "systemd-netns-helper": "/usr/local/bin",
	} {
		if out, err := exec.Command("cp", filepath.Join(built, from), m.path(to)).CombinedOutput(); err != nil {
			m.t.Fatalf("install %s: %v: %s", from, err, out)
		}
	}
}

// path is where the test finds a file of the machine's.
func (m *machine) path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(m.init), "root", m.root, name)
}

func (m *machine) write(name, content string) {
	m.t.Helper()
	if err := os.WriteFile(m.path(name), []byte(content), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// wrap has a script run in place of a program.
func (m *machine) wrap(program, script string) {
	m.t.Helper()
	m.write("/usr/local/bin/"+program, "#!/bin/sh\n"+script+"\n")
}

// podmanWrapper gives podman the flags for a machine without systemd, and with
// no storage driver's kernel support. The limits are ones that this user may
// set everywhere.
func (m *machine) podmanWrapper() {
	m.wrap("podman", `
if [ "$1" = run ]; then
	shift
	set -- run --cgroup-parent=`+m.cgroup+` --ulimit=nofile=1024:1024 --ulimit=nproc=1000:1000 "$@"
fi
export PODMAN_IGNORE_CGROUPSV1_WARNING=1
exec /usr/bin/podman --cgroup-manager=cgroupfs --runtime=runc --storage-driver=vfs --events-backend=none "$@"`)
}

// load gives a runtime an image of the test's program, by the name of one in the
// page, and with the program's usual argument.
func (m *machine) load(command, name, argument string) {
	m.t.Helper()
	program := filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], "answer")
	m.write("/root/image.tar", string(image(m.t, name, program, argument)))
	m.sh(command + " /root/image.tar")
}

// command is a script to be run on the machine.
func (m *machine) command(script string) *exec.Cmd {
	args := []string{"--target", strconv.Itoa(m.init), "--mount", "--net", "--pid", "--"}
	if m.root != "" {
		args = append(args, "chroot", m.root)
	}
	cmd := exec.Command("nsenter", append(args, "sh", "-euc", script)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	return cmd
}

// tryScript runs a script on the machine and gives what it prints; the error
// has what it prints on standard error.
func (m *machine) tryScript(script string) (string, error) {
	var out [2]*os.File
	for i := range out {
		// Files, since a container that stays would keep a pipe open.
		file, err := os.CreateTemp(m.t.TempDir(), "out")
		if err != nil {
			return "", err
		}
		defer file.Close()
		out[i] = file
	}
	cmd := m.command(script)
	cmd.Stdout, cmd.Stderr = out[0], out[1]
	failed := cmd.Run()
	stdout, err := os.ReadFile(out[0].Name())
	if err != nil {
		return "", err
	}
	if failed != nil {
		stderr, _ := os.ReadFile(out[1].Name())
		failed = fmt.Errorf("%s: %w: %s", script, failed, stderr)
	}
	return string(stdout), failed
}

// background is a command that runs beside a test.
type background struct {
	cmd  *exec.Cmd
	done chan error
	mu   sync.Mutex
	log  bytes.Buffer
}

func (b *background) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *background) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// start runs a script on the machine until it ends by itself or the machine
// does; what it printed is shown if the test fails.
func (m *machine) start(script string) *background {
	m.t.Helper()
	b := &background{cmd: m.command(script), done: make(chan error, 1)}
	b.cmd.Stdout, b.cmd.Stderr = io.Writer(b), io.Writer(b)
	b.cmd.WaitDelay = time.Second
	if err := b.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() { b.done <- b.cmd.Wait() }()
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("%s:\n%s", script, b)
		}
	})
	return b
}
