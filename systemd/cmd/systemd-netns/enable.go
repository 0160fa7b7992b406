package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

const aboutEnable = `Puts a service, and the sockets that trigger it, into a network namespace, and
restarts it if it runs. On a service that is in one already, it changes what the
options name. If the service does not come up, everything is rolled back.

Without --network, --vip writes a network for this namespace alone, to
/etc/systemd-netns/net.d; --master, --gateway and --dns are for that one. But if
/etc/cni/net.d has a network of the namespace's name, that is used, and --vip
chooses the VIPs in it, as with --network.

If other running services are restarted, too, it asks first on a terminal; elsewhere it
needs --yes, without which the exit status is 2.`

func newEnable() *cobra.Command {
	var w dropin.Wish
	var t transaction
	cmd := &cobra.Command{
		Use:   "enable SERVICE",
		Short: "Put a service into a network namespace with its own VIPs",
		Long:  aboutEnable,
		Example: `  systemd-netns enable haproxy --vip 192.0.2.10/24 --vip 2001:db8::10/64
  systemd-netns enable web --network lan --vip 192.0.2.20/24
  systemd-netns enable two --in front
  systemd-netns enable haproxy --vip 192.0.2.10/24 --dry-run`,
		Args:              oneService,
		ValidArgsFunction: completeServices,
		PreRunE:           func(*cobra.Command, []string) error { return checkNames(w) },
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if w.Unit, err = serviceName(args[0]); err != nil {
				return err
			}
			return withSystemd(cmd.Context(), func(sd *units.Systemd) error {
				made, err := t.run(cmd.Context(), sd, func() (*dropin.Change, error) { return dropin.Enable(cmd.Context(), sd, w) }, "")
				if err != nil || !made {
					return err
				}
				return tellWorks(cmd, sd, w.Unit)
			})
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.Var((*vips)(&w.VIPs), "vip", "a VIP, repeatable; together they replace the current ones")
	flags.Var((*gateways)(&w.Gateways), "gateway", "the default route's gateway, one for each family [the host's own on the master]")
	flags.Var((*addresses)(&w.DNS), "dns", "a DNS server for the service, repeatable")
	flags.Var(word{&w.Master, "LINK"}, "master", "the host's link for the VIPs [the one whose subnet contains them]")
	flags.Var(word{&w.Network, "NAME"}, "network", "a network in /etc/cni/net.d, which namespaces can share")
	flags.Var(word{&w.In, "NAMESPACE"}, "in", "a namespace, which several services can share [the service's name]")
	flags.Var((*ports)(&w.Forwards), "forward", "forward 127.0.0.1:PORT and [::1]:PORT in the namespace to the host's 127.0.0.1:PORT, repeatable")
	flags.BoolVar(&w.Hardened, "hardened", false, "remove capabilities that a compromised service could use against host and LAN (netns-hardened.conf)")
	t.flags(cmd)
	return cmd
}

// checkNames checks the options that are names.
func checkNames(w dropin.Wish) error {
	if w.Network != "" && settings.NetworkName(w.Network) != w.Network {
		return exitError{fmt.Errorf("--network: %q: not a valid network name; use letters, digits and _.- in it", w.Network), exitUsage}
	}
	if w.In != "" {
		if err := settings.CheckName(w.In); err != nil {
			return exitError{fmt.Errorf("--in: %w", err), exitUsage}
		}
	}
	return nil
}
