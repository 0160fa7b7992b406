package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/units"
)

func newDisable() *cobra.Command {
	var t transaction
	cmd := &cobra.Command{
		Use:   "disable SERVICE",
		Short: "Move a service back to the host's network",
		Long: `Moves a service, and the sockets that trigger it, back to the host's network,
removes every file that enable wrote for it, and restarts it if it runs. Files of an
administrator are left alone. If the service does not come up on the host's network,
everything is rolled back.

On a terminal it asks first. Elsewhere, such as in a script, it needs --yes; without
that the exit status is 2.`,
		Example:           "  systemd-netns disable haproxy",
		Args:              oneService,
		ValidArgsFunction: completeMembers,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := serviceName(args[0])
			if err != nil {
				return err
			}
			return withSystemd(cmd.Context(), func(sd *units.Systemd) error {
				question := "This moves " + name + " back to the host's network"
				if u, err := sd.Unit(cmd.Context(), name); err == nil && u.Runs() {
					question = fmt.Sprintf("This restarts %s on the host's own addresses", u.Name)
				}
				_, err := t.run(cmd.Context(), sd, func() (*dropin.Change, error) { return dropin.Disable(cmd.Context(), sd, name) }, question)
				return err
			})
		},
	}
	cmd.Flags().SortFlags = false
	t.flags(cmd)
	return cmd
}
