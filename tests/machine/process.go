package machine

import (
	"errors"
	"os/exec"
	"runtime"
	"syscall"
)

// process is one that runs a machine.
type process struct {
	cmd *exec.Cmd
	// ended is closed when it has ended and been cleared up after.
	ended chan struct{}
	err   error
}

func (p *process) exited() <-chan struct{} { return p.ended }

func (p *process) failure() error { return p.err }

// startProcess starts a machine's process, which gets the signal when this one
// ends, however it does. clearUp is called when it has ended.
func startProcess(cmd *exec.Cmd, orphaned syscall.Signal, clearUp func() error) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: orphaned}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The signal comes at the end of the thread, not of the process.
		runtime.LockOSThread()
		defer close(p.ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = errors.Join(cmd.Wait(), clearUp())
		}
	}()
	return p, <-started
}
