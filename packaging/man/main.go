// man prints the source of a manual page, for go-md2man, out of a page of this
// project's documentation: man PAGE DATE VERSION, such as
// man macvlan-vip.8 2026-11-24 0.1.0. Without arguments it lists the pages.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// page is a manual page and where its text comes from.
type page struct {
	// name is the page's, with its section: macvlan-vip.8.
	name string
	// about is what whatis(1) says.
	about string
	// source is a Markdown file, below the project's folder.
	source string
	// seeAlso are other pages, as name(section).
	seeAlso []string
}

var pages = []page{
	{
		"macvlan-vip.8", "CNI plugin that gives a service virtual IPs on the LAN",
		"plugins/macvlan-vip/README.md",
		[]string{"hairpin-route(8)", "systemd-netns@.service(8)", "ip-link(8)"},
	},
	{
		"hairpin-route.8", "CNI plugin that leads a host to the virtual IPs that it serves",
		"plugins/hairpin-route/README.md",
		[]string{"macvlan-vip(8)", "systemd-netns@.service(8)", "ip-route(8)", "ip-neighbour(8)"},
	},
	{
		"podman-macvlan-vip.8", "podman's network driver for containers with virtual IPs on the LAN",
		"plugins/netavark-plugin/README.md",
		[]string{"macvlan-vip(8)", "hairpin-route(8)", "podman-network-create(1)", "podman-systemd.unit(5)", "containers.conf(5)"},
	},
	{
		"systemd-netns@.service.8", "network namespace and virtual IPs for any service",
		"systemd/README.md",
		[]string{"netns.conf(5)", "systemd-netns(8)", "macvlan-vip(8)", "hairpin-route(8)", "systemd.exec(5)", "ip-netns(8)"},
	},
	{
		"netns.conf.5", "drop-in that puts a service into a network namespace",
		"systemd/netns.conf.md",
		[]string{"systemd-netns@.service(8)", "systemd-netns(8)", "systemd.unit(5)", "systemd.exec(5)"},
	},
	{
		"systemd-netns.8", "put a service into a network namespace with virtual IPs",
		"systemd/cmd/systemd-netns/README.md",
		[]string{"systemd-netns@.service(8)", "netns.conf(5)", "macvlan-vip(8)", "hairpin-route(8)", "ip-netns(8)"},
	},
	{
		"systemd-netns-helper.8", "make, repair and remove the network namespace of a service",
		"systemd/cmd/systemd-netns-helper/README.md",
		[]string{"systemd-netns@.service(8)", "systemd-netns(8)", "ip-netns(8)"},
	},
	{
		"systemd-netns-watch.8", "repair the network namespaces of services when somebody breaks them",
		"systemd/cmd/systemd-netns-watch/README.md",
		[]string{"systemd-netns@.service(8)", "systemd-netns(8)", "rtnetlink(7)"},
	},
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "man: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		for _, p := range pages {
			fmt.Println(p.name)
		}
		return nil
	}
	if len(args) != 3 {
		return fmt.Errorf("usage: man PAGE DATE VERSION, with PAGE such as macvlan-vip.8")
	}
	for _, p := range pages {
		if p.name != args[0] {
			continue
		}
		text, err := os.ReadFile(filepath.FromSlash(p.source))
		if err != nil {
			return fmt.Errorf("page %s: %w", p.name, err)
		}
		fmt.Print(p.render(string(text), args[1], args[2]))
		return nil
	}
	return fmt.Errorf("no page %q: run man without arguments for a list", args[0])
}

// title is the page's name without the section, and the section.
func (p page) title() (name, section string) {
	dot := strings.LastIndex(p.name, ".")
	return p.name[:dot], p.name[dot+1:]
}
