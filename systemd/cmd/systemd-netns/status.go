package main

import (
	"os"

	"macvlan-vip/systemd/internal/report"
)

func list([]string) error { return report.List(os.Stdout) }

func status(args []string) error {
	if len(args) == 0 {
		return report.List(os.Stdout)
	}
	name, err := serviceName(args[0])
	if err != nil {
		return err
	}
	return report.Status(name)
}
