package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// host-local keeps a lease as a file with the address's name, in which it writes
// whose it is (plugins/ipam/host-local/backend/disk). It does not sync the file,
// so a power cut can leave it empty, or full of zeros. Such a lease names nobody:
// no DEL finds it, and the address would never be given again.

// leaseLockTimeout bounds the wait for host-local's lock, held for milliseconds.
const leaseLockTimeout = time.Second

// dropBrokenLeases removes the leases of a network that name nobody, and tells
// whether there were any.
func dropBrokenLeases(stdin []byte) (dropped bool, err error) {
	dir, err := leaseDir(stdin)
	if err != nil {
		return false, err
	}
	unlock, err := lockLeases(dir)
	if err != nil {
		return false, err
	}
	defer unlock()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, fmt.Errorf("look for leases that name nobody: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if _, err := netip.ParseAddr(entry.Name()); err != nil || !entry.Type().IsRegular() {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil || len(bytes.Trim(text, "\x00 \r\n")) > 0 {
			continue
		}
		if err := os.Remove(path); err != nil {
			return dropped, fmt.Errorf("remove a lease that names nobody: %w", err)
		}
		logf("removed %s: a lease of host-local's that names nobody, as a power cut leaves it", path)
		dropped = true
	}
	return dropped, nil
}

// leaseDir is the folder of a network's leases.
func leaseDir(stdin []byte) (string, error) {
	var conf struct {
		Name string `json:"name"`
		IPAM struct {
			DataDir string `json:"dataDir"`
		} `json:"ipam"`
	}
	if err := json.Unmarshal(stdin, &conf); err != nil {
		return "", err
	}
	return filepath.Join(cmp.Or(conf.IPAM.DataDir, "/var/lib/cni/networks"), conf.Name), nil
}

// lockLeases takes the lock that host-local holds while it makes a lease: one
// that is just being made is empty, too.
func lockLeases(dir string) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("lock the leases: %w", err)
	}
	for deadline := time.Now().Add(leaseLockTimeout); ; time.Sleep(10 * time.Millisecond) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			file.Close()
			return nil, fmt.Errorf("lock the leases: %w", err)
		}
	}
}
