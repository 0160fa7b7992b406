package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"macvlan-vip/systemd/internal/dropin"
	"macvlan-vip/systemd/internal/units"
)

// transaction is what commands that change something share.
type transaction struct {
	dryRun, yes bool
}

func (t *transaction) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&t.dryRun, "dry-run", false, "print what would be written and restarted, and change nothing")
	cmd.Flags().BoolVar(&t.yes, "yes", false, "do not ask")
}

// run plans and applies a change, under the host-wide lock. It reports whether
// anything was changed.
func (t *transaction) run(ctx context.Context, sd *units.Systemd, plan func() (*dropin.Change, error), question string) (bool, error) {
	if err := needRoot(); err != nil {
		return false, err
	}
	unlock, err := dropin.Lock(ctx, func() { fmt.Fprintln(os.Stderr, "waiting for another systemd-netns") })
	if err != nil {
		return false, err
	}
	defer unlock()
	change, err := plan()
	if err != nil {
		return false, err
	}
	for _, left := range change.Left {
		complain(left)
	}
	if t.dryRun {
		for _, line := range change.Lines() {
			fmt.Println(line)
		}
		return false, nil
	}
	if change.Empty() {
		fmt.Println(change.Done + " already")
		return false, nil
	}
	if err := t.confirm(ctx, change.Others, question); err != nil {
		return false, err
	}
	if err := change.Apply(ctx, sd); err != nil {
		return false, err
	}
	fmt.Println(change.Done)
	return true, nil
}

// confirm asks on a terminal. Elsewhere nobody can answer, so --yes is needed.
func (t *transaction) confirm(ctx context.Context, others []string, question string) error {
	if len(others) > 0 {
		question = strings.TrimPrefix(question+". ", ". ") + "This restarts other running services, too: " + strings.Join(others, " ")
	}
	if t.yes || question == "" {
		return nil
	}
	if !isTerminal(os.Stdin) {
		return exitError{errors.New(question + "; standard input is not a terminal, so nobody can be asked: repeat it with --yes"), exitUsage}
	}
	fmt.Fprint(os.Stderr, question+". Continue? [y/N] ")
	answered := make(chan string, 1)
	go func() {
		answer, _ := bufio.NewReader(os.Stdin).ReadString('\n')
		answered <- strings.ToLower(strings.TrimSpace(answer))
	}()
	select {
	case answer := <-answered:
		if answer == "y" || answer == "yes" {
			return nil
		}
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr)
	}
	return errors.New("nothing was changed")
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
