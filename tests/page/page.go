// Package page takes configuration and commands out of the project's pages, so
// that what a reader is told to do is what the tests do.
package page

import (
	"fmt"
	"os"
	"strings"
)

// Blocks gives the fenced blocks of a language, such as sh or json, that stand
// between a heading and the next one of any level, in order. There is at least
// one if there is no error.
func Blocks(file, heading, language string) (blocks []string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var here, fenced, wanted bool
	for line := range strings.Lines(string(data)) {
		text := strings.TrimSpace(line)
		switch {
		case fenced && text == "```":
			fenced = false
		case fenced && wanted:
			blocks[len(blocks)-1] += line
		case fenced:
		case strings.HasPrefix(text, "```"):
			fenced, wanted = true, here && text == "```"+language
			if wanted {
				blocks = append(blocks, "")
			}
		case strings.HasPrefix(line, "#"):
			here = strings.TrimSpace(strings.TrimLeft(line, "#")) == heading
		}
	}
	if len(blocks) == 0 {
		return nil, fmt.Errorf("%s: no block of %s under the heading %q", file, language, heading)
	}
	return blocks, nil
}
