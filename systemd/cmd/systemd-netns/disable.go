package main

import (
	"errors"

	"macvlan-vip/systemd/internal/dropin"
)

func disable(args []string) error {
	if err := needRoot(); err != nil {
		return err
	}
	if len(args) != 1 {
		return errors.New("disable: one service; see systemd-netns --help")
	}
	name, err := serviceName(args[0])
	if err != nil {
		return err
	}
	return dropin.Disable(name)
}
