// kernel runs suites of tests on the kernel of a Debian release, DEBIAN_SUITE
// in the environment: it compiles them here, boots a virtual machine, and runs
// them there one after the other, each in its own folder of a copy of the
// project. Arguments are the packages [those of plugins and keeper, ./tests/cni, ./tests/lan].
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"macvlan-vip/tests/machine"
)

// home is where the machine has the project's files.
const home = "/root/macvlan-vip"

func main() {
	only := flag.String("run", "", "run the tests that match this pattern alone")
	args := flag.String("args", "", "more arguments of the tests, parted by spaces")
	with := flag.String("with", "", "Debian packages that the machine has, parted by spaces")
	flag.Parse()
	if err := run(flag.Args(), *only, strings.Fields(*args), strings.Fields(*with)); err != nil {
		fmt.Fprintln(os.Stderr, "kernel:", err)
		os.Exit(1)
	}
}

func run(patterns []string, only string, args, with []string) (err error) {
	if len(patterns) == 0 {
		patterns = []string{"./plugins/...", "./systemd/internal/watch", "./tests/cni", "./tests/lan"}
	}
	m, err := machine.New(machine.Of(machine.QEMU), machine.Bare(), machine.With(with...), machine.Memory(2048))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Destroy()) }()
	top, err := machine.Top()
	if err != nil {
		return err
	}
	packages, err := compile(top, m.Path(home), patterns)
	if err != nil {
		return err
	}
	if err := m.Boot(); err != nil {
		return err
	}
	version, err := m.Run("uname", "-r")
	if err != nil {
		return err
	}
	fmt.Printf("%s, kernel %s", m.Suite, version)
	return runAll(m, packages, only, args)
}

// compile copies the project's files, and puts test binaries and the programs
// that they run beside them; it gives the packages' folders.
func compile(top, to string, patterns []string) ([]string, error) {
	if err := os.MkdirAll(to+"/built", 0o755); err != nil {
		return nil, err
	}
	script := `tar -C "$1" --exclude=./build --exclude=./bin --exclude=./.git -cf - . | tar -C "$2" -xf -`
	if out, err := exec.Command("sh", "-euc", script, "sh", top, to).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the project: %w: %s", err, out)
	}
	const upstream = "github.com/containernetworking/plugins/plugins/"
	if _, err := goTool(top, "build", "-o", to+"/built/", "./plugins/macvlan-vip", "./plugins/hairpin-route",
		upstream+"ipam/static", upstream+"ipam/host-local", upstream+"ipam/dhcp", upstream+"main/macvlan", upstream+"meta/tuning", "./tests/bench/idle",
		"github.com/containernetworking/cni/cnitool"); err != nil {
		return nil, err
	}
	out, err := goTool(top, append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}"}, patterns...)...)
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, dir := range strings.Fields(out) {
		folder, err := filepath.Rel(top, dir)
		if err != nil {
			return nil, err
		}
		if _, err := goTool(top, "test", "-c", "-ldflags=-s -w", "-o", filepath.Join(to, folder, "built.test"), "./"+folder); err != nil {
			return nil, err
		}
		folders = append(folders, folder)
	}
	return folders, nil
}

func goTool(top string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = top, append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("go %s: %w: %s", args[0], err, exit.Stderr)
	}
	return string(out), err
}

// runAll runs the test binaries, and fails if one does.
func runAll(m *machine.Machine, packages []string, only string, args []string) error {
	var failed []string
	for _, folder := range packages {
		start := time.Now()
		err := m.Exec(context.Background(), machine.Command{
			Args: append([]string{
				"sh", "-c", `cd "$1" && shift && exec ./built.test -test.v -test.timeout 60m -test.run "$@"`, "sh", filepath.Join(home, folder), cmp.Or(only, "."),
			}, args...),
			Env:    []string{"TEST_PLUGINS=" + home + "/built", "BENCH_PATH=" + home + "/built", "MACHINE=qemu"},
			Stdout: os.Stdout, Stderr: os.Stdout,
		})
		result := "ok"
		if err != nil {
			result = "FAIL"
			failed = append(failed, folder)
			fmt.Printf("%s: %v\n", folder, err)
		}
		fmt.Printf("%s\t%s\t%s\n", result, folder, time.Since(start).Round(time.Second))
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: %s", strings.Join(failed, " "))
	}
	return nil
}
