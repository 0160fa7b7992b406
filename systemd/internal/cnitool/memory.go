package cnitool

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/systemd/internal/record"
	"macvlan-vip/systemd/internal/settings"
)

// cacheDir is libcni's.
const cacheDir = "/var/lib/cni/results"

// Known gives what was made of a namespace: by its record or, where that is lost
// or damaged, by what cnitool remembers. The error tells of a file that cannot be
// read; what is known from elsewhere is given all the same.
func Known(n settings.Namespace) ([]record.Attachment, error) {
	all, err := record.Load(n.Name)
	if err == nil && len(all) > 0 {
		return all, nil
	}
	all, more := Remembered(n)
	if more == nil && len(all) > 0 {
		return all, nil
	}
	return all, errors.Join(err, more)
}

// Latest gives what was made last, as far as Known gives anything; its error only if that
// is nothing.
func Latest(n settings.Namespace) (*record.Attachment, error) {
	known, err := Known(n)
	if len(known) == 0 {
		return nil, err
	}
	return &known[len(known)-1], nil
}

// Remembered gives the attachments that cnitool remembers of a namespace. Of one
// whose file cannot be read there is what the file's name tells, with an error.
func Remembered(n settings.Namespace) (all []record.Attachment, err error) {
	id := "-" + ContainerID(n) + "-"
	files, err := filepath.Glob(filepath.Join(cacheDir, "*"+id+"*"))
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, file := range files {
		a, err := readMemory(file)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w; `systemctl restart %s` recreates it", file, err, n.Shim()))
			a = record.Attachment{}
			a.Network, a.IfName, _ = strings.Cut(filepath.Base(file), id)
		}
		all = append(all, a)
	}
	return all, errors.Join(errs...)
}

// readMemory reads what libcni keeps of an ADD that succeeded.
func readMemory(file string) (a record.Attachment, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return a, err
	}
	var m struct {
		Config         []byte      `json:"config"`
		IfName         string      `json:"ifName"`
		NetworkName    string      `json:"networkName"`
		CNIArgs        [][2]string `json:"cniArgs"`
		CapabilityArgs json.RawMessage
		Result         json.RawMessage
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return a, err
	}
	if m.NetworkName == "" || m.IfName == "" || !json.Valid(m.Config) {
		return a, errors.New("no attachment of cnitool's")
	}
	pairs := make([]string, len(m.CNIArgs))
	for i, pair := range m.CNIArgs {
		pairs[i] = pair[0] + "=" + pair[1]
	}
	return record.Attachment{
		Network: m.NetworkName, IfName: m.IfName, Config: m.Config, Result: m.Result,
		CNIArgs: strings.Join(pairs, ";"), CapArgs: string(bytes.TrimSpace(m.CapabilityArgs)),
	}, nil
}

// Forget drops what cnitool remembers of an attachment.
func Forget(n settings.Namespace, a record.Attachment) error {
	err := os.Remove(filepath.Join(cacheDir, a.Network+"-"+ContainerID(n)+"-"+a.IfName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// ContainerID is cnitool's for a namespace.
func ContainerID(n settings.Namespace) string {
	sum := sha512.Sum512([]byte(n.Path))
	return fmt.Sprintf("cnitool-%x", sum[:10])
}

// Result is that of an attachment's ADD, an empty one where it cannot be read.
func Result(a record.Attachment) *current.Result {
	if result, err := parseResult(a.Result); err == nil {
		return result
	}
	return &current.Result{}
}
