package testnet

import (
	"flag"
	"strconv"
	"testing"
)

// FewChecks lets a property test draw as many histories as there is time for,
// the same ones every time, unless the flags of pgregory.net/rapid ask for
// others.
func FewChecks(t testing.TB, checks int) {
	t.Helper()
	unlessAsked(t, map[string]string{"rapid.checks": strconv.Itoa(checks), "rapid.seed": "1", "rapid.nofailfile": "true"})
}

// FewSteps has rapid draw histories of so many steps on average, unless
// -rapid.steps asks for others.
func FewSteps(t testing.TB, steps int) {
	t.Helper()
	unlessAsked(t, map[string]string{"rapid.steps": strconv.Itoa(steps)})
}

// unlessAsked sets flags that are not on the command line.
func unlessAsked(t testing.TB, flags map[string]string) {
	t.Helper()
	asked := map[string]bool{}
	flag.Visit(func(f *flag.Flag) { asked[f.Name] = true })
	for name, value := range flags {
		if asked[name] {
			continue
		}
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
}
