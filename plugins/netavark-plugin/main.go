// netavark-plugin is podman's network driver macvlan-vip: netavark, podman's
// network program, runs it as a plugin. It turns a podman network into a CNI
// network of macvlan-vip and hairpin-route, and hands over to these.
//
// The interface is netavark's plugin-API.md, version 1.0.0: a verb as the first
// argument, JSON on standard input and output, and an error as {"error": TEXT}.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/plugins/internal/cnierr"
)

// apiVersion is that of netavark's plugin interface.
const apiVersion = "1.0.0"

// version is stamped by the Makefile.
var version = "unknown"

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "--help" || os.Args[1] == "-h") {
		fmt.Print(help)
		return
	}
	answer, err := run(context.Background(), os.Args[1:], os.Stdin)
	if err != nil {
		answer = map[string]string{"error": message(err)}
	}
	if answer != nil {
		if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
			fmt.Fprintf(os.Stderr, "macvlan-vip: print the answer: %v\n", err)
			os.Exit(1)
		}
	}
	if err != nil {
		os.Exit(1)
	}
}

// run runs a verb and gives what it prints; nil for nothing.
func run(ctx context.Context, args []string, stdin io.Reader) (any, error) {
	if len(args) == 0 || args[0] == "info" {
		return map[string]string{"version": version, "api_version": apiVersion}, nil
	}
	verb := args[0]
	if verb == "create" {
		data, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fmt.Errorf("read the network: %w", err)
		}
		return create(ctx, data)
	}
	if verb != "setup" && verb != "teardown" {
		return nil, fmt.Errorf("%q: no such verb; use create, setup, teardown or info", verb)
	}
	if len(args) != 2 {
		return nil, fmt.Errorf("%s: give the path of the container's network namespace, and nothing else", verb)
	}
	var a attachment
	if err := json.NewDecoder(stdin).Decode(&a); err != nil {
		return nil, fmt.Errorf("%s: read the container's network: %w", verb, err)
	}
	a.netns = args[1]
	if verb == "teardown" {
		return nil, a.teardown(ctx)
	}
	return a.setup(ctx)
}

// message is an error's text for podman's user. A CNI plugin's own words are
// enough; libcni puts around them which of its files it was at.
func message(err error) string {
	var plugins *types.Error
	if errors.As(err, &plugins) {
		return plugins.Error()
	}
	return cnierr.ToCNI(err).Error()
}
