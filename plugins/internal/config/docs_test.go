package config

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// keysOf lists the JSON keys of a configuration that are the plugin's own:
// those of the embedded types.NetConf are the specification's.
func keysOf(raw any) []string {
	var keys []string
	for _, field := range reflect.VisibleFields(reflect.TypeOf(raw)) {
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		// The runtime fills this one in, by the capabilities.
		if len(field.Index) == 1 && !field.Anonymous && key != "runtimeConfig" {
			keys = append(keys, key)
		}
	}
	return slices.Sorted(slices.Values(keys))
}

// TestKeysAreDocumented: the page of a plugin, of which the manual page is made,
// and its --help describe every key that the parser takes, and no other.
func TestKeysAreDocumented(t *testing.T) {
	item := regexp.MustCompile("(?m)^\\* `([A-Za-z]+)` \\(")
	helpLine := regexp.MustCompile(`(?m)^  ([A-Za-z]+)  `)
	for _, c := range []struct {
		plugin string
		raw    any
		// spec are keys of the specification that the page says more about.
		spec []string
	}{
		{"macvlan-vip", macvlanJSON{}, []string{"ipam"}},
		{"hairpin-route", hairpinJSON{}, nil},
	} {
		t.Run(c.plugin, func(t *testing.T) {
			want := keysOf(c.raw)
			folder := filepath.Join("..", "..", c.plugin)
			page, err := os.ReadFile(filepath.Join(folder, "README.md"))
			if err != nil {
				t.Fatal(err)
			}
			_, reference, _ := strings.Cut(string(page), "\n## Network configuration reference\n")
			reference, _, _ = strings.Cut(reference, "\n## ")
			got := slices.DeleteFunc(matches(item, reference), func(key string) bool { return slices.Contains(c.spec, key) })
			if !slices.Equal(got, want) {
				t.Errorf("the page describes %q, and the parser takes %q", got, want)
			}
			run := exec.Command("go", "run", "./"+folder, "--help")
			// These tests may be another machine's, under an emulator.
			run.Env = append(os.Environ(), "GOARCH=", "GOARM=")
			if built := os.Getenv("TEST_PLUGINS"); built != "" {
				run = exec.Command(filepath.Join(built, c.plugin), "--help")
			}
			help, err := run.Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := matches(helpLine, string(help)); !slices.Equal(got, want) {
				t.Errorf("--help describes %q, and the parser takes %q", got, want)
			}
		})
	}
}

func matches(re *regexp.Regexp, text string) []string {
	var found []string
	for _, m := range re.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return slices.Sorted(slices.Values(found))
}
