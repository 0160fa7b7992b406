package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/plugins/internal/cnierr"
)

// A claim is a symbolic link from the address to the owner's key: made by one
// system call that fails when it exists, and found without reading the other
// attachments' records, so that the 500th service costs what the first does.

// claims is the folder of the claims within a scope.
func claims(scope string) string { return filepath.Join("claims", scope) }

func (s *Store) claim(scope string, addr netip.Addr) string {
	return filepath.Join(s.dir, claims(scope), addr.String())
}

// Claim makes an attachment, which has a record, the owner of an address within a
// scope (a layer 2 domain). It returns the owner: key itself, or whoever was there
// first. A claim whose owner no longer has a record is replaced.
func (s *Store) Claim(scope string, addr netip.Addr, key Key) (owner Key, err error) {
	for owner == (Key{}) && err == nil {
		owner, err = s.tryClaim(scope, addr, key)
	}
	if err != nil {
		return Key{}, fmt.Errorf("claim %s: %w", addr, err)
	}
	return owner, nil
}

// tryClaim is one attempt of Claim: the zero Key says that what was in the way may
// be gone by now. Whoever finds nothing there competes by making the link, as all
// others do, and never by replacing one.
func (s *Store) tryClaim(scope string, addr netip.Addr, key Key) (owner Key, err error) {
	err = s.inFolder(claims(scope), func(string) error { return os.Symlink(key.String(), s.claim(scope, addr)) })
	if err == nil {
		return key, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return Key{}, err
	}
	owner, broken, err := s.look(scope, addr)
	switch {
	case err != nil:
		return Key{}, err
	case broken:
		return Key{}, s.sweep(scope, addr)
	case owner == key || owner == (Key{}):
		return owner, nil
	}
	if rec, err := s.Load(owner); rec != nil || err != nil {
		return owner, err
	}
	return s.takeOver(scope, addr, owner, key)
}

// takeOver replaces a stale claim, under a lock: of two that see the same
// stale claim only one may win.
func (s *Store) takeOver(scope string, addr netip.Addr, stale, key Key) (owner Key, err error) {
	lock, err := s.lockFolder(claims(scope))
	if err != nil {
		return Key{}, err
	}
	defer lock.Unlock()
	owner, err = s.Owner(scope, addr)
	if err != nil || owner != stale {
		return Key{}, err
	}
	if err := s.replaceClaim(scope, addr, key); err != nil {
		return Key{}, err
	}
	// If the owner is being added again, it may have found its claim still there:
	// it wrote its record before it looked.
	if rec, err := s.Load(stale); rec == nil && err == nil {
		return key, nil
	}
	return stale, s.replaceClaim(scope, addr, stale)
}

// replaceClaim replaces a claim in one step: one that is gone for a moment is there
// for somebody else to make, who does not ask for the lock.
func (s *Store) replaceClaim(scope string, addr netip.Addr, key Key) error {
	path := s.claim(scope, addr)
	return s.inFolder(claims(scope), func(string) error {
		_ = os.Remove(path + ".new")
		if err := os.Symlink(key.String(), path+".new"); err != nil {
			return err
		}
		return os.Rename(path+".new", path)
	})
}

// Owner tells who owns an address; the zero Key where nobody does.
func (s *Store) Owner(scope string, addr netip.Addr) (Key, error) {
	owner, _, err := s.look(scope, addr)
	return owner, err
}

// look reads a claim. What is in the place of one and names no attachment is
// none, and broken.
func (s *Store) look(scope string, addr netip.Addr) (owner Key, broken bool, err error) {
	if _, err := s.folder(claims(scope)); err != nil {
		return Key{}, false, ignoreMissing(err)
	}
	target, err := os.Readlink(s.claim(scope, addr))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Key{}, false, nil
	case errors.Is(err, syscall.EINVAL):
		return Key{}, true, nil
	case err != nil:
		return Key{}, false, fmt.Errorf("owner of %s: %w", addr, err)
	}
	key, _ := parseKey(target)
	return key, key == (Key{}), nil
}

// Unclaim gives up an address, if the attachment owns it.
func (s *Store) Unclaim(scope string, addr netip.Addr, key Key) error {
	owner, broken, err := s.look(scope, addr)
	switch {
	case err != nil:
		return err
	case broken:
		return s.sweep(scope, addr)
	case owner != key:
		return nil
	}
	return s.removeClaim(scope, addr)
}

func (s *Store) removeClaim(scope string, addr netip.Addr) error {
	if err := os.Remove(s.claim(scope, addr)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cnierr.New(types.ErrIOFailure, "find out who made it, and remove it", "remove the claim of %s: %v", addr, err)
	}
	return nil
}

// sweep removes what is in the place of a claim, under the lock of those who
// replace it by one.
func (s *Store) sweep(scope string, addr netip.Addr) error {
	lock, err := s.lockFolder(claims(scope))
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if _, broken, err := s.look(scope, addr); err != nil || !broken {
		return err
	}
	return s.removeClaim(scope, addr)
}

// ClaimAll claims again what a record claims, as far as nobody else owns it.
func (s *Store) ClaimAll(rec *Record) error {
	var errs []error
	for _, text := range rec.Claims {
		addr, err := netip.ParseAddr(text)
		if err == nil {
			_, err = s.Claim(rec.ClaimScope, addr, rec.Key)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// UnclaimAll gives up all that a record claims.
func (s *Store) UnclaimAll(rec *Record) error { return s.UnclaimBut(rec, nil) }

// UnclaimBut gives up what a record claims, and keep, with those before it,
// does not.
func (s *Store) UnclaimBut(rec, keep *Record) error {
	kept := map[string]bool{}
	for k := range keep.All() {
		for _, text := range k.Claims {
			kept[k.ClaimScope+"/"+text] = true
		}
	}
	var errs []error
	for _, text := range rec.Claims {
		if kept[rec.ClaimScope+"/"+text] {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err == nil {
			err = s.Unclaim(rec.ClaimScope, addr, rec.Key)
		}
		errs = append(errs, err)
	}
	s.prune(claims(rec.ClaimScope))
	return errors.Join(errs...)
}

// Foreign tells which of a record's addresses another attachment owns by now.
func (s *Store) Foreign(rec *Record) (map[netip.Addr]bool, error) {
	foreign := map[netip.Addr]bool{}
	var errs []error
	for _, text := range rec.Claims {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("claim of %s: %w", rec.Key, err))
			continue
		}
		owner, err := s.Owner(rec.ClaimScope, addr)
		if err != nil || owner != (Key{}) && owner != rec.Key {
			foreign[addr] = true
		}
		errs = append(errs, err)
	}
	return foreign, errors.Join(errs...)
}

// Claimed finds what an attachment claims, for the time when its record is
// lost: a record with nothing but the claims for each scope. It looks at every
// claim there is, and removes what is in the place of one: that could be this
// attachment's, and is as good as nothing to whose else it was.
func (s *Store) Claimed(key Key) (recs []*Record, err error) {
	scopes, err := s.names("claims")
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, scope := range scopes {
		rec := &Record{Key: key, ClaimScope: scope}
		addrs, err := s.names(claims(scope))
		for _, text := range addrs {
			addr, parseErr := netip.ParseAddr(text)
			if parseErr != nil {
				continue
			}
			owner, broken, lookErr := s.look(scope, addr)
			if broken {
				// What cannot be removed is whoever's the address is to name.
				_ = s.sweep(scope, addr)
			}
			if owner == key {
				rec.Claims = append(rec.Claims, text)
			}
			errs = append(errs, lookErr)
		}
		if len(rec.Claims) > 0 {
			recs = append(recs, rec)
		}
		errs = append(errs, err)
	}
	return recs, errors.Join(errs...)
}

// names lists a folder of the journal; one that is not there is empty.
func (s *Store) names(sub string) (names []string, err error) {
	dir, err := s.folder(sub)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, nil
}
