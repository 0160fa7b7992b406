package runtimes

import (
	"bufio"
	"bytes"
	"io"
	"io/fs"
	"net/netip"
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

	"github.com/containernetworking/plugins/pkg/ns"

	"macvlan-vip/tests/nspawn"
	"macvlan-vip/tests/testnet"
)

// prepare is what a machine's first process does: folders that a runtime, CNI
// and the shim write to become the machine's own, under their usual names, so
// that the runtimes run as they are configured everywhere. The overlays and
// /var/lib's folders are on tmpfs, since an overlay cannot be another's upper
// layer. $1 is a folder for the machine, $2 a root file system.
const prepare = `
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs state "$1"
overlay() { # from at
	mkdir -p "$1" "$layers$2/upper" "$layers$2/work" "$2"
	mount -t overlay -o "lowerdir=$1,upperdir=$layers$2/upper,workdir=$layers$2/work" overlay "$2"
}
layers=$1
overlay "$2" "$1/root"
mkdir "$1/root/srv/http"
cat >"$1/root/srv/http/answer" <<'END'
#!/bin/sh
read -r request
printf 'HTTP/1.0 200 OK\r\n\r\n%s' "$SOCAT_PEERADDR"
END
chmod 755 "$1/root/srv/http/answer"
for dir in /etc /opt /usr/local /var/lib; do overlay "$dir" "$dir"; done
mount -t tmpfs root /root
rm -rf /etc/cni /etc/containerd /opt/cni /var/lib/cni
mkdir -p /etc/cni/net.d /etc/containers /etc/containerd /opt/cni/bin /usr/local/bin
for dir in cni containers containerd; do
	mkdir -p /var/lib/$dir
	mount -t tmpfs $dir /var/lib/$dir
done
mount -t tmpfs run /run
mkdir /run/netns /run/lock
echo ready
cat
exit
`

// serve is the command of each container: it tells who asks which address it
// sees them at.
var serve = []string{"/usr/bin/socat", "TCP6-LISTEN:80,ipv6only=0,fork,reuseaddr", "EXEC:/srv/http/answer"}

// machine is a host in a network namespace whose processes and files are its
// own, too: whatever ends a test, its runtimes and containers end with it.
type machine struct {
	t         testing.TB
	host, lan *testnet.Namespace
	init      int
	// root is a Debian root file system that containers may write to.
	root string
	// cgroup is where a test's containers go.
	cgroup string
}

func newMachine(t testing.TB, packages ...string) *machine {
	t.Helper()
	for _, name := range packages {
		requirePackage(t, name)
	}
	debian, err := nspawn.Root()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, cgroup: "/" + t.Name() + "-" + strconv.Itoa(os.Getpid())}
	m.host, m.lan = testnet.NewHost(t, "192.0.2.2/24", "2001:db8::2/64")
	m.lan.AddAddress("port", "192.0.2.3/24")
	m.lan.AddAddress("port", "2001:db8::3/64")
	m.boot(debian)
	m.install()
	return m
}

// requirePackage fails a test that cannot run: a runtime untested is no pass.
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
	m.t.Cleanup(m.removeCgroups)
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
	m.init, m.root = cmd.Process.Pid, dir+"/root"
}

// removeCgroups removes the containers' parent cgroup, and the empty ones that
// runtimes leave in it.
func (m *machine) removeCgroups() {
	for _, pattern := range []string{"/sys/fs/cgroup" + m.cgroup, "/sys/fs/cgroup/*" + m.cgroup} {
		tops, _ := filepath.Glob(pattern)
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
					m.t.Errorf("a process is left: %v", err)
				}
			}
		}
	}
}

// install puts the plugins, cnitool and the shim where they belong.
func (m *machine) install() {
	m.t.Helper()
	built := filepath.SplitList(os.Getenv("PATH"))[0]
	m.run("cp", "-a", built+"/.", "/opt/cni/bin")
	m.run("cp", built+"/cnitool", built+"/systemd-netns-helper", "/usr/local/bin")
}

// path is where the test finds a file of the machine's.
func (m *machine) path(name string) string {
	return filepath.Join("/proc", strconv.Itoa(m.init), "root", name)
}

func (m *machine) write(name, content string) {
	m.t.Helper()
	if err := os.WriteFile(m.path(name), []byte(content), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// command is one to be run on the machine.
func (m *machine) command(args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(m.init), "--mount", "--net", "--pid", "--"}
	cmd := exec.Command("nsenter", append(enter, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	return cmd
}

// run runs a command on the machine and gives what it prints.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	// A file, since a container that stays would keep a pipe open.
	file, err := os.CreateTemp(m.t.TempDir(), "out")
	if err != nil {
		m.t.Fatal(err)
	}
	defer file.Close()
	cmd := m.command(args...)
	cmd.Stdout, cmd.Stderr = file, file
	failed := cmd.Run()
	out, err := os.ReadFile(file.Name())
	if err != nil {
		m.t.Fatal(err)
	}
	if failed != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), failed, out)
	}
	return string(out)
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

// start runs a command on the machine until it ends by itself or the machine
// does; what it printed is shown if the test fails.
func (m *machine) start(args ...string) *background {
	m.t.Helper()
	b := &background{cmd: m.command(args...), done: make(chan error, 1)}
	b.cmd.Stdout, b.cmd.Stderr = io.Writer(b), io.Writer(b)
	b.cmd.WaitDelay = time.Second
	if err := b.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() { b.done <- b.cmd.Wait() }()
	m.t.Cleanup(func() {
		if m.t.Failed() {
			m.t.Logf("%s:\n%s", strings.Join(args, " "), b)
		}
	})
	return b
}

// left lists the files that CNI, its plugins and the runtime keep of
// attachments and containers' namespaces.
func (m *machine) left() (files []string) {
	m.t.Helper()
	for _, dir := range []string{"/run/cni", "/run/netns", "/var/lib/cni"} {
		err := filepath.WalkDir(m.path(dir), func(path string, entry fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err == nil && !entry.IsDir() {
				files = append(files, strings.TrimPrefix(path, m.path("/")))
			}
			return err
		})
		if err != nil {
			m.t.Fatal(err)
		}
	}
	return files
}

// reached asserts that host and LAN reach each VIP, and that it sees them at
// their own addresses.
func (m *machine) reached(vips ...string) {
	m.t.Helper()
	for _, vip := range vips {
		host, peer := "192.0.2.2", "192.0.2.3"
		if strings.Contains(vip, ":") {
			host, peer = "2001:db8::2", "2001:db8::3"
		}
		m.reachedFrom(m.host, vip, host)
		m.reachedFrom(m.lan, vip, peer)
	}
}

func (m *machine) reachedFrom(from *testnet.Namespace, vip, want string) {
	m.t.Helper()
	url := "http://" + netip.AddrPortFrom(netip.MustParseAddr(vip), 80).String()
	var body string
	var err error
	// A container's process listens a moment after it has started.
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if body, err = get(from, url); err == nil {
			break
		}
	}
	if err != nil {
		m.t.Fatalf("no answer from %s to %s: %v", url, want, err)
	}
	seen, err := netip.ParseAddr(strings.Trim(body, "[]"))
	if err != nil || seen.Unmap() != netip.MustParseAddr(want) {
		m.t.Errorf("%s sees its peer at %q (%v), want %s", url, body, err, want)
	}
}

func get(from *testnet.Namespace, url string) (body string, err error) {
	var out []byte
	err = from.NetNS.Do(func(ns.NetNS) error {
		out, err = exec.Command("curl", "--silent", "--show-error", "--noproxy", "*",
			"--connect-timeout", "0.5", "--max-time", "3", url).CombinedOutput()
		return err
	})
	return string(out), err
}

// clean asserts that all is as it was when the state was taken.
func (m *machine) clean(before string) {
	m.t.Helper()
	if after := m.host.Snapshot(); after != before {
		m.t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, before)
	}
	if files := m.left(); len(files) > 0 {
		m.t.Errorf("left behind: %q", files)
	}
}
