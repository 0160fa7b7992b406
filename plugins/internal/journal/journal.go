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
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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
	if len(parts) != 3 || strings.Contains(s, "/") {
		return Key{}, false
	}
	return Key{Network: parts[0], ContainerID: parts[1], IfName: parts[2]}, true
}

// Record is what DEL and GC need to know of an attachment.
type Record struct {
	Key
	// Netns is CNI_NETNS at the time of ADD, a path that can come to lead to
	// another namespace. NetnsID is the namespace itself.
	Netns   string `json:"netns"`
	NetnsID string `json:"netnsID,omitempty"`
	// Config is a digest of the configuration that ADD was given, Input and
	// Args that configuration and CNI_ARGS themselves: DEL asks the IPAM plugin
	// by them, and a later ADD is compared with them.
	Config string          `json:"config,omitempty"`
	Input  json.RawMessage `json:"input,omitempty"`
	Args   string          `json:"args,omitempty"`
	// HostInterface is the host-side link that the attachment uses, if any.
	HostInterface string `json:"hostInterface,omitempty"`
	// ClaimScope and Claims are the VIPs that it owns.
	ClaimScope string   `json:"claimScope,omitempty"`
	Claims     []string `json:"claims,omitempty"`
	// Unasked are those of Claims for which the LAN could not be asked yet,
	// since the master had no carrier. They are neither probed for nor announced.
	Unasked []netip.Addr `json:"unasked,omitempty"`
	// IPAMType is the IPAM plugin that ADD asks.
	IPAMType string `json:"ipamType,omitempty"`
	// IPAM is the result of the IPAM plugin, for an ADD that is repeated.
	IPAM    json.RawMessage `json:"ipam,omitempty"`
	Desired plan.Desired    `json:"desired"`
	// Last is what IPAM gave before the last change of addresses, for an ADD
	// that takes the change back.
	Last *Given `json:"last,omitempty"`
	// Before is what an earlier ADD recorded, as long as the one that is to
	// replace it is not through: until then what either made can be there.
	Before *Record `json:"before,omitempty"`
	// Ending says that its removal has begun: its addresses may be somebody else's
	// by now, so that an ADD has to finish the removal first.
	Ending bool `json:"ending,omitempty"`
}

// First is the last of All: what the last ADD that finished has recorded, if
// there was one.
func (r *Record) First() *Record {
	for r.Before != nil {
		r = r.Before
	}
	return r
}

// Given is what IPAM gave for the configuration of a digest.
type Given struct {
	Config string          `json:"config"`
	IPAM   json.RawMessage `json:"ipam"`
}

// SameAs tells whether a record says the same as another one, which replaced
// whatever was before it.
func (r *Record) SameAs(o *Record) bool {
	if o == nil || o.Before != nil {
		return false
	}
	bare := *r
	bare.Before = nil
	mine, err1 := json.Marshal(&bare)
	others, err2 := json.Marshal(o)
	return err1 == nil && err2 == nil && bytes.Equal(mine, others)
}

// All gives the record, and those that it has not replaced yet.
func (r *Record) All() iter.Seq[*Record] {
	return func(yield func(*Record) bool) {
		for ; r != nil && yield(r); r = r.Before {
		}
	}
}

// Store is the journal of one plugin in one network namespace.
type Store struct {
	// root is the folder of all journals, dir this one's below it.
	root, dir string
	// trusted are the folders that were found private by this process, so
	// that a thousand claims cost a thousand system calls and not five times
	// as many.
	trusted sync.Map
}

// Open opens the journal of a plugin. scope names the network namespace that
// the plugin runs in. Nothing is created until something is recorded.
func Open(plugin, scope string) (*Store, error) {
	return openAt(Root, plugin, scope)
}

func openAt(root, plugin, scope string) (*Store, error) {
	s := &Store{root: root, dir: filepath.Join(root, plugin, scope)}
	if _, err := s.folder(""); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return s, nil
}

// attachments is the folder of the records.
const attachments = "attachments"

func (s *Store) attachment(key Key) string {
	return filepath.Join(s.dir, attachments, key.String()+".json")
}

// BadRecordError is a record that is not as Save wrote it, or that somebody else
// could have written.
type BadRecordError struct{ Cause error }

func (e *BadRecordError) Error() string { return "read record: " + e.Cause.Error() }
func (e *BadRecordError) Unwrap() error { return e.Cause }

// Load reads an attachment's record; nil where there is none. A BadRecordError is a
// CNI error 5 that names the file and the remedy.
func (s *Store) Load(key Key) (*Record, error) {
	if _, err := s.folder(attachments); err != nil {
		return nil, ignoreMissing(err)
	}
	path := s.attachment(key)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) {
		return nil, nil
	}
	if err != nil {
		return nil, &BadRecordError{err}
	}
	var rec Record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, &BadRecordError{cnierr.New(types.ErrIOFailure, badFileRemedy, "%s: %v", path, err)}
	}
	if rec.Key != key {
		return nil, &BadRecordError{cnierr.New(types.ErrIOFailure, badFileRemedy, "%s: it is of another attachment, %q", path, rec.Key)}
	}
	return &rec, nil
}

// Recall is Load for those who can do without the record: a bad one is none,
// and bad says what is wrong with it.
func (s *Store) Recall(key Key) (rec *Record, bad *BadRecordError, err error) {
	rec, err = s.Load(key)
	if errors.As(err, &bad) {
		return nil, bad, nil
	}
	return rec, nil, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// tmp is the suffix of a record that is being written.
const tmp = ".tmp"

// Save writes an attachment's record, whole or not at all.
func (s *Store) Save(rec *Record) error {
	path := s.attachment(rec.Key)
	err := s.inFolder(attachments, func(string) error {
		if err := writeFile(path+tmp, rec); err != nil {
			return err
		}
		return os.Rename(path+tmp, path)
	})
	if err == nil {
		return nil
	}
	var own *cnierr.Error
	if errors.As(err, &own) {
		return fmt.Errorf("write record: %w", err)
	}
	os.Remove(path + tmp)
	return cnierr.New(types.ErrIOFailure, "make sure that "+s.dir+" can be written", "write record: %v", err)
}

// End notes that the removal of an attachment begins, in case it does not finish. A
// disk that takes no note is no reason to leave the attachment.
func (s *Store) End(rec *Record) {
	rec.Ending = true
	_ = s.Save(rec)
}

// writeFile writes a new file, in place of what a process that was killed has
// left under its name.
func writeFile(path string, rec *Record) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	file, err := openFile(path, flags)
	if errors.Is(err, fs.ErrExist) {
		if err := os.Remove(path); err != nil {
			return err
		}
		file, err = openFile(path, flags)
	}
	if err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(file).Encode(rec), file.Close())
}

// Remove forgets an attachment, and what a process that was killed while it
// wrote the record has left. One that is not known is no error.
func (s *Store) Remove(key Key) error {
	if _, err := s.folder(attachments); err != nil {
		return ignoreMissing(err)
	}
	path := s.attachment(key)
	err := errors.Join(remove(path+tmp), remove(path))
	s.prune(attachments)
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
	return s.list(func(key Key) bool { return key.Network == network })
}

// All gives every attachment.
func (s *Store) All() ([]Key, error) {
	return s.list(func(Key) bool { return true })
}

// Siblings gives a container's other attachments.
func (s *Store) Siblings(of Key) ([]Key, error) {
	return s.list(func(key Key) bool { return key.ContainerID == of.ContainerID && key != of })
}

func (s *Store) list(is func(Key) bool) ([]Key, error) {
	dir, err := s.folder(attachments)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var keys []Key
	for _, entry := range entries {
		name, isRecord := strings.CutSuffix(strings.TrimSuffix(entry.Name(), tmp), ".json")
		if key, ok := parseKey(name); isRecord && ok && is(key) {
			keys = append(keys, key)
		}
	}
	return slices.Compact(keys), nil
}

// prune removes a folder of the journal and those above it, as far as they
// are empty: a host that runs nothing of ours shows nothing of ours.
func (s *Store) prune(sub string) {
	for dir := filepath.Join(s.dir, sub); dir != s.root; dir = filepath.Dir(dir) {
		if syscall.Rmdir(dir) != nil {
			return
		}
	}
}
