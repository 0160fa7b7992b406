package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPage: this program's page, of which its manual page is made, and --help
// name every command and variable that there is, and no other.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, usage, _ := strings.Cut(string(page), "\n## Usage\n\n```text\n")
	usage, _, _ = strings.Cut(usage, "```")
	if want := "Usage:\n  " + strings.ReplaceAll(strings.TrimSpace(usage), "\n", "\n  ") + "\n\n"; !strings.HasPrefix(help, want) {
		t.Errorf("--help does not begin with the page's usage:\n%s", want)
	}
	same(t, "commands", slices.Collect(maps.Keys(commands)), items(string(page), "Commands", `[a-z]+`))
	_, environment, _ := strings.Cut(help, "The environment")
	same(t, "variables", items(string(page), "Environment", `[A-Z_]+`), find(environment, `\b(NETWORK|[A-Z]+_[A-Z]+|NETCONFPATH)\b`))
	for _, variable := range items(string(page), "Environment", `[A-Z_]+`) {
		if !slices.Contains(variables(t), variable) {
			t.Errorf("the program reads no %s", variable)
		}
	}
}

// variables are those that the sources take from the environment or its file.
func variables(t *testing.T) []string {
	var all []string
	files, err := filepath.Glob("../../internal/*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, find(string(data), `(?:os\.Getenv|\btake)\("([A-Z_]+)"`)...)
	}
	return all
}

// items are the names that begin a section's list items.
func items(page, section, name string) []string {
	_, text, _ := strings.Cut(page, "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	text, _, _ = strings.Cut(text, "\nOptions of")
	var all []string
	for _, item := range find(text, "(?m)^\\* ((?:`"+name+"`(?:, )?)+):") {
		all = append(all, find(item, "`("+name+")`")...)
	}
	return all
}

func find(text, pattern string) []string {
	var found []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	slices.Sort(want)
	slices.Sort(got)
	if got = slices.Compact(got); len(want) == 0 || !slices.Equal(want, got) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}
