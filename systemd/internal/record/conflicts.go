package record

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"macvlan-vip/systemd/internal/settings"
)

// conflictsPath is the file in which the keeper lists other holders of a namespace's
// VIPs. It is removed with the shim's runtime directory.
func conflictsPath(name string) string { return settings.RunFile(name, "conflicts") }

// Conflicts lists other holders of a namespace's VIPs, one per line.
func Conflicts(name string) []string {
	data, err := os.ReadFile(conflictsPath(name))
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
}

// SetConflicts writes the list; an empty one removes the file. It is no error if the
// shim is gone meanwhile.
func SetConflicts(name string, lines []string) error {
	return note(conflictsPath(name), strings.Join(lines, "\n"))
}

// doubtPath is the file in which the keeper tells why the LAN may not have been asked
// yet whether a namespace's VIPs are free.
func doubtPath(name string) string { return settings.RunFile(name, "doubt") }

// Doubt tells that in a line, "" if there is no reason.
func Doubt(name string) string {
	data, err := os.ReadFile(doubtPath(name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// SetDoubt notes it; "" removes the file.
func SetDoubt(name, line string) error { return note(doubtPath(name), line) }

// note writes lines to a file, or removes it if there are none.
func note(path, text string) error {
	var err error
	if text == "" {
		err = os.Remove(path)
	} else {
		err = os.WriteFile(path, []byte(text+"\n"), 0o644)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// repairPath is the file that tells a reload not to apply edits.
func repairPath(name string) string { return settings.RunFile(name, "repair") }

// broken is in that file if something is known to be. systemd-netns-repair@.service
// writes an empty one.
const broken = "broken\n"

// AskForRepair makes the next reload only repair. If something is known to
// be broken, it need not look first.
func AskForRepair(name string, isBroken bool) error {
	text := ""
	if isBroken {
		text = broken
	}
	return os.WriteFile(repairPath(name), []byte(text), 0o644)
}

// RepairOnly tells whether this reload is to repair, and nothing else, and whether
// something is known to be broken.
func RepairOnly(name string) (only, isBroken bool) {
	text, err := os.ReadFile(repairPath(name))
	return err == nil && os.Remove(repairPath(name)) == nil, string(text) == broken
}
