package units

import (
	"fmt"
	"os/exec"
	"strings"
)

// Run runs a command, whose output is its error's text.
func Run(command string, args ...string) error {
	out, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", command, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
