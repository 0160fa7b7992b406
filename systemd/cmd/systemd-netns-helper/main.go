// systemd-netns-helper is what the units of a network namespace run: a thin layer
// over cnitool and ip(8) that says in plain words what was done to which link,
// VIP and route. An operator can repeat each step by hand.
package main

import (
	"errors"
	"fmt"
	"os"

	"macvlan-vip/systemd/internal/attach"
	"macvlan-vip/systemd/internal/sdlog"
)

const help = `Usage: systemd-netns-helper VERB NAME

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

See systemd-netns(8) for the environment that is read, and for the commands that
put a service into a namespace.
`

// version is stamped by the build.
var version = "unknown"

func main() {
	os.Exit(run(os.Args[1:]))
}

// run gives the exit status: 2 for a usage error, 1 for anything that failed.
func run(args []string) int {
	if len(args) == 1 && args[0] == "--version" {
		fmt.Println("systemd-netns-helper", version)
		return 0
	}
	if len(args) == 1 && args[0] == "--help" {
		fmt.Print(help)
		return 0
	}
	if len(args) != 2 || attach.Verbs[args[0]] == nil {
		fmt.Fprint(os.Stderr, help)
		return 2
	}
	n, err := attach.Open(args[1])
	if err == nil {
		err = attach.Verbs[args[0]](n)
	}
	if err == nil {
		return 0
	}
	if !errors.Is(err, attach.ErrSaid) {
		sdlog.New(args[1]).Say(sdlog.LevelErr, "%v", err)
	}
	return 1
}
