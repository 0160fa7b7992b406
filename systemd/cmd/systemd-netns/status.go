package main

import (
	"os"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/report"
	"macvlan-vip/systemd/internal/units"
)

func newStatus() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "status [SERVICE]",
		Short: "Show what the kernel holds of a service's namespace",
		Long: `Shows the VIPs, links and routes of a service as the kernel has them, how they differ
from what was created, and which edits of its configuration are not in effect. Without
a service it is the list.

In JSON it is an object with the keys of list, and drift, an array of differences, and
edited, true or false.`,
		Example: `  systemd-netns status haproxy
  systemd-netns status haproxy -o json`,
		Args:              atMostOneService,
		ValidArgsFunction: completeMembers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return list(cmd, f)
			}
			name, err := serviceName(args[0])
			if err != nil {
				return err
			}
			return withSystemd(cmd.Context(), func(sd *units.Systemd) error {
				status, problems, err := report.Of(cmd.Context(), sd, name)
				if err != nil {
					return err
				}
				if f.json() {
					err = report.JSON(os.Stdout, status)
				} else {
					status.Text(os.Stdout)
				}
				return tellProblems(problems, err)
			})
		},
	}
	f.flags(cmd)
	return cmd
}
