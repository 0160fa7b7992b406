package record

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// conflictsPath is the file in which the keeper tells who else uses a namespace's
// VIPs. It goes with the shim's runtime directory.
func conflictsPath(name string) string {
	return filepath.Join("/run/systemd-netns", name, "conflicts")
}

// Conflicts tells who else uses a namespace's VIPs, one a line.
func Conflicts(name string) []string {
	data, err := os.ReadFile(conflictsPath(name))
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
}

// SetConflicts notes them; none removes the file. A namespace whose shim has gone
// meanwhile has none.
func SetConflicts(name string, lines []string) error {
	path := conflictsPath(name)
	var err error
	if len(lines) == 0 {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// repairPath is the file by which a reload is known to be nobody's wish to have edits
// put into effect.
func repairPath(name string) string { return filepath.Join("/run/systemd-netns", name, "repair") }

// AskForRepair has the next reload repair, and nothing else.
func AskForRepair(name string) error { return os.WriteFile(repairPath(name), nil, 0o644) }

// RepairOnly tells whether this reload is to repair, and nothing else.
func RepairOnly(name string) bool { return os.Remove(repairPath(name)) == nil }
