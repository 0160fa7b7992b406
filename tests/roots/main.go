// roots makes the root file systems of the tests' machines, which takes
// minutes, while the tests that boot no machine run.
package main

import (
	"fmt"
	"os"

	"macvlan-vip/tests/machine"
)

func main() {
	if err := machine.Roots(); err != nil {
		fmt.Fprintln(os.Stderr, "roots:", err)
		os.Exit(1)
	}
}
