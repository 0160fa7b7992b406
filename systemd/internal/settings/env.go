package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// EnvFile is the environment file of a namespace.
func EnvFile(name string) string { return filepath.Join(EnvDir, name+".env") }

// readEnv reads the namespace's file, of which there may be none. The units do not
// have systemd read it (EnvironmentFile=): with one that it cannot read none of
// their commands would run, those that clean up included.
func readEnv(name string) (map[string]string, error) {
	data, err := os.ReadFile(EnvFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(data) || bytes.ContainsRune(data, 0) {
		return nil, fmt.Errorf("%s: not a text file; write lines of KEY=VALUE", EnvFile(name))
	}
	env := ParseEnv(string(data))
	if err := checkEnv(env); err != nil {
		return nil, fmt.Errorf("%s: %w", EnvFile(name), err)
	}
	return env, nil
}

var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// checkEnv refuses variables that nobody would read, such as one after a shell's "export" or an
// editor's byte order mark.
func checkEnv(env map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(env)) {
		if !envName.MatchString(key) {
			return fmt.Errorf("%q: not a variable's name; write lines of KEY=VALUE", key)
		}
	}
	return nil
}

// ParseEnv reads the format of EnvironmentFile= (systemd.exec(5)): lines of
// KEY=VALUE; a value may be quoted, and a backslash joins lines.
func ParseEnv(text string) map[string]string {
	env := map[string]string{}
	for _, line := range joinedLines(text) {
		if key, value, ok := assignment(line); ok {
			env[key] = unquote(value)
		}
	}
	return env
}

// SetEnv sets a variable in such a text, and leaves all else as it is. Of several
// assignments the last one counts.
func SetEnv(text, key, value string) string {
	set := key + "=" + strings.ReplaceAll(value, `\`, `\\`) + "\n"
	lines := joinedLines(text)
	for i, line := range slices.Backward(lines) {
		if k, _, ok := assignment(line); ok && k == key {
			lines[i] = set
			return strings.Join(lines, "")
		}
	}
	for text != "" && (!strings.HasSuffix(text, "\n") || strings.HasSuffix(text, "\\\n")) {
		text += "\n"
	}
	return text + set
}

// joinedLines splits a text where no backslash joins lines.
func joinedLines(text string) (lines []string) {
	open := false
	for line := range strings.Lines(text) {
		if open {
			lines[len(lines)-1] += line
		} else {
			lines = append(lines, line)
		}
		open = strings.HasSuffix(line, "\\\n")
	}
	return lines
}

func assignment(line string) (key, value string, ok bool) {
	line = strings.TrimSpace(strings.ReplaceAll(line, "\\\n", ""))
	key, value, ok = strings.Cut(line, "=")
	ok = ok && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";")
	return strings.TrimSpace(key), strings.TrimSpace(value), ok
}

// unquote takes quotes off the parts of a value that begin with one; any other
// quote stands for itself, as JSON's do in {"ips":[]}. Outside quotes a
// backslash keeps the character that follows; in double quotes only one of
// "\`$; in single quotes it stands for itself.
func unquote(value string) string {
	var b strings.Builder
	var quote byte
	begins := true
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case quote != 0 && c == quote:
			quote, begins = 0, true
			continue
		case begins && (c == '"' || c == '\''):
			quote = c
		case c == '\\' && i+1 == len(value) && quote == 0:
			// It joins nothing, as before the end of a line of DOS.
		case c == '\\' && i+1 < len(value) && (quote == 0 || quote == '"' && strings.IndexByte("\"\\`$", value[i+1]) >= 0):
			i++
			b.WriteByte(value[i])
		default:
			b.WriteByte(c)
		}
		begins = false
	}
	return b.String()
}
