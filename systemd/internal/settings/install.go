package settings

import (
	"os"
	"path/filepath"
)

// Prefix is where the project is installed, such as /usr/local: this program is
// in its bin/ or in its libexec/macvlan-vip/.
func Prefix() string {
	self, err := os.Executable()
	if err != nil {
		return "/usr/local"
	}
	return prefixOf(self)
}

func prefixOf(program string) string {
	dir := filepath.Dir(program)
	if filepath.Base(filepath.Dir(dir)) == "libexec" {
		dir = filepath.Dir(dir)
	}
	return filepath.Dir(dir)
}

// Program is the path of a program of the project or, where it is not
// installed, its name, to be looked up in the PATH.
func Program(name string) string {
	path := filepath.Join(Prefix(), "bin", name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return name
}

// CNIPath is where plugins are looked for by default. Packages have the IPAM plugins in a
// folder of their own, since others have them in /opt/cni/bin, too.
func CNIPath() string {
	return filepath.Join(Prefix(), "lib/macvlan-vip") + ":/opt/cni/bin"
}

// Helper is the path of the program that the units run.
func Helper() string {
	self, err := os.Executable()
	if err != nil {
		return "systemd-netns-helper"
	}
	return self
}
