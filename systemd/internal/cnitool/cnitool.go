// Package cnitool runs cnitool for a namespace, rewrites its errors for people, and
// reads its cache.
package cnitool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"macvlan-vip/systemd/internal/chain"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/settings"
)

// Patience is how long cnitool may take: plugins probe for some hundred
// milliseconds, a DHCP server answers within some seconds, and on a host that
// starts hundreds of services at once each waits for a CPU. It is more than
// macvlan-vip gives an IPAM plugin, so that macvlan-vip cleans up and names that.
const Patience = time.Minute

// patience is shorter in tests.
var patience = Patience

// Run runs cnitool for the namespace. It gives the result of an ADD, else nil,
// and the plugins' log lines; errors are rewritten for people.
func Run(n settings.Namespace, verb string) (result *current.Result, logs string, err error) {
	found, _, err := networks.Find(n.ConfDir, n.Network)
	if err != nil {
		return nil, "", err
	}
	if found == nil {
		return nil, "", networks.Missing(n)
	}
	dir, forget, err := folderOf(found.Text)
	if err != nil {
		return nil, "", fmt.Errorf("give cnitool its network: %w", err)
	}
	defer forget()
	stdout, stderr, err := chain.Run(context.Background(), chain.Command{
		Program: settings.Program("cnitool"), Args: []string{verb, n.Network, n.Path}, Env: environment(n, dir), Timeout: patience,
	})
	logs, problem := split(stderr)
	var exit *exec.ExitError
	switch {
	case errors.Is(err, chain.ErrTimeout):
		return nil, logs, fmt.Errorf("cnitool: %w; find out what a plugin of network %q waits for: %s", err, n.Network, byHand(n, verb))
	case errors.As(err, &exit):
		return nil, logs, Explain(n, problem, verb)
	case err != nil:
		return nil, "", fmt.Errorf("run cnitool: %w; repeat `make install`, which installs it", err)
	case verb != "add":
		return nil, logs, nil
	}
	result, err = parseResult(stdout)
	return result, logs, err
}

// environment is that of cnitool, which reads networks from dir, and the plugins.
func environment(n settings.Namespace, dir string) []string {
	env := os.Environ()
	for key, value := range n.Env {
		env = append(env, key+"="+value)
	}
	// The last of two is taken. The socket is neither cnitool's nor a plugin's to
	// use.
	return append(env, "CNI_PATH="+n.CNIPath, "NETCONFPATH="+dir, "CNI_IFNAME="+n.IfName,
		"CNI_ARGS="+n.CNIArgs, "CAP_ARGS="+n.CapArgs, "NOTIFY_SOCKET=")
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
