package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Command is a process that ends within a time, with all that it started.
type Command struct {
	Program string
	Args    []string
	Env     []string
	Stdin   []byte
	Timeout time.Duration
}

// ErrTimeout is in the error of a command that was ended.
var ErrTimeout = errors.New("no answer")

// lastWords is how long, after the process has ended, its output is waited for:
// a process that it has left behind can hold the other end. It is also what this
// process has to read the output in, on a host whose CPUs are busy.
const lastWords = 3 * time.Second

// Run runs a command. The error of one that fails is an *exec.ExitError, or
// wraps ErrTimeout.
func Run(ctx context.Context, c Command) (stdout []byte, stderr string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, ErrTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.Program, c.Args...)
	var out, complaints bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(c.Stdin), &out, &complaints
	cmd.Env = c.Env
	// What hangs is often a plugin below the one that was called.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = lastWords
	err = cmd.Run()
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("%w within %s, and was stopped", ErrTimeout, c.Timeout)
	} else if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.Bytes(), strings.TrimSpace(complaints.String()), err
}
