// systemd-netns-helper is what the units of a network namespace run: a thin layer
// over cnitool that logs what was done to which link, VIP and route. An operator can
// repeat each step by hand.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"macvlan-vip/systemd/internal/attach"
	"macvlan-vip/systemd/internal/sdlog"
)

const help = `Usage: systemd-netns-helper VERB NAME

What the units of network namespace NAME run:
  make     create the namespace, in place of a stale one
  start    undo what is left of an earlier one of that name, and add it
  add      add it to its CNI network; retry temporary errors for RETRY_SEC
           seconds [10]
  rename   restore its name if somebody has removed it or, if nothing runs in
           it, create it again
  repair   restore what CHECK finds missing, and apply edited addresses, without
           touching the service
  settle   if the name is missing, reload the unit, which restores it
  attach   name the namespace of the running systemd-netns@NAME.service
  undo     remove it from its network
  remove   remove the namespace
  clear    undo and remove; it is no error if there is nothing

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
	sdlog.Outlive()
	if args[0] == "rename" || args[0] == "repair" {
		giveWay(args[1])
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

// giveWay has a reload end at once, and without a failure, when its unit is stopped:
// systemd sends it SIGTERM then, and would call the unit failed though all is undone.
func giveWay(name string) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		sdlog.New(name).Say(sdlog.LevelNotice, "stopped before the reload had finished")
		os.Exit(0)
	}()
}
