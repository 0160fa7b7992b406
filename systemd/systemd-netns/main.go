// systemd-netns is what the units of a network namespace run: a thin layer
// over cnitool and ip(8) that says in plain words what was done to which link,
// VIP and route. An operator can repeat each step by hand.
package main

import (
	"errors"
	"fmt"
	"os"
)

const help = `Usage:
  systemd-netns enable SERVICE [--in NAMESPACE] [--network NETWORK] [--vip ADDRESS/LENGTH]...
  systemd-netns disable SERVICE
  systemd-netns list
  systemd-netns status [SERVICE]
  systemd-netns VERB NAME

enable puts a service, with the sockets that trigger it, into the network
namespace of its name, or changes what is said below of one that is in it, and
restarts it if it runs; disable takes it out.
  --in NAMESPACE     into this one, which several services may share
  --network NETWORK  of /etc/cni/net.d [the namespace's name]
  --vip ADDRESS/LEN  a VIP of this namespace in a network that many share; may
                     be given more than once; they replace those it had
list and status tell which services are in a namespace, and on which VIPs.

What the units of the network namespace of service NAME run:
  make     make the namespace, in place of one that was left
  add      add it to its CNI network; while an error says that it may pass,
           try again for RETRY_SEC seconds [10]
  rename   give it its name back if somebody has removed that or, if nothing
           runs in it, make it again
  repair   put right what CHECK finds missing, without touching the service
  settle   have that done, and the name given back, if the name is missing
  attach   name the namespace of the running systemd-netns@NAME.service
  undo     take it out of its network
  remove   remove the namespace
  clear    undo and remove; nothing there is no error

The environment, or /etc/systemd-netns/NAME.env: NETWORK is the network's name
[NAME, with '-' for what such a name cannot hold]; CNI_PATH
[PREFIX/lib/macvlan-vip:/opt/cni/bin], NETCONFPATH [/etc/cni/net.d], CNI_IFNAME
[mv0], CNI_ARGS and CAP_ARGS are cnitool's.
`

// version is stamped by the build.
var version = "unknown"

// verbs of a namespace.
var verbs = map[string]func(*netns) error{
	"make":   (*netns).make,
	"add":    (*netns).add,
	"rename": (*netns).rename,
	"repair": (*netns).repair,
	"settle": (*netns).settle,
	"attach": (*netns).attach,
	"undo":   (*netns).undo,
	"remove": (*netns).remove,
	"clear":  (*netns).clear,
}

// commands are for people.
var commands = map[string]func(args []string) error{
	"enable":  enable,
	"disable": disable,
	"list":    func([]string) error { return listAll(os.Stdout) },
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
	if len(args) > 0 && commands[args[0]] != nil {
		if err := commands[args[0]](args[1:]); err != nil {
			newVoice("systemd-netns").say(levelErr, "%v", err)
			return 1
		}
		return 0
	}
	if len(args) != 2 || verbs[args[0]] == nil {
		fmt.Fprint(os.Stderr, help)
		return 2
	}
	n, err := open(args[1])
	if err == nil {
		err = verbs[args[0]](n)
	}
	if err == nil {
		return 0
	}
	if !errors.Is(err, errSaid) {
		newVoice(args[1]).say(levelErr, "%v", err)
	}
	return 1
}

// errSaid is an error that has been told already.
var errSaid = errors.New("said")
