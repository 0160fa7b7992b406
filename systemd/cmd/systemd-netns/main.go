// systemd-netns gives services network namespaces of their own with virtual IPs,
// changes these, moves services back to the host's network, and reports and checks
// their state.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/enter"
	"macvlan-vip/systemd/internal/units"
)

// version is stamped by the build.
var version = "unknown"

// Exit statuses, besides 0.
const (
	exitFailure = 1
	exitUsage   = 2
	exitNoUnit  = 4
)

// exitError is an error with its own exit status; a nil one is already printed.
type exitError struct {
	error
	status int
}

func (e exitError) Unwrap() error { return e.error }

func main() {
	enter.Host()
	// SIGHUP comes when a connection breaks that leads through the service itself.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

func run(ctx context.Context, args []string) int {
	root := newRoot()
	started := false
	root.PersistentPreRun = func(*cobra.Command, []string) { started = true }
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	var exit exitError
	if errors.As(err, &exit) {
		if exit.error != nil {
			complain(exit.error)
		}
		return exit.status
	}
	complain(err)
	if started {
		return exitFailure
	}
	fmt.Fprintf(os.Stderr, "See `%s --help`.\n", cmd.CommandPath())
	return exitUsage
}

func complain(err error) { fmt.Fprintf(os.Stderr, "systemd-netns: %v\n", err) }

// newRoot builds the command tree, from which completion, --help and the manual
// page are generated as well.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "systemd-netns",
		Short:         "Give a service its own network namespace and virtual IPs on the LAN",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return exitError{errors.New("name a command; see `systemd-netns --help`"), exitUsage}
		},
	}
	root.SetVersionTemplate("systemd-netns {{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	cobra.EnableCommandSorting = false
	root.AddCommand(newEnable(), newSet(), newDisable(), newList(), newStatus(), newCheck(), newExec(), newCompletion())
	return root
}

// withSystemd runs a function with a connection to systemd.
func withSystemd(ctx context.Context, f func(*units.Systemd) error) error {
	sd, err := units.Connect(ctx)
	if err != nil {
		return err
	}
	defer sd.Close()
	return f(sd)
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("this needs root: run it with sudo")
	}
	return nil
}
