package dropin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/uplink"
)

// network plans the files that the namespace's network is configured by, and
// tells whether one changes: a network of its own or, of one that many share,
// its VIPs in the environment file.
func (w Wish) network(c *Change) (changed bool, err error) {
	n, err := settings.Load(w.In)
	if err != nil {
		return false, err
	}
	before := len(c.want)
	own, err := files.Read(networks.OwnFile(w.In))
	if err != nil {
		return false, err
	}
	found, file, bad := networks.Find(n.NetworkDir(n.Network), n.Network)
	switch {
	case w.Network != "":
		if own.Found {
			err = c.removeOwn(w.In)
		}
		if err == nil {
			err = w.shared(c, n)
		}
	case len(own.Content) > 0 || own.Found && len(w.VIPs) > 0 || found == nil && w.wantsOwn(n, file):
		err = w.own(c, own)
	case bad != nil:
		err = bad
	case found == nil:
		err = networks.Missing(n)
	case len(w.VIPs) > 0:
		w.Network = n.Network
		err = w.shared(c, n)
	case w.Master != "" || len(w.Gateways) > 0 || len(w.DNS) > 0:
		err = elsewhere(file, n.Shim())
	}
	return len(c.want) > before, err
}

// wantsOwn tells whether VIPs, for which there is no network, get one of their own. Of
// files that cannot be read only one of the network's name is in the way.
func (w Wish) wantsOwn(n settings.Namespace, broken string) bool {
	stem := strings.TrimSuffix(filepath.Base(broken), filepath.Ext(broken))
	return len(w.VIPs) > 0 && n.Network == settings.NetworkName(w.In) && n.Network != stem
}

// elsewhere is the error for what can be set in a shared network's file alone.
func elsewhere(file, shim string) error {
	return fmt.Errorf("--master, --gateway, --dns: the network is an administrator's; set these in %s (`master`, and `routes` and `dns` under `ipam`), then `systemctl restart %s`", file, shim)
}

// own plans a network for this namespace alone.
func (w Wish) own(c *Change, is files.File) error {
	links, err := uplink.All()
	if err != nil {
		return err
	}
	text, err := w.ownText(is, links)
	if err != nil {
		return err
	}
	return c.add(files.Text(is.Path, text))
}

// ownText is that network with what is wished for. All else stays.
func (w Wish) ownText(is files.File, links []uplink.Link) (string, error) {
	o, err := w.openOwn(is, links)
	if err != nil {
		return "", err
	}
	before := o.VIPs()
	if w.Master != "" {
		o.SetMaster(w.Master)
	}
	if len(w.VIPs) > 0 {
		o.SetVIPs(w.VIPs)
	}
	if len(w.DNS) > 0 {
		o.SetDNS(w.DNS)
	}
	for _, gw := range w.Gateways {
		o.SetGateway(gw)
	}
	giveGateways(o, before, links)
	return o.Text()
}

func (w Wish) openOwn(is files.File, links []uplink.Link) (*networks.Own, error) {
	// An empty one is what a power cut may have left.
	if len(is.Content) > 0 {
		o, err := networks.ParseOwn(w.In, is.Content)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", is.Path, err)
		}
		return o, nil
	}
	master := w.Master
	if master == "" {
		link, err := uplink.Master(links, w.VIPs)
		if err != nil {
			return nil, err
		}
		master = link.Name
	}
	if !slices.ContainsFunc(links, func(l uplink.Link) bool { return l.Name == master }) {
		return nil, fmt.Errorf("--master: %q: no such link; see `ip link`", master)
	}
	return networks.NewOwn(w.In, master), nil
}

// giveGateways gives a family that had no VIP before the host's own gateway on the
// master, unless the network has a default route of that family.
func giveGateways(o *networks.Own, before []netip.Prefix, links []uplink.Link) {
	i := slices.IndexFunc(links, func(l uplink.Link) bool { return l.Name == o.Master() })
	if i < 0 {
		return
	}
	for _, is4 := range []bool{true, false} {
		of := func(vip netip.Prefix) bool { return vip.Addr().Is4() == is4 }
		if slices.ContainsFunc(before, of) || !slices.ContainsFunc(o.VIPs(), of) || o.HasGateway(is4) {
			continue
		}
		if gw, found := links[i].Gateway(is4); found {
			o.SetGateway(gw)
		}
	}
}

// removeOwn plans to remove a namespace's own network.
func (c *Change) removeOwn(namespace string) error {
	path := networks.OwnFile(namespace)
	f, err := files.Read(path)
	if err != nil || !f.Found {
		return err
	}
	if _, err := networks.ParseOwn(namespace, f.Content); err != nil && len(f.Content) > 0 {
		// It does not keep the service from leaving.
		if !errors.Is(err, networks.ErrOther) {
			c.Left = append(c.Left, fmt.Errorf("%s is left there, remove it by hand: %w", path, err))
		}
		return nil
	}
	return c.add(files.None(path))
}

// shared plans the environment file of a namespace on a network that others use.
func (w Wish) shared(c *Change, n settings.Namespace) error {
	found, file, err := networks.Find(n.NetworkDir(w.Network), w.Network)
	if err != nil {
		return err
	}
	if found == nil {
		n.Network = w.Network
		return networks.Missing(n)
	}
	if w.Master != "" || len(w.Gateways) > 0 || len(w.DNS) > 0 {
		return elsewhere(file, n.Shim())
	}
	if len(w.VIPs) > 0 && !found.TakesVIPs() {
		return fmt.Errorf(`network %q: none of its plugins accepts VIPs from outside; add "capabilities": {"ips": true} to macvlan-vip's part of it in %s`, w.Network, file)
	}
	return w.env(c)
}

// env plans the namespace's environment file.
func (w Wish) env(c *Change) error {
	is, err := files.Read(settings.EnvFile(w.In))
	if err != nil {
		return err
	}
	text, err := w.envText(string(is.Content))
	switch {
	case err != nil:
		return err
	case text == string(is.Content):
		return nil
	case len(is.Content) == 0:
		text = written + text
	case !ours(is):
		return foreign(is.Path, "write there what you want:\n"+text)
	}
	return c.add(files.Text(is.Path, text))
}

// envText sets in the text of an environment file what is wished for. All else stays: an
// earlier wish has set it, or a person.
func (w Wish) envText(text string) (string, error) {
	before := settings.ParseEnv(text)
	if network := before["NETWORK"]; w.Network != network && (network != "" || w.Network != settings.NetworkName(w.In)) {
		text = settings.SetEnv(text, "NETWORK", w.Network)
	}
	if len(w.VIPs) == 0 {
		return text, nil
	}
	caps, err := withVIPs(before["CAP_ARGS"], w.VIPs)
	if err != nil {
		return "", badCapArgs(w.In, err)
	}
	if !networks.SameJSON([]byte(caps), []byte(before["CAP_ARGS"])) {
		text = settings.SetEnv(text, "CAP_ARGS", caps)
	}
	return text, nil
}

// withVIPs sets the VIPs in CAP_ARGS.
func withVIPs(args string, vips []netip.Prefix) (string, error) {
	var all map[string]json.RawMessage
	if args != "" {
		if err := json.Unmarshal([]byte(args), &all); err != nil {
			return "", err
		}
	}
	if all == nil {
		all = map[string]json.RawMessage{}
	}
	var err error
	if all["ips"], err = json.Marshal(vips); err != nil {
		return "", err
	}
	text, err := json.Marshal(all)
	return string(text), err
}

func badCapArgs(namespace string, err error) error {
	return fmt.Errorf(`CAP_ARGS in %s: %w; write it as {"ips":["192.0.2.20/24"]}`, settings.EnvFile(namespace), err)
}

// ParseVIP reads an address with a prefix length.
func ParseVIP(text string) (netip.Prefix, error) {
	vip, err := netip.ParsePrefix(text)
	if err != nil {
		return vip, errors.New("not an address with a prefix length; write it as 192.0.2.20/24")
	}
	return vip, nil
}
