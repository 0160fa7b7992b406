// version prints the version of a package of this commit, by git, in a form
// that dpkg and rpm sort in the same order:
//
//	0.1.0~git20261124084400.c36659bdaabb   before the first release
//	0.2.0                                  at the tag v0.2.0
//	0.2.0+git20261130120000.0123456789ab   after it
//	0.3.0~rc.1                             at the tag v0.3.0-rc.1
//
// The time is the commit's, in UTC. ".dirty" follows where files differ from it.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// first is the release to come while there is none.
const first = "0.1.0"

func main() {
	v, err := version()
	if err != nil {
		fmt.Fprintf(os.Stderr, "version: %v; outside a git repository, set PKGVERSION\n", err)
		os.Exit(1)
	}
	fmt.Println(v)
}

func version() (string, error) {
	commit, err := git("log", "-1", "--abbrev=12", "--date=format-local:%Y%m%d%H%M%S", "--format=git%cd.%h")
	if err != nil {
		return "", err
	}
	changed, err := git("status", "--porcelain", "--untracked-files=no")
	if err != nil {
		return "", err
	}
	v := first + "~" + commit
	// Fails where there is no tag yet.
	if tag, err := git("describe", "--tags", "--match=v[0-9]*", "--abbrev=0"); err == nil {
		v = strings.Replace(strings.TrimPrefix(tag, "v"), "-", "~", 1)
		if _, err := git("describe", "--tags", "--match=v[0-9]*", "--exact-match"); err != nil {
			v += "+" + commit
		}
	}
	if changed != "" {
		v += ".dirty"
	}
	return v, nil
}

func git(args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
