// roots makes the root file systems of the tests' machines, which takes
// minutes, while the tests that boot no machine run.
package main

import (
	"fmt"
	"os"

	"macvlan-vip/tests/nspawn"
)

func main() {
	if err := nspawn.Roots(); err != nil {
		fmt.Fprintln(os.Stderr, "roots:", err)
		os.Exit(1)
	}
}
