package main

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

var (
	// link is Markdown's; its text may be broken over lines.
	link = regexp.MustCompile(`\[([^\]]+)\]\(([^)\s]+)\)`)
	// table is a whole table: a head, a rule and rows.
	table = regexp.MustCompile(`(?m)^(\|.*\|\n)\|[-|]+\|\n((?:\|.*\|\n)+)`)
)

// render turns a page of the documentation into a manual page in go-md2man's
// Markdown, with the sections that man-pages(7) wants around it.
func (p page) render(text, date, version string) string {
	name, section := p.title()
	var b strings.Builder
	fmt.Fprintf(&b, "%% %q %q %q %q %q\n\n", strings.ToUpper(name), section, date, "macvlan-vip "+version, "macvlan-vip")
	fmt.Fprintf(&b, "# NAME\n\n%s - %s\n\n# DESCRIPTION\n", name, p.about)
	for i, part := range fences(text) {
		if i%2 == 0 {
			part = headings(definitions(p.references(part)))
		}
		b.WriteString(part)
	}
	fmt.Fprintf(&b, "\n# SEE ALSO\n\n%s\n", strings.Join(bold(p.seeAlso), ", "))
	return b.String()
}

// fences splits a text: every second part is a fenced block, to be left as it is.
func fences(text string) []string {
	var parts []string
	part, inside := "", false
	for line := range strings.Lines(text) {
		fence := strings.HasPrefix(line, "```")
		if fence && !inside {
			parts, part = append(parts, part), ""
		}
		part += line
		if fence && inside {
			parts, part = append(parts, part), ""
		}
		inside = inside != fence
	}
	return append(parts, part)
}

// headings leaves the title out, which NAME has, and lifts all others by a
// level, those of the first in capitals.
func headings(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		switch {
		case strings.HasPrefix(line, "# "):
		case strings.HasPrefix(line, "## "):
			b.WriteString("# " + strings.ToUpper(line[len("## "):]))
		case strings.HasPrefix(line, "###"):
			b.WriteString(line[1:])
		default:
			b.WriteString(line)
		}
	}
	return b.String()
}

// definitions turns tables into definition lists: a table is soon wider than a
// terminal. Of more than two columns each cell is told by its column's title.
func definitions(text string) string {
	return table.ReplaceAllStringFunc(text, func(s string) string {
		m := table.FindStringSubmatch(s)
		titles := cellsOf(m[1])
		var b strings.Builder
		for line := range strings.Lines(m[2]) {
			cells := cellsOf(line)
			for i := 1; i < len(cells) && len(cells) > 2; i++ {
				if titles[i] != "" {
					cells[i] = titles[i] + ": " + cells[i]
				}
			}
			fmt.Fprintf(&b, "%s\n: %s\n\n", cells[0], strings.Join(cells[1:], "; "))
		}
		return b.String()
	})
}

// cellsOf splits a row of a table.
func cellsOf(row string) []string {
	cells := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
	for i := range cells {
		cells[i] = strings.TrimSpace(cells[i])
	}
	return cells
}

// references names the manual page that a link leads to, or else keeps its text.
func (p page) references(text string) string {
	return link.ReplaceAllStringFunc(text, func(s string) string {
		m := link.FindStringSubmatch(s)
		text, target := m[1], m[2]
		if strings.Contains(target, "://") {
			return text + " (" + target + ")"
		}
		file, _, _ := strings.Cut(target, "#")
		file = path.Join(path.Dir(p.source), file)
		for _, other := range pages {
			if file == other.source && file != p.source {
				name, section := other.title()
				return fmt.Sprintf("**%s**(%s)", name, section)
			}
		}
		return text
	})
}

// bold sets the names of pages in bold, as man-pages(7) wants them.
func bold(pages []string) []string {
	out := make([]string, len(pages))
	for i, page := range pages {
		name, section, _ := strings.Cut(page, "(")
		out[i] = "**" + name + "**(" + section
	}
	return out
}
