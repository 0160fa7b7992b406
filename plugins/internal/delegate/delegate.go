// Package delegate runs a plugin on behalf of another, as the CNI specification's
// section "Delegated Plugin Execution" describes it.
//
// It does what libcni's package invoke does, which brings OpenTelemetry and with
// it net/http along: a sixth of the time that a plugin takes to start.
package delegate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// Call is how a plugin is called: by its type, with a network configuration on
// its standard input, and with this process's environment but for what Env has
// ("KEY=value").
type Call struct {
	Type  string
	Stdin []byte
	Env   []string
	// Path is where the plugin is looked for, colon-separated.
	Path string
}

// ErrNotFound tells that no folder of the path has the plugin.
var ErrNotFound = errors.New("no such plugin")

// Find gives the file of a plugin, or an error that is ErrNotFound.
func Find(kind, path string) (string, error) {
	if kind == "" || strings.ContainsRune(kind, os.PathSeparator) {
		return "", fmt.Errorf("%q: not a plugin's name: %w", kind, ErrNotFound)
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, kind)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			return file, nil
		}
	}
	return "", fmt.Errorf("%q in %q: %w", kind, path, ErrNotFound)
}

// grace is how long a plugin's own children may hold its output open once it
// has ended or was killed. It is also what this process has to read the output
// in, on a host whose CPUs are busy.
const grace = 3 * time.Second

// Do runs the plugin with a verb and gives what it prints. An error of the
// plugin's own is a *types.Error.
func (c Call) Do(ctx context.Context, verb string) ([]byte, error) {
	file, err := Find(c.Type, c.Path)
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, file)
	cmd.Env = append(append(os.Environ(), c.Env...), "CNI_COMMAND="+verb)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.Stdin), &stdout, &stderr
	cmd.WaitDelay = grace
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		return nil, failure(err, stdout.Bytes(), stderr.Bytes())
	}
	_, _ = stderr.WriteTo(os.Stderr)
	return stdout.Bytes(), nil
}

// failure is what a plugin that failed says on its standard output, or else
// what it wrote for people.
func failure(err error, stdout, stderr []byte) error {
	told := &types.Error{}
	switch {
	case len(stdout) > 0:
		if bad := json.Unmarshal(stdout, told); bad != nil {
			told.Msg = fmt.Sprintf("failed (%v), and its error cannot be read (%v): %q", err, bad, stdout)
		}
	case len(stderr) > 0:
		told.Msg = fmt.Sprintf("failed: %q: %v", stderr, err)
	default:
		told.Msg = fmt.Sprintf("failed and did not say why: %v", err)
	}
	return told
}
