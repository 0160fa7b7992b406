// Package journal keeps what must outlive a plugin's process: a record of
// each attachment, who owns which VIP, and who uses which host-side link.
//
// Everything lies under /run, so that it dies with the kernel state that it
// describes, and in a folder of the network namespace that the plugin runs
// in, since links and routes are that namespace's. A record is written before
// the kernel is touched and removed after the kernel is clean, so that a
// process that is killed in between leaves something to clean up by.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/plugins/internal/cnierr"
	"macvlan-vip/plugins/internal/plan"
)

// Root is where the journals of all plugins lie.
const Root = "/run/cni"

// Key names an attachment as the CNI specification does, section "Attachment
// parameters".
type Key struct {
	Network     string `json:"network"`
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifName"`
}

// String joins the parts with ':', which none of them can hold.
func (k Key) String() string {
	return k.Network + ":" + k.ContainerID + ":" + k.IfName
}

func parseKey(s string) (Key, bool) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return Key{}, false
	}
	return Key{Network: parts[0], ContainerID: parts[1], IfName: parts[2]}, true
}

// Record is what DEL and GC need to know of an attachment.
type Record struct {
	Key
	// Netns is CNI_NETNS at the time of ADD.
	Netns string `json:"netns"`
	// Config is a digest of the configuration that ADD was given.
	Config string `json:"config,omitempty"`
	// HostInterface is the host-side link that the attachment uses, if any.
	HostInterface string `json:"hostInterface,omitempty"`
	// ClaimScope and Claims are the VIPs that it owns.
	ClaimScope string   `json:"claimScope,omitempty"`
	Claims     []string `json:"claims,omitempty"`
	// IPAM is the result of the IPAM plugin, for an ADD that is repeated.
	IPAM    json.RawMessage `json:"ipam,omitempty"`
	Desired plan.Desired    `json:"desired"`
}

// Store is the journal of one plugin in one network namespace.
type Store struct{ dir string }

// Open opens the journal of a plugin. scope names the network namespace that
// the plugin runs in. Nothing is created until something is recorded.
func Open(plugin, scope string) (*Store, error) {
	return openAt(filepath.Join(Root, plugin), scope)
}

func openAt(base, scope string) (*Store, error) {
	if err := checkPrivate(base); err != nil {
		return nil, err
	}
	return &Store{dir: filepath.Join(base, scope)}, nil
}

// checkPrivate refuses a folder that somebody else could have filled.
func checkPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if !info.IsDir() || info.Mode().Perm()&0o022 != 0 || int(owner) != os.Geteuid() {
		return cnierr.New(types.ErrIOFailure, "remove it, after finding out who made it",
			"journal: %s: %s of user %d: want a folder of user %d that nobody else can write", dir, info.Mode(), owner, os.Geteuid())
	}
	return nil
}

func (s *Store) attachment(key Key) string {
	return filepath.Join(s.dir, "attachments", key.String()+".json")
}

// Load reads an attachment's record; nil where there is none.
func (s *Store) Load(key Key) (*Record, error) {
	data, err := os.ReadFile(s.attachment(key))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	var rec Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, cnierr.New(types.ErrIOFailure, "remove the file, and what it describes by hand", "record %s: %v", s.attachment(key), err)
	}
	return &rec, nil
}

// tmp is the suffix of a record that is being written.
const tmp = ".tmp"

// Save writes an attachment's record, whole or not at all.
func (s *Store) Save(rec *Record) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	path := s.attachment(rec.Key)
	err = s.inFolder(filepath.Dir(path), func() error {
		if err := os.WriteFile(path+tmp, data, 0o600); err != nil {
			return err
		}
		return os.Rename(path+tmp, path)
	})
	if err != nil {
		os.Remove(path + tmp)
		return cnierr.New(types.ErrIOFailure, "make sure that "+s.dir+" can be written", "write record: %v", err)
	}
	return nil
}

// Remove forgets an attachment, and what a process that was killed while it
// wrote the record has left. One that is not known is no error.
func (s *Store) Remove(key Key) error {
	path := s.attachment(key)
	err := errors.Join(remove(path+tmp), remove(path))
	s.prune("attachments")
	return err
}

func remove(path string) error {
	err := os.Remove(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENAMETOOLONG) {
		return fmt.Errorf("remove record: %w", err)
	}
	return nil
}

// List gives the attachments of a network, those whose record was never
// finished as well.
func (s *Store) List(network string) ([]Key, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "attachments"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var keys []Key
	for _, entry := range entries {
		name, isRecord := strings.CutSuffix(strings.TrimSuffix(entry.Name(), tmp), ".json")
		if key, ok := parseKey(name); isRecord && ok && key.Network == network {
			keys = append(keys, key)
		}
	}
	return slices.Compact(keys), nil
}

// inFolder makes a folder and does something in it, once more if another
// process pruned the folder in between.
func (s *Store) inFolder(dir string, do func() error) error {
	for try := 0; ; try++ {
		// A folder that goes while it is made shows as either error.
		if err := os.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return err
		}
		err := do()
		if !errors.Is(err, fs.ErrNotExist) || try == 100 {
			return err
		}
	}
}

// prune removes a folder of the journal and those above it, as far as they
// are empty: a host that runs nothing of ours shows nothing of ours.
func (s *Store) prune(sub string) {
	for dir := filepath.Join(s.dir, sub); dir != Root && dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		if os.Remove(dir) != nil {
			return
		}
	}
}
