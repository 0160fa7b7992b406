package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// EnvFile is the environment file of a namespace.
func EnvFile(name string) string { return filepath.Join(EnvDir, name+".env") }

// loadEnv adds to the environment what the namespace's file sets there, as
// systemd has done before it runs a unit; a person's shell has not.
func loadEnv(name string) error {
	data, err := os.ReadFile(EnvFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for key, value := range ParseEnv(string(data)) {
		if _, set := os.LookupEnv(key); set {
			continue
		}
		if err := os.Setenv(key, value); err != nil {
			return fmt.Errorf("%s: %q: %w", EnvFile(name), key, err)
		}
	}
	return nil
}

// ParseEnv reads the format of EnvironmentFile= (systemd.exec(5)): lines of
// KEY=VALUE; a value may be quoted, and a backslash joins lines.
func ParseEnv(text string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, "=")
		if !ok || strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		env[strings.TrimSpace(key)] = unquote(strings.TrimSpace(value))
	}
	return env
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
