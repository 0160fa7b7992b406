package main

import (
	"bytes"
	"cmp"
	"crypto/sha512"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// cni runs cnitool for the namespace. It gives the result of an ADD, else nil;
// what the plugins have to say is passed on, and an error is in plain words.
func (n *netns) cni(verb string) (*current.Result, error) {
	cmd := exec.Command(beside("cnitool"), verb, n.network, n.path)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "CNI_PATH="+cniPath(), "NETCONFPATH="+n.confDir, "CNI_IFNAME="+n.ifName)
	// Neither cnitool's nor a plugin's to use.
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET=")
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("run cnitool: %w; repeat `make install`, which installs it", err)
	}
	logs, problem := split(stderr.String())
	if logs != "" {
		n.say(levelWarning, "%s", logs)
	}
	if err != nil {
		return nil, n.explain(problem, verb)
	}
	if verb != "add" {
		return nil, nil
	}
	return parseResult(stdout.Bytes())
}

// beside is the path of a program of this one's folder or, where it is not
// there, of the PATH.
func beside(program string) string {
	if self, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(self), program)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return program
}

// cniPath is where plugins are looked for. Packages have the IPAM plugins in a
// folder of their own, since others have them in /opt/cni/bin, too.
func cniPath() string {
	return cmp.Or(os.Getenv("CNI_PATH"), filepath.Join(prefix(), "lib/macvlan-vip")+":/opt/cni/bin")
}

// prefix is where the project is installed, such as /usr/local.
func prefix() string {
	self, err := os.Executable()
	if err != nil {
		return "/usr/local"
	}
	return filepath.Dir(filepath.Dir(self))
}

// split parts what cnitool and the plugins below it print on standard error
// into the plugins' own lines and the error, without the text on how cnitool
// is used that follows one.
func split(stderr string) (logs, problem string) {
	text, usage, found := strings.Cut("\n"+stderr, "\nUsage:\n")
	if !found {
		text, usage = "\n"+stderr, ""
	}
	logs, problem, found = strings.Cut(text, "\nError: ")
	if !found && usage != "" {
		problem = usage
	}
	return strings.TrimSpace(logs), strings.TrimSpace(problem)
}

// parseResult reads a result of any version of the CNI specification.
func parseResult(data []byte) (*current.Result, error) {
	result, err := create.CreateFromBytes(data)
	if err != nil {
		return nil, fmt.Errorf("read cnitool's result: %w", err)
	}
	return current.NewResultFromResult(result)
}

// containerID is cnitool's for a namespace.
func containerID(path string) string {
	sum := sha512.Sum512([]byte(path))
	return fmt.Sprintf("cnitool-%x", sum[:10])
}
