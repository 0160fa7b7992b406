package cni

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"pgregory.net/rapid"
)

// garbage is what a file can hold after a power cut, an editor or a mistake.
var garbage = map[string]func(old []byte) []byte{
	"empty":   func([]byte) []byte { return nil },
	"zeros":   func(old []byte) []byte { return make([]byte, len(old)) },
	"cut off": func(old []byte) []byte { return old[:len(old)/2] },
	"binary":  func([]byte) []byte { return []byte("\x00\xff\x01{") },
	"object":  func([]byte) []byte { return []byte("{}") },
}

// spoil spoils a file, if it is there, in one of some ways.
func (w *world) spoil(file string, ways ...string) {
	old, err := os.ReadFile(file)
	if err != nil {
		w.r.Skip("no such file")
	}
	how := rapid.SampledFrom(ways).Draw(w.r, "garbage")
	w.note("%s: %s", file, how)
	if how == "whole" {
		return
	}
	if err := os.WriteFile(file, garbage[how](old), 0o600); err != nil {
		w.r.Fatal(err)
	}
}

var anyGarbage = []string{"empty", "zeros", "cut off", "binary", "object"}

func (w *world) spoilFile(*rapid.T) {
	w.spoil(filepath.Join(w.any().folder, "lab.conflist"), anyGarbage...)
}

func (w *world) spoilRecord(r *rapid.T) {
	s, plugin := w.any(), rapid.IntRange(0, 1).Draw(r, "plugin")
	w.spoil(filepath.Join(w.journals()[plugin], "attachments", fmt.Sprintf("%s:%s:%s.json", s.network.name, s.space.id, s.ifName)), anyGarbage...)
	s.certain = false
}

// spoilEntry puts something else in the place of one of the claims of a service,
// or of its entry among those who use mv-int.
func (w *world) spoilEntry(r *rapid.T) {
	s := w.any()
	var found []string
	for _, dir := range w.journals() {
		users, _ := filepath.Glob(filepath.Join(dir, "users", "*", fmt.Sprintf("%s:%s:%s", s.network.name, s.space.id, s.ifName)))
		found = append(found, users...)
		for part := range s.maybe {
			for _, p := range s.network.prefixes(part, 0) {
				claims, _ := filepath.Glob(filepath.Join(dir, "claims", "*", p.Addr().String()))
				found = append(found, claims...)
			}
		}
	}
	if len(found) == 0 {
		r.Skip("no entry")
	}
	path := rapid.SampledFrom(found).Draw(r, "entry")
	how := rapid.SampledFrom([]string{"gone", "a file", "a folder", "a link"}).Draw(r, "entry's garbage")
	w.note("in the place of %s: %s", path, how)
	err := os.Remove(path)
	switch how {
	case "a file":
		err = os.WriteFile(path, []byte("\xff"), 0o600)
	case "a folder":
		err = os.Mkdir(path, 0o700)
	case "a link":
		err = os.Symlink("nowhere", path)
	}
	if err != nil {
		r.Fatal(err)
	}
	// Whoever it was of: another may have owned the VIP.
	for _, o := range w.services {
		if o.network.uplink == s.network.uplink {
			o.certain = o.certain && !o.up
		}
	}
}

func (w *world) spoilCache(*rapid.T) { w.spoil(w.cache(w.any()), anyGarbage...) }

// reboot takes away what the kernel and /run hold, and leaves the disk.
func (w *world) reboot() {
	w.note("reboot")
	for _, s := range w.services {
		if s.space.there {
			w.removeNetns(s.space)
		}
		s.up, s.certain, s.maybe = false, true, set{}
	}
	w.dhcp.kill()
	w.dhcp.start()
	for _, l := range w.hostSides() {
		w.host.IP("link del " + l)
	}
	for _, family := range []string{"-4", "-6"} {
		_, _ = w.host.TryIP(family + " route flush table all proto 118")
	}
	w.forgetMACs()
	for _, dir := range w.journals() {
		if err := os.RemoveAll(dir); err != nil {
			w.r.Fatal(err)
		}
	}
}

// hostSides are the links that the plugins have made on the host.
func (w *world) hostSides() (names []string) {
	for line := range strings.Lines(w.host.IP("-o link show type macvlan")) {
		name, _, _ := strings.Cut(strings.Fields(line)[1], "@")
		if name != "other0" {
			names = append(names, name)
		}
	}
	return names
}

// powerCut is a reboot that spoils files which were not synced.
func (w *world) powerCut(r *rapid.T) {
	w.reboot()
	w.note("it was a power cut")
	var written []string
	for _, s := range w.services {
		if _, err := os.Stat(w.cache(s)); err == nil {
			written = append(written, w.cache(s))
		}
	}
	leases, _ := filepath.Glob(filepath.Join(w.leases, "*", "*"))
	for _, file := range append(written, leases...) {
		w.spoil(file, "whole", "empty", "zeros")
	}
}

// dropLeasesOfNobody does what an ADD does that needs the addresses.
func (w *world) dropLeasesOfNobody() {
	leases, _ := filepath.Glob(filepath.Join(w.leases, "*", "*"))
	for _, file := range leases {
		text, err := os.ReadFile(file)
		if _, notAddr := netip.ParseAddr(filepath.Base(file)); err == nil && notAddr == nil && len(bytes.Trim(text, "\x00")) == 0 {
			_ = os.Remove(file)
		}
	}
}
