package main

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPage: this program's page, of which its manual page is made, and --help
// name every command, verb and variable that there is, and no other.
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
	same(t, "verbs on the page", slices.Collect(maps.Keys(verbs)), items(string(page), "Verbs of the units", `[a-z]+`))
	_, ours, _ := strings.Cut(help, "What the units")
	same(t, "verbs of --help", slices.Collect(maps.Keys(verbs)), find(ours, `(?m)^  ([a-z]+)  `))
	same(t, "variables", items(string(page), "Environment", `[A-Z_]+`), find(ours, `\b(NETWORK|[A-Z]+_[A-Z]+|NETCONFPATH)\b`))
	for _, variable := range items(string(page), "Environment", `[A-Z_]+`) {
		if !slices.Contains(variables(t), variable) && !strings.HasSuffix(variable, "_ARGS") {
			t.Errorf("the program reads no %s", variable)
		}
	}
}

// variables are those that the program's sources ask the environment for.
func variables(t *testing.T) []string {
	var all []string
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file.Name())
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, find(string(data), `os\.Getenv\("([A-Z_]+)"\)`)...)
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
