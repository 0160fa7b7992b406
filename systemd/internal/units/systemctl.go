package units

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
)

// Show asks systemd for a property of units, one a line.
func Show(property string, units ...string) (string, error) {
	args := append([]string{"show", "--property=" + property, "--value", "--"}, units...)
	out, err := exec.Command("systemctl", args...).Output()
	if err != nil {
		return "", failure("systemctl", args, err, "")
	}
	return strings.TrimSpace(string(out)), nil
}

// Run runs a command, whose output is its error's text.
func Run(command string, args ...string) error {
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		return failure(command, args, err, string(out))
	}
	return nil
}

func failure(command string, args []string, err error, out string) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && out == "" {
		out = string(exit.Stderr)
	}
	return fmt.Errorf("%s %s: %w: %s", command, strings.Join(args, " "), err, strings.TrimSpace(out))
}
