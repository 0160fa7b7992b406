package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/report"
	"macvlan-vip/systemd/internal/units"
)

// format is the flag -o.
type format string

func (f *format) flags(cmd *cobra.Command) {
	cmd.Flags().VarP(f, "output", "o", "text or json; json."+report.Version+" keeps the current JSON format")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *format) Set(text string) error {
	switch text {
	case "text", "json":
		*f = format(text)
	case "json." + report.Version:
		*f = "json"
	default:
		return fmt.Errorf("no such format; use text or json")
	}
	return nil
}
func (f *format) Type() string   { return "FORMAT" }
func (f *format) String() string { return "" }
func (f *format) json() bool     { return *f == "json" }

func newList() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the services that are in a namespace, with their VIPs",
		Long: `Lists the services that are in a namespace. What only root can see is reported on
standard error.

In JSON it is an array of objects with the keys service, state, namespace, network,
vips, link, mac and master.`,
		Example: `  systemd-netns list
  systemd-netns list -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return list(cmd, f) },
	}
	f.flags(cmd)
	return cmd
}

func list(cmd *cobra.Command, f format) error {
	return withSystemd(cmd.Context(), func(sd *units.Systemd) error {
		services, problems, err := report.List(cmd.Context(), sd)
		if err != nil {
			return err
		}
		if f.json() {
			err = report.JSON(os.Stdout, services)
		} else {
			err = report.Table(os.Stdout, services)
		}
		return tellProblems(problems, err)
	})
}

// tellProblems reports what could not be read. For root that is a failure.
func tellProblems(problems []error, err error) error {
	for _, p := range problems {
		complain(p)
	}
	if err == nil && len(problems) > 0 && os.Geteuid() == 0 {
		return exitError{nil, exitFailure}
	}
	return err
}
