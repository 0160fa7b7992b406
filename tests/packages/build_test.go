// Package packages tests the packages for distributions: how they are made,
// and what an operator meets who installs, upgrades and removes them on a
// machine with a service on its VIPs.
package packages

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"macvlan-vip/tests/machine"
)

// older and newer are versions as packages of two commits have them.
const (
	older = "0.1.0~git20260101000000.000000000001"
	newer = "0.1.0~git20260102000000.000000000002"
)

// kinds of packages, by their targets in the Makefile.
var kinds = []string{"deb", "rpm"}

func top(t testing.TB) string {
	t.Helper()
	dir, err := machine.Top()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// build makes the packages of a version, and gives their paths by kind. env is
// added to the environment.
func build(t testing.TB, version, umask string, env ...string) map[string]string {
	t.Helper()
	dist := t.TempDir()
	cmd := exec.Command("sh", "-c", "umask "+umask+` && exec "$@"`, "sh",
		"make", "-C", top(t), "deb", "rpm", "DIST="+dist, "PKGVERSION="+version)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make packages: %v\n%s", err, out)
	}
	made := map[string]string{}
	for _, kind := range kinds {
		found, err := filepath.Glob(filepath.Join(dist, "*."+kind))
		if err != nil || len(found) != 1 {
			t.Fatalf("%s packages made: %q, %v", kind, found, err)
		}
		made[kind] = found[0]
	}
	return made
}

// reproducible: another time, folder, umask and time zone give the same bytes.
func reproducible(t *testing.T, made map[string]string) {
	again := build(t, older, "077", "TZ=Pacific/Auckland", "LC_ALL=C.UTF-8", "HOSTNAME=elsewhere")
	for kind, path := range made {
		if name := filepath.Base(again[kind]); name != filepath.Base(path) {
			t.Errorf("%s, and again %s", filepath.Base(path), name)
		}
		if !bytes.Equal(read(t, path), read(t, again[kind])) {
			t.Errorf("the two %s packages differ", kind)
		}
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// licences: the licence file names every module that is linked into a program.
func licences(t *testing.T, deb string) {
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	named := strings.Fields(string(read(t, filepath.Join(root, "usr/share/doc/macvlan-vip/copyright"))))
	programs := 0
	for _, pattern := range []string{"usr/bin/*", "opt/cni/bin/*", "usr/lib/macvlan-vip/*"} {
		paths, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			programs++
			for _, module := range modules(t, path) {
				if !slices.Contains(named, module) {
					t.Errorf("packaging/copyright names no licence of %s, which is in %s", module, filepath.Base(path))
				}
			}
		}
	}
	if programs < 7 {
		t.Errorf("the package has %d programs", programs)
	}
}

func modules(t testing.TB, program string) []string {
	t.Helper()
	out, err := exec.Command("go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "dep" {
			found = append(found, fields[1])
		}
	}
	return found
}

// TestVersion: versions by git, before, at and after a release, grow for dpkg
// and are such as it takes.
func TestVersion(t *testing.T) {
	program := filepath.Join(t.TempDir(), "version")
	if out, err := exec.Command("go", "build", "-o", program, "../../packaging/version").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	repo := t.TempDir()
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = repo
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_COMMITTER_DATE=@1770000000 +0200",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %q: %v: %s", name, args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("git", "init", "-q")
	var versions []string
	for _, tag := range []string{"", "v0.1.0-rc.1", "v0.1.0", "", "v0.2.0"} {
		run("git", "commit", "-q", "--allow-empty", "-m", "change")
		if tag != "" {
			run("git", "tag", tag)
		}
		versions = append(versions, run(program))
	}
	if versions[1] != "0.1.0~rc.1" || versions[2] != "0.1.0" || versions[4] != "0.2.0" {
		t.Errorf("versions of releases: %q", versions)
	}
	if want := "0.1.0~git20260202024000."; !strings.HasPrefix(versions[0], want) {
		t.Errorf("before the first release: %q, want %q…", versions[0], want)
	}
	for i, version := range versions {
		run("dpkg", "--validate-version", version+"-1")
		if i > 0 {
			run("dpkg", "--compare-versions", versions[i-1], "lt", version)
		}
	}
	if err := os.WriteFile(filepath.Join(repo, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	run("git", "add", "file")
	if got := run(program); got != fmt.Sprint(versions[4], ".dirty") {
		t.Errorf("with a change: %q", got)
	}
}
