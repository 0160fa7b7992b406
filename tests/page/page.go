// Package page takes configuration and commands out of the project's pages, so
// that what a reader is told to do is what the tests do.
package page

import "fmt"

// Blocks gives the fenced blocks of a language, such as sh or json, that stand
// between a heading and the next one of any level, in order. There is at least
// one if there is no error.
func Blocks(file, heading, language string) (blocks []string, err error) {
	p, err := Read(file)
	if err != nil {
		return nil, err
	}
	for _, b := range p.Blocks {
		if b.Section == heading && b.Language == language {
			blocks = append(blocks, b.Text)
		}
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("%s: no block of %s under the heading %q", file, language, heading)
	}
	return blocks, nil
}
