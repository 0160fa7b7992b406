package page

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const sample = `# Title

## One

` + "```sh\n# a comment\necho one\n```\n\nText.\n\n```json\n{}\n```\n\n```sh\necho two\n```" + `

### Below

` + "```sh\necho below\n```\n"

func TestBlocks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(file, []byte(sample), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		heading, language string
		want              []string
	}{
		{"One", "sh", []string{"# a comment\necho one\n", "echo two\n"}},
		{"One", "json", []string{"{}\n"}},
		{"Below", "sh", []string{"echo below\n"}},
		{"Below", "json", nil},
		{"a comment", "sh", nil},
		{"Two", "sh", nil},
	} {
		got, err := Blocks(file, c.heading, c.language)
		if !slices.Equal(got, c.want) || (err == nil) != (c.want != nil) {
			t.Errorf("%s under %q: got %q, %v, want %q", c.language, c.heading, got, err, c.want)
		}
	}
}
