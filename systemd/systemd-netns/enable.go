package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// wish is what `enable` was asked for.
type wish struct {
	unit, in, network string
	vips              []string
}

// parseWish reads the arguments of `enable`, whose options may come before or
// after the service's name.
func parseWish(args []string) (wish, error) {
	var w wish
	flags := flag.NewFlagSet("enable", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&w.in, "in", "", "")
	flags.StringVar(&w.network, "network", "", "")
	flags.Func("vip", "", func(vip string) error {
		w.vips = append(w.vips, vip)
		return checkVIP(vip)
	})
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return w, fmt.Errorf("enable: %w; see systemd-netns --help", err)
		}
		if args = flags.Args(); len(args) == 0 {
			break
		}
		if w.unit != "" {
			return w, fmt.Errorf("enable: %q: one service at a time; several share a namespace by --in", args[0])
		}
		w.unit, args = args[0], args[1:]
	}
	var err error
	if w.unit, err = serviceName(w.unit); err != nil {
		return w, err
	}
	if w.network != "" && networkName(w.network) != w.network {
		return w, fmt.Errorf("--network: %q: no name of a network; use letters, digits and _.- in it", w.network)
	}
	if w.in == "" {
		w.in = strings.TrimSuffix(w.unit, ".service")
	}
	return w, checkName(w.in)
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
	if err := checkName(stem); err != nil {
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

// enable puts a service into a namespace, and restarts it if it runs.
func enable(args []string) error {
	if err := needRoot(); err != nil {
		return err
	}
	w, err := parseWish(args)
	if err != nil {
		return err
	}
	u, err := findUnit(w.unit)
	if err != nil {
		return err
	}
	n, err := w.namespace()
	if err != nil {
		return err
	}
	if err := n.checkNetwork(len(w.vips) > 0); err != nil {
		return err
	}
	was, err := namespaceOfUnit(u.name)
	if err != nil {
		return err
	}
	change, err := w.write(u)
	if err != nil {
		return err
	}
	if len(change.before) == 0 {
		n.say(levelInfo, "%s is in namespace %s already", u.name, w.in)
		return nil
	}
	if err := change.takeEffect(); err != nil {
		return errors.Join(fmt.Errorf("%w\n%s\nit is as it was before", err, lastWords(w.in)), change.takeBack())
	}
	n.say(levelInfo, "%s is in namespace %s, network %s%s", u.name, w.in, n.network, change.hint(u))
	if was != "" && was != w.in {
		return errors.Join(forget(was), letGo(was))
	}
	return nil
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("this takes root: run it by sudo")
	}
	return nil
}

// namespace is the namespace as it is going to be.
func (w wish) namespace() (*netns, error) {
	n, err := open(w.in)
	if err == nil && w.network != "" {
		n.network = w.network
	}
	return n, err
}

// checkNetwork makes sure that there is a network for the namespace, which
// takes VIPs from outside if there are any.
func (n *netns) checkNetwork(vips bool) error {
	net, file, err := findNetwork(n.confDir, n.network)
	if err != nil {
		return err
	}
	if net == nil {
		return n.noNetwork()
	}
	if vips && !net.takesVIPs() {
		return fmt.Errorf(`network %q: no plugin of it takes VIPs from outside; add "capabilities": {"ips": true} to macvlan-vip's part of it in %s`, n.network, file)
	}
	return nil
}

// network is what `enable` reads of a network: a list of plugins or, the old
// way, a single one.
type network struct {
	plugin
	Name    string   `json:"name"`
	Plugins []plugin `json:"plugins"`
	// text is that of its file.
	text []byte
}

type plugin struct {
	Capabilities map[string]bool `json:"capabilities"`
}

func (n network) takesVIPs() bool {
	return slices.ContainsFunc(append(n.Plugins, n.plugin), func(p plugin) bool { return p.Capabilities["ips"] })
}

// findNetwork looks for a network as cnitool does. Its library would do, too,
// but makes each start of this program a third longer.
func findNetwork(dir, name string) (*network, string, error) {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, "", err
	}
	for _, f := range files {
		if !slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(f.Name())) {
			continue
		}
		file := filepath.Join(dir, f.Name())
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, file, err
		}
		var n network
		if err := json.Unmarshal(data, &n); err != nil {
			return nil, file, fmt.Errorf("%s: %w; correct its JSON", file, err)
		}
		if n.Name == name {
			n.text = data
			return &n, file, nil
		}
	}
	return nil, "", nil
}

// write writes all files of a wish, or none.
func (w wish) write(u *unit) (*change, error) {
	c := &change{running: u.running}
	if err := w.writeAll(c, u); err != nil {
		return nil, errors.Join(err, c.undo())
	}
	return c, nil
}

func (w wish) writeAll(c *change, u *unit) error {
	if w.network != "" || len(w.vips) > 0 {
		changed, err := w.writeEnv(c)
		if err != nil {
			return err
		}
		if changed {
			if err := c.affectsAllIn(w.in); err != nil {
				return err
			}
		}
	}
	for _, name := range u.names() {
		if err := newDropIn(name, w.in).put(c); err != nil {
			return err
		}
	}
	return nil
}

// writeEnv writes the namespace's environment file, in which what is not
// wished for stays as an earlier wish has set it.
func (w wish) writeEnv(c *change) (changed bool, err error) {
	file := envFile(w.in)
	ours, found, err := isWritten(file)
	if err != nil {
		return false, err
	}
	env := map[string]string{}
	if ours {
		data, err := os.ReadFile(file)
		if err != nil {
			return false, err
		}
		env = parseEnv(string(data))
	}
	text, err := w.env(env)
	if err != nil {
		return false, err
	}
	if found && !ours {
		return false, fmt.Errorf("%s: not written by this program, and left alone; write there what you want:\n%s", file, text)
	}
	return c.write(file, text)
}

// env is the text of a namespace's environment file, which had some before.
func (w wish) env(before map[string]string) (string, error) {
	var b strings.Builder
	if network := cmp.Or(w.network, before["NETWORK"]); network != "" {
		fmt.Fprintf(&b, "NETWORK=%s\n", network)
	}
	caps := before["CAP_ARGS"]
	if len(w.vips) > 0 {
		ips, err := json.Marshal(map[string][]string{"ips": w.vips})
		if err != nil {
			return "", err
		}
		caps = string(ips)
	}
	if caps != "" {
		fmt.Fprintf(&b, "CAP_ARGS=%s\n", caps)
	}
	return b.String(), nil
}

// disable takes a service out of its namespace, and restarts it if it runs.
func disable(args []string) error {
	if err := needRoot(); err != nil {
		return err
	}
	if len(args) != 1 {
		return errors.New("disable: one service; see systemd-netns --help")
	}
	name, err := serviceName(args[0])
	if err != nil {
		return err
	}
	v := newVoice(strings.TrimSuffix(name, ".service"))
	in, err := namespaceOfUnit(name)
	if err != nil {
		return err
	}
	if in == "" {
		v.say(levelInfo, "%s is in no namespace", name)
		return nil
	}
	u := &unit{name: name}
	if err := u.ask(); err != nil {
		return err
	}
	c := &change{running: u.running}
	if err := u.takeOut(c, in); err != nil {
		return errors.Join(err, c.undo())
	}
	if err := c.takeEffect(); err != nil {
		return err
	}
	v.say(levelInfo, "%s is out of namespace %s%s", name, in, c.hint(u))
	return errors.Join(forget(in), letGo(in))
}

// letGo ends a shim that nobody needs any more: systemd does not look again
// when a drop-in goes.
func letGo(namespace string) error {
	n := &netns{name: namespace}
	users, err := show("BoundBy", n.shim())
	if err != nil || users != "" {
		return err
	}
	return output("systemctl", "stop", n.shim())
}

// takeOut removes the drop-ins of a service and its sockets.
func (u *unit) takeOut(c *change, namespace string) error {
	for _, name := range u.names() {
		if err := newDropIn(name, namespace).remove(c); err != nil {
			return err
		}
	}
	return nil
}

// forget removes what `enable` has written for a namespace that no service is
// in any more.
func forget(namespace string) error {
	all, err := members()
	if err != nil || slices.ContainsFunc(all, func(m member) bool { return m.namespace == namespace }) {
		return err
	}
	ours, _, err := isWritten(envFile(namespace))
	if err != nil || !ours {
		return err
	}
	return removeWithFolder(envFile(namespace))
}
