// systemd-netns is for people: it puts services into network namespaces, takes
// them out, and tells what there is.
package main

import (
	"errors"
	"fmt"
	"os"

	"macvlan-vip/systemd/internal/sdlog"
)

const help = `Usage:
  systemd-netns enable SERVICE [--in NAMESPACE] [--network NETWORK] [--vip ADDRESS/LENGTH]...
  systemd-netns disable SERVICE
  systemd-netns list
  systemd-netns status [SERVICE]

enable puts a service, with the sockets that trigger it, into the network
namespace of its name, or changes what is said below of one that is in it, and
restarts it if it runs; disable takes it out.
  --in NAMESPACE     into this one, which several services may share
  --network NETWORK  of /etc/cni/net.d [the namespace's name]
  --vip ADDRESS/LEN  a VIP of this namespace in a network that many share; may
                     be given more than once; they replace those it had
list and status tell which services are in a namespace, and on which VIPs.

The environment, or /etc/systemd-netns/NAME.env: NETWORK is the network's name
[NAME, with '-' for what such a name cannot hold]; RETRY_SEC [10] is how long a start tries again; CNI_PATH
[PREFIX/lib/macvlan-vip:/opt/cni/bin], NETCONFPATH [/etc/cni/net.d], CNI_IFNAME
[mv0], CNI_ARGS and CAP_ARGS are cnitool's.
`

// version is stamped by the build.
var version = "unknown"

var commands = map[string]func(args []string) error{
	"enable":  enable,
	"disable": disable,
	"list":    list,
	"status":  status,
}

func main() {
	os.Exit(run(os.Args[1:]))
}

// run gives the exit status: 2 for a wrong use, 1 for anything that failed.
func run(args []string) int {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Println("systemd-netns", version)
		return 0
	}
	if len(args) == 1 && (args[0] == "--help" || args[0] == "-h" || args[0] == "help") {
		fmt.Print(help)
		return 0
	}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprint(os.Stderr, help)
		return 2
	}
	if err := commands[args[0]](args[1:]); err != nil {
		sdlog.New("systemd-netns").Say(sdlog.LevelErr, "%v", err)
		return 1
	}
	return 0
}

func needRoot() error {
	if os.Geteuid() != 0 {
		return errors.New("this takes root: run it by sudo")
	}
	return nil
}
