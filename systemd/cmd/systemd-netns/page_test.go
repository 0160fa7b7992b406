package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write the commands' part of README.md")

// The part of the page that is made of the commands.
const (
	begin = "<!-- from the commands: go test ./systemd/cmd/systemd-netns -update -->\n"
	end   = "<!-- end -->\n"
)

// TestPage: the page, of which the manual page is made, says of the commands what
// --help says.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("no %q and %q in README.md", begin, end)
	}
	want := before + begin + describe(newRoot()) + end + after
	if *update {
		if err := os.WriteFile("README.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(page)); diff != "" {
		t.Errorf("run the command in the page's comment: %s", diff)
	}
}

// describe writes the commands in Markdown.
func describe(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("\n## Synopsis\n\n```text\n")
	for _, c := range root.Commands() {
		if !c.Hidden {
			b.WriteString(synopsis(c) + "\n")
		}
	}
	b.WriteString("```\n")
	for _, c := range root.Commands() {
		if c.Hidden {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", c.Name(), c.Long)
		options := ""
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" {
				name, usage := pflag.UnquoteUsage(f)
				options += fmt.Sprintf("* `%s`: %s\n", option(f, name), usage)
			}
		})
		if options != "" {
			b.WriteString("\n" + options)
		}
		b.WriteString("\n<!-- not run: tests/systemd does, on machines made for it -->\n```sh\n" + regexp.MustCompile(`(?m)^  `).ReplaceAllString(c.Example, "") + "\n```\n")
	}
	return b.String() + "\n"
}

func option(f *pflag.Flag, value string) string {
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	return strings.TrimSpace(name + " " + value)
}

// synopsis is a command's line in the page.
func synopsis(c *cobra.Command) string {
	line := c.Root().Name() + " " + c.Use
	if _, rest, ok := strings.Cut(c.Use, " -- "); ok {
		return c.Root().Name() + " " + strings.TrimSuffix(c.Use, rest) + rest
	}
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		name, _ := pflag.UnquoteUsage(f)
		dashed := "--" + f.Name
		if f.Shorthand != "" {
			dashed = "-" + f.Shorthand
		}
		word := "[" + strings.TrimSpace(dashed+" "+name) + "]"
		if slices.Contains([]string{"ADDR/LEN", "ADDR", "PORT"}, f.Value.Type()) {
			word += "..."
		}
		line += " " + word
	})
	return wrap(line)
}

// wrap breaks a synopsis at 88 characters.
func wrap(line string) string {
	var b strings.Builder
	width := 0
	for i, word := range regexp.MustCompile(`\[[^\]]*\]\S*|\S+`).FindAllString(line, -1) {
		if i > 0 && width+1+len(word) > 88 {
			b.WriteString("\n   ")
			width = 3
		}
		if i > 0 {
			b.WriteString(" ")
		}
		b.WriteString(word)
		width += 1 + len(word)
	}
	return b.String()
}

// TestCommands: every command has help, an example and the flags of its like.
func TestCommands(t *testing.T) {
	for _, c := range newRoot().Commands() {
		if c.Hidden {
			continue
		}
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s: it lacks help or an example", c.Name())
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if len(line) > 91 {
				t.Errorf("%s: a line of %d characters: %s", c.Name(), len(line), line)
			}
		}
	}
}
