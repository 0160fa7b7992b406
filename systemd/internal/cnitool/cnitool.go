// Package cnitool runs cnitool for a namespace, puts its errors into plain
// words, and reads what it remembers.
package cnitool

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"macvlan-vip/systemd/internal/settings"
)

// Run runs cnitool for the namespace. It gives the result of an ADD, else nil,
// and what the plugins have to say; an error is in plain words.
func Run(n settings.Namespace, verb string) (result *current.Result, logs string, err error) {
	cmd := exec.Command(settings.Program("cnitool"), verb, n.Network, n.Path)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "CNI_PATH="+settings.CNIPath(), "NETCONFPATH="+n.ConfDir, "CNI_IFNAME="+n.IfName)
	// Neither cnitool's nor a plugin's to use.
	cmd.Env = append(cmd.Env, "NOTIFY_SOCKET=")
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return nil, "", fmt.Errorf("run cnitool: %w; repeat `make install`, which installs it", err)
	}
	logs, problem := split(stderr.String())
	if err != nil {
		return nil, logs, explain(n, problem, verb)
	}
	if verb != "add" {
		return nil, logs, nil
	}
	result, err = parseResult(stdout.Bytes())
	return result, logs, err
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
