package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"

	"github.com/spf13/cobra"

	"macvlan-vip/systemd/internal/enter"
	"macvlan-vip/systemd/internal/members"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// Exit statuses of exec if the program cannot be run, the same as a shell's.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

func newExec() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec SERVICE -- COMMAND...",
		Short: "Run a command in a service's namespace",
		Long: `Runs a command as root in the network namespace of a service, with the
/etc/resolv.conf that the service has. The exit status is the command's, 127 if there
is no such command.`,
		Example: `  systemd-netns exec haproxy -- ss -ntlp
  systemd-netns exec haproxy -- curl -s http://backend.example/`,
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     completeMembers,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 || args[1] == "--" && len(args) < 3 {
				return errors.New("name a service and a command: exec SERVICE -- COMMAND")
			}
			return oneService(cmd, args[:1])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := serviceName(args[0])
			if err != nil {
				return err
			}
			if args = args[1:]; args[0] == "--" {
				args = args[1:]
			}
			return execIn(cmd.Context(), name, args)
		},
	}
	// Options after the service belong to the command.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func execIn(ctx context.Context, name string, argv []string) error {
	if err := needRoot(); err != nil {
		return err
	}
	return withSystemd(ctx, func(sd *units.Systemd) error {
		u, err := sd.Unit(ctx, name)
		if err != nil {
			return err
		}
		in := members.NamespaceOf(u)
		if in == "" {
			return fmt.Errorf("%s is in no namespace; see `systemd-netns list`", u.Name)
		}
		n := settings.Named(in)
		if _, err := os.Stat(n.Path); err != nil {
			return fmt.Errorf("namespace %s is not there; start its service: systemctl start %s", in, u.Name)
		}
		err = enter.Exec(n.Path, n.ResolvConf(), argv)
		switch {
		case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
			return exitError{err, exitNotFound}
		case errors.Is(err, fs.ErrPermission):
			return exitError{err, exitNotExecutable}
		}
		return err
	})
}
