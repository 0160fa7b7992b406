package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/check"
	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/report"
	"macvlan-vip/systemd/internal/units"
)

func newCheck() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "check [SERVICE]",
		Short: "Find out why a VIP does not answer",
		Long: `Checks one service, or all that are in a namespace, and changes nothing. Each line
says ok or FAIL, and what to do. It takes about three seconds, while it watches for
connections of the service to its own localhost, and longer for many services, of which
it checks few at a time.

In JSON it is an array of objects with the keys service, check, ok, detail and remedy.
The exit status is 0 if all is ok, 1 if there is a finding, 4 if there is no such unit.`,
		Example: `  systemd-netns check haproxy
  systemd-netns check -o json`,
		Args:              atMostOneService,
		ValidArgsFunction: completeMembers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needRoot(); err != nil {
				return err
			}
			return withSystemd(cmd.Context(), func(sd *units.Systemd) error {
				found, err := checkAll(cmd.Context(), sd, args)
				if err != nil {
					return err
				}
				return tellFindings(found, f)
			})
		},
	}
	f.flags(cmd)
	return cmd
}

func checkAll(ctx context.Context, sd *units.Systemd, args []string) ([]check.Finding, error) {
	subjects, err := subjects(ctx, sd, args)
	if err != nil {
		return nil, err
	}
	results := make([]chan []check.Finding, len(subjects))
	for i, u := range subjects {
		results[i] = make(chan []check.Finding, 1)
		go func() { results[i] <- check.Service(ctx, sd, u) }()
	}
	found := []check.Finding{}
	for _, result := range results {
		found = append(found, <-result...)
	}
	return found, nil
}

// subjects are the service that is named, or all that are in a namespace.
func subjects(ctx context.Context, sd *units.Systemd, args []string) ([]*units.Unit, error) {
	if len(args) > 0 {
		name, err := serviceName(args[0])
		if err != nil {
			return nil, err
		}
		u, err := sd.Unit(ctx, name)
		if err == nil && u.Load == "not-found" {
			err = exitError{fmt.Errorf("%s: %w", u.Name, dropin.ErrNoUnit), exitNoUnit}
		}
		return []*units.Unit{u}, err
	}
	all, err := members.All(ctx, sd)
	var subjects []*units.Unit
	for _, m := range all {
		subjects = append(subjects, m.Unit)
	}
	return subjects, err
}

// tellFindings prints findings. If one is not ok, the command fails.
func tellFindings(found []check.Finding, f format) error {
	var err error
	for _, finding := range found {
		if !finding.OK {
			err = exitError{nil, exitFailure}
		}
		if !f.json() {
			fmt.Println(finding.Text(mark(finding.OK)))
		}
	}
	if f.json() {
		if printErr := report.JSON(os.Stdout, found); printErr != nil {
			return printErr
		}
	}
	return err
}

// mark is ok or FAIL, in colour on a terminal unless NO_COLOR is set
// (https://no-color.org).
func mark(ok bool) string {
	text, colour := "FAIL", "31"
	if ok {
		text, colour = "ok", "32"
	}
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !isTerminal(os.Stdout) {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// tellWorks reports the outcome of a change.
func tellWorks(cmd *cobra.Command, sd *units.Systemd, name string) error {
	ctx := cmd.Context()
	u, err := sd.Unit(ctx, name)
	if err != nil {
		return err
	}
	if !u.Runs() && len(check.Waiting(ctx, sd, u)) == 0 {
		fmt.Printf("it does not run: systemctl start %s\n", u.Name)
		return nil
	}
	for _, finding := range check.Service(ctx, sd, u, check.Works...) {
		fmt.Println(finding.Text(mark(finding.OK)))
	}
	return nil
}
