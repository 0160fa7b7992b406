package main

import (
	"errors"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/units"
)

func newSet() *cobra.Command {
	var up dropin.Update
	var t transaction
	cmd := &cobra.Command{
		Use:   "set SERVICE",
		Short: "Change the VIPs of a service while it runs",
		Long: `Adds and removes VIPs. The service goes on running, and so do the connections to
the VIPs that stay. A new gateway takes effect by a restart of every service in the
namespace: if there are others, it asks first on a terminal, and needs --yes elsewhere.
While another edit waits for a restart, VIPs cannot be changed. If a change fails, it is
rolled back.`,
		Example: `  systemd-netns set haproxy --add-vip 192.0.2.11/24
  systemd-netns set haproxy --remove-vip 192.0.2.10/24
  systemd-netns set haproxy --vip 192.0.2.10/24 --vip 192.0.2.12/24`,
		Args:              oneService,
		ValidArgsFunction: completeMembers,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case len(up.VIPs)+len(up.Add)+len(up.Remove)+len(up.Gateways) == 0:
				return exitError{errors.New("name a change: --vip, --add-vip, --remove-vip or --gateway"), exitUsage}
			case len(up.VIPs) > 0 && len(up.Add)+len(up.Remove) > 0:
				return exitError{errors.New("--vip names all VIPs; use it without --add-vip and --remove-vip"), exitUsage}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if up.Unit, err = serviceName(args[0]); err != nil {
				return err
			}
			return withSystemd(cmd.Context(), func(sd *units.Systemd) error {
				made, err := t.run(cmd.Context(), sd, func() (*dropin.Change, error) { return dropin.Set(cmd.Context(), sd, up) }, "")
				if err != nil || !made {
					return err
				}
				return tellWorks(cmd, sd, up.Unit)
			})
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.Var((*vips)(&up.VIPs), "vip", "a VIP, repeatable; together they replace the current ones")
	flags.Var((*vips)(&up.Add), "add-vip", "a VIP to add, repeatable")
	flags.Var((*vips)(&up.Remove), "remove-vip", "a VIP to remove, repeatable")
	flags.Var((*gateways)(&up.Gateways), "gateway", "the default route's gateway, one for each family; restarts the service")
	t.flags(cmd)
	return cmd
}
