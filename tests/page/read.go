package page

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Block is a fenced block of a page.
type Block struct {
	Page string
	// Line is that of the opening fence, from 1.
	Line int
	// Section is the heading above the block, without its marks.
	Section  string
	Language string
	// Note is the text of a comment on the line above the fence.
	Note string
	Text string
}

// At is where the block is, for messages.
func (b Block) At() string {
	return fmt.Sprintf("%s/%s:%d (%s)", filepath.Base(filepath.Dir(b.Page)), filepath.Base(b.Page), b.Line, b.Section)
}

var (
	fence   = regexp.MustCompile("^ *```([a-z]*)$")
	heading = regexp.MustCompile(`^#{1,6} +(.*)$`)
	comment = regexp.MustCompile(`^ *<!-- *(.*?) *-->$`)
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// Page is a page, taken apart.
type Page struct {
	Path   string
	Blocks []Block
	// Headings and Links are those outside of blocks; Links as written.
	Headings []string
	Links    []string
	// Prose is all that is outside of blocks.
	Prose string
}

// Read takes a page apart.
func Read(path string) (*Page, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := &Page{Path: path}
	var open *Block
	var note string
	for i, line := range strings.Split(string(data), "\n") {
		switch m := fence.FindStringSubmatch(line); {
		case open != nil && m != nil:
			p.Blocks = append(p.Blocks, *open)
			open, note = nil, ""
		case open != nil:
			open.Text += line + "\n"
		case m != nil:
			open = &Block{Page: path, Line: i + 1, Section: p.section(), Language: m[1], Note: note}
		default:
			note = p.prose(line)
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s: the block does not end", open.At())
	}
	return p, nil
}

func (p *Page) section() string {
	if len(p.Headings) == 0 {
		return ""
	}
	return p.Headings[len(p.Headings)-1]
}

// prose takes a line outside of blocks, and gives the comment that it is.
func (p *Page) prose(line string) string {
	p.Prose += line + "\n"
	if m := heading.FindStringSubmatch(line); m != nil {
		p.Headings = append(p.Headings, m[1])
	}
	for _, m := range link.FindAllStringSubmatch(line, -1) {
		p.Links = append(p.Links, m[1])
	}
	if m := comment.FindStringSubmatch(line); m != nil {
		return m[1]
	}
	return ""
}

var notAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// Anchor is the fragment by which forges link to a heading.
func Anchor(heading string) string {
	return strings.ReplaceAll(notAnchor.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}
