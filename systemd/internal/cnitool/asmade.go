package cnitool

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
)

// AsMade is a namespace with the settings that an attachment was made with. The
// network's file is in a folder that forget removes.
func AsMade(n settings.Namespace, a record.Attachment) (made settings.Namespace, forget func(), err error) {
	dir, forget, err := folderOf(a.Config)
	if err != nil {
		return n, nil, err
	}
	n.Network, n.ConfDir, n.IfName = a.Network, dir, a.IfName
	n.CNIPath, n.CNIArgs, n.CapArgs, n.Env = PluginPath(a), a.CNIArgs, a.CapArgs, a.Env
	return n, forget, nil
}

// folderOf makes a folder with nothing in it but a network's file, for cnitool, which
// reads all the files of a folder until it has found the network's: one of another
// network that is broken would be in the way. forget removes it.
func folderOf(config []byte) (dir string, forget func(), err error) {
	dir, err = os.MkdirTemp("", "systemd-netns.")
	if err != nil {
		return "", nil, err
	}
	forget = func() { os.RemoveAll(dir) }
	file := "network.conflist"
	if !networks.IsList(config) {
		file = "network.conf"
	}
	if err := os.WriteFile(filepath.Join(dir, file), config, 0o600); err != nil {
		forget()
		return "", nil, err
	}
	return dir, forget, nil
}

// PluginPath is where the plugins of an attachment were, and then where they are
// by default: they can have been installed anew elsewhere.
func PluginPath(a record.Attachment) string {
	path := filepath.SplitList(a.CNIPath)
	for _, dir := range filepath.SplitList(settings.CNIPath()) {
		if !slices.Contains(path, dir) {
			path = append(path, dir)
		}
	}
	return strings.Join(path, ":")
}

// Check gives what of the kernel's state differs from what an attachment made, nil
// if nothing.
func Check(n settings.Namespace, a record.Attachment) error {
	made, forget, err := AsMade(n, a)
	if err != nil {
		return err
	}
	defer forget()
	_, _, err = Run(made, "check")
	return err
}
