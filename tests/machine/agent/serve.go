package main

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// outputDelay bounds the wait for a command's output once it has ended: a
// child that it leaves behind may hold the pipe.
const outputDelay = 2 * time.Second

// portTimeout bounds the wait for the port's driver.
const portTimeout = time.Minute

// port is a virtio-serial port as a connection.
type port struct{ *os.File }

func (p port) LocalAddr() net.Addr  { return p }
func (p port) RemoteAddr() net.Addr { return p }
func (p port) Network() string      { return "virtio" }
func (p port) String() string       { return p.Name() }

// serve runs the commands that come in at a virtio-serial port. The port needs
// no protection: only qemu is at its other end.
func serve() error {
	file, err := openPort()
	if err != nil {
		return err
	}
	defer file.Close()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return err
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(key)
	conn, channels, requests, err := ssh.NewServerConn(port{file}, config)
	if err != nil {
		return fmt.Errorf("shake hands: %w", err)
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			return err
		}
		go session(channel, requests)
	}
	return conn.Wait()
}

// openPort opens the machine's one port, whose number depends on its other
// devices'.
func openPort() (*os.File, error) {
	for deadline := time.Now().Add(portTimeout); ; time.Sleep(100 * time.Millisecond) {
		paths, err := filepath.Glob("/dev/vport*p*")
		switch {
		case err != nil:
			return nil, err
		case len(paths) > 0:
			return os.OpenFile(paths[0], os.O_RDWR, 0)
		case time.Now().After(deadline):
			return nil, errors.New("no virtio-serial port in /dev")
		}
	}
}

// session runs one command, and kills it when the session is closed before.
func session(channel ssh.Channel, requests <-chan *ssh.Request) {
	defer func() { _ = channel.Close() }()
	var cmd *exec.Cmd
	ended := make(chan struct{})
	for request := range requests {
		if request.Type != "exec" || cmd != nil {
			_ = request.Reply(false, nil)
			continue
		}
		var err error
		cmd, err = start(channel, request.Payload)
		if err != nil {
			fmt.Fprintln(channel.Stderr(), err)
		}
		_ = request.Reply(err == nil, nil)
		if err != nil {
			return
		}
		go func() {
			report(channel, cmd.Wait())
			close(ended)
			_ = channel.Close()
		}()
	}
	select {
	case <-ended:
	default:
		if cmd != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}
}

// start starts the command of a request: its arguments as a JSON array.
func start(channel ssh.Channel, payload []byte) (*exec.Cmd, error) {
	var command struct{ Args string }
	if err := ssh.Unmarshal(payload, &command); err != nil {
		return nil, err
	}
	var args []string
	if err := json.Unmarshal([]byte(command.Args), &args); err != nil {
		return nil, err
	}
	if len(args) == 0 {
		return nil, errors.New("no command")
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.WaitDelay = "/", outputDelay
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// Not cmd.Stdin, whose end Wait would wait for.
	go func() {
		_, _ = io.Copy(stdin, channel)
		stdin.Close()
	}()
	return cmd, nil
}

// report tells the exit status; of a command that a signal has ended, it is
// 128 and the signal's number, as in a shell.
func report(channel ssh.Channel, err error) {
	status := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		status = exit.ExitCode()
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			status = 128 + int(ws.Signal())
		}
	case err != nil && !errors.Is(err, exec.ErrWaitDelay):
		fmt.Fprintln(channel.Stderr(), err)
		status = 255
	}
	_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
}
