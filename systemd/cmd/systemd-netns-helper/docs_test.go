package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"testing"

	"macvlan-vip/systemd/internal/attach"
)

// TestPage: the page and --help name every verb that there is, and no other.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Sorted(maps.Keys(attach.Verbs))
	for where, got := range map[string][]string{
		"page":   find(string(page), "(?m)^\\* `([a-z]+)`:"),
		"--help": find(help, `(?m)^  ([a-z]+)  `),
	} {
		if slices.Sort(got); !slices.Equal(want, got) {
			t.Errorf("%s: verbs %q, want %q", where, got, want)
		}
	}
}

func find(text, pattern string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}
