package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/settings"
)

func enable(args []string) error {
	if err := needRoot(); err != nil {
		return err
	}
	w, err := parseWish(args)
	if err != nil {
		return err
	}
	return dropin.Enable(w)
}

// parseWish reads the arguments of `enable`, whose options may come before or
// after the service's name.
func parseWish(args []string) (dropin.Wish, error) {
	var w dropin.Wish
	flags := flag.NewFlagSet("enable", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&w.In, "in", "", "")
	flags.StringVar(&w.Network, "network", "", "")
	flags.Func("vip", "", func(vip string) error {
		w.VIPs = append(w.VIPs, vip)
		return checkVIP(vip)
	})
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return w, fmt.Errorf("enable: %w; see systemd-netns --help", err)
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		if w.Unit != "" {
			return w, fmt.Errorf("enable: %q: one service at a time; several share a namespace by --in", args[0])
		}
		w.Unit, args = args[0], args[1:]
	}
	var err error
	if w.Unit, err = serviceName(w.Unit); err != nil {
		return w, err
	}
	if w.Network != "" && settings.NetworkName(w.Network) != w.Network {
		return w, fmt.Errorf("--network: %q: no name of a network; use letters, digits and _.- in it", w.Network)
	}
	if w.In == "" {
		w.In = strings.TrimSuffix(w.Unit, ".service")
	}
	return w, settings.CheckName(w.In)
}

func checkVIP(vip string) error {
	if _, err := netip.ParsePrefix(vip); err != nil {
		return errors.New("no address with a prefix length; write it as 192.0.2.20/24")
	}
	return nil
}

// serviceName takes a service's name with and without its suffix.
func serviceName(name string) (string, error) {
	stem := strings.TrimSuffix(name, ".service")
	if err := settings.CheckName(stem); err != nil {
		return "", err
	}
	if strings.HasSuffix(stem, "@") {
		return "", fmt.Errorf("%q: a template has no namespace, its instances have: name one, such as %s1", name, stem)
	}
	for _, kind := range []string{".socket", ".timer", ".target", ".mount", ".slice"} {
		if strings.HasSuffix(stem, kind) {
			return "", fmt.Errorf("%q: no service; name the service, and its sockets are seen to", name)
		}
	}
	return stem + ".service", nil
}
