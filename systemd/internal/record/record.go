// Package record stores the input of a namespace's ADD, so that teardown and repair use
// what was created, even if the configuration has changed since.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"macvlan-vip/systemd/internal/files"
)

// Dir holds a file for each namespace that was, or was to be, added to a
// network. Like IPAM's leases it outlives a power cut.
const Dir = "/var/lib/systemd-netns"

// Attachment is the input and the result of an ADD.
type Attachment struct {
	// Network is the network's name, Config its file's text, a list of plugins
	// or a single one.
	Network string          `json:"network"`
	Config  json.RawMessage `json:"config"`
	// IfName is the link's name in the namespace.
	IfName string `json:"ifName"`
	// CNIPath, CNIArgs and CapArgs are the variables CNI_PATH, CNI_ARGS and
	// CAP_ARGS, as they were; no ADD has gone through with one that is malformed.
	CNIPath string `json:"cniPath,omitempty"`
	CNIArgs string `json:"cniArgs,omitempty"`
	CapArgs string `json:"capArgs,omitempty"`
	// Env are the other variables of the environment file, as they were.
	Env map[string]string `json:"env,omitempty"`
	// Unit is the one that a reload of repairs the attachment.
	Unit string `json:"unit,omitempty"`
	// Undoing says that it is being undone, and must not be repaired.
	Undoing bool `json:"undoing,omitempty"`
	// Result is what the ADD gave; none while it is under way, or if it failed.
	Result json.RawMessage `json:"result,omitempty"`
}

// Same tells whether two are about one link of one network, so that the later
// one replaces the earlier.
func (a Attachment) Same(o Attachment) bool { return a.Network == o.Network && a.IfName == o.IfName }

// ErrDamaged is the error of a record that is there and cannot be read, such as one
// that a power cut has emptied.
var ErrDamaged = errors.New("the record of the attachment cannot be read")

// Path is the record's file of a namespace.
func Path(name string) string { return filepath.Join(Dir, name) }

// Load reads a namespace's record: nothing where there is none.
func Load(name string) ([]Attachment, error) { return Read(Path(name)) }

// Read is Load for a record's file.
func Read(path string) ([]Attachment, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []Attachment
	if err == nil {
		err = json.Unmarshal(data, &all)
	}
	if err == nil && slices.ContainsFunc(all, func(a Attachment) bool { return a.Network == "" || a.IfName == "" }) {
		err = errors.New("no network or link is named")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return all, nil
}

// Save writes a namespace's record, whole or not at all. It is not synced to
// the disk: what a power cut can take from it is found out from the plugins'
// own records and from cnitool's.
func Save(name string, all []Attachment) error { return Write(Path(name), all) }

// Write is Save for a record's file.
func Write(path string, all []Attachment) error {
	// No unit's name ends like this, so no other namespace's file does.
	tmp := path + "~"
	if len(all) == 0 {
		return errors.Join(files.RemoveIfThere(path), files.RemoveIfThere(tmp))
	}
	data, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("write the record: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		// On a full disk a part of it is there.
		return fmt.Errorf("write the record: %w", errors.Join(err, files.RemoveIfThere(tmp)))
	}
	return os.Rename(tmp, path)
}

// Put gives the list with an attachment in it, in place of the same one.
func Put(all []Attachment, a Attachment) []Attachment {
	rest := slices.DeleteFunc(slices.Clone(all), a.Same)
	return append(rest, a)
}
