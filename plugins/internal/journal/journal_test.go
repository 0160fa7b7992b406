package journal

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"

	"macvlan-vip/plugins/internal/cnierr"
)

func store(t *testing.T) *Store {
	t.Helper()
	return open(t, t.TempDir())
}

// open opens a journal as another process would.
func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := openAt(filepath.Join(dir, "cni"), "plugin", "netns-1")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func key(id string) Key { return Key{Network: "lan", ContainerID: id, IfName: "mv0"} }

func save(t *testing.T, s *Store, rec *Record) {
	t.Helper()
	if err := s.Save(rec); err != nil {
		t.Fatal(err)
	}
}

func TestRecords(t *testing.T) {
	s := store(t)
	if rec, err := s.Load(key("a")); rec != nil || err != nil {
		t.Fatalf("a record of nothing: %v, %v", rec, err)
	}
	want := &Record{Key: key("a"), Netns: "/run/netns/a", Claims: []string{"192.0.2.1"}}
	save(t, s, want)
	save(t, s, &Record{Key: key("b")})
	save(t, s, &Record{Key: Key{Network: "lan2", ContainerID: "a", IfName: "mv0"}})
	got, err := s.Load(key("a"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	keys, err := s.List("lan")
	if diff := cmp.Diff([]Key{key("a"), key("b")}, keys); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for range 2 {
		if err := s.Remove(key("a")); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	if rec, _ := s.Load(key("a")); rec != nil {
		t.Error("the record is still there")
	}
}

func TestNothingIsLeft(t *testing.T) {
	s := store(t)
	rec := &Record{Key: key("a"), ClaimScope: "link-1", Claims: []string{"192.0.2.1", "2001:db8::1"}}
	save(t, s, rec)
	for _, claim := range rec.Claims {
		if _, err := s.Claim(rec.ClaimScope, netip.MustParseAddr(claim), rec.Key); err != nil {
			t.Fatal(err)
		}
	}
	lock, err := s.Lock("mv-int")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Join("mv-int", rec.Key); err != nil {
		t.Fatal(err)
	}
	unused, err := s.Unused("mv-int", rec.Key)
	if err := errors.Join(err, s.Leave("mv-int", rec.Key)); !unused || err != nil {
		t.Fatalf("unused %v, %v", unused, err)
	}
	s.Forget(lock)
	lock.Unlock()
	if err := errors.Join(s.UnclaimAll(rec), s.Remove(rec.Key)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", s.dir, err)
	}
}

func TestClaims(t *testing.T) {
	s := store(t)
	vip := netip.MustParseAddr("192.0.2.1")
	save(t, s, &Record{Key: key("a")})
	claim := func(scope string, by, want Key) {
		t.Helper()
		if owner, err := s.Claim(scope, vip, by); err != nil || owner != want {
			t.Errorf("claim by %s: owner %s, %v; want %s", by, owner, err, want)
		}
	}
	claim("link-1", key("a"), key("a"))
	claim("link-1", key("a"), key("a"))
	claim("link-1", key("b"), key("a"))
	claim("link-2", key("b"), key("b"))

	if err := s.Unclaim("link-1", vip, key("b")); err != nil {
		t.Fatal(err)
	}
	claim("link-1", key("b"), key("a"))

	if err := s.Remove(key("a")); err != nil {
		t.Fatal(err)
	}
	claim("link-1", key("b"), key("b"))
}

// TestStaleClaimHasOneHeir: of many that find the same claim without a record
// behind it, exactly one takes it over.
func TestStaleClaimHasOneHeir(t *testing.T) {
	s := store(t)
	vip := netip.MustParseAddr("192.0.2.1")
	if _, err := s.Claim("link-1", vip, key("dead")); err != nil {
		t.Fatal(err)
	}
	var heirs sync.Map
	var wg sync.WaitGroup
	for _, id := range strings.Split("abcdefghijklmnop", "") {
		save(t, s, &Record{Key: key(id)})
		wg.Go(func() {
			owner, err := s.Claim("link-1", vip, key(id))
			if err != nil {
				t.Error(err)
			}
			heirs.Store(owner, true)
		})
	}
	wg.Wait()
	count := 0
	heirs.Range(func(_, _ any) bool { count++; return true })
	if count != 1 {
		t.Errorf("%d owners", count)
	}
}

// TestClaimIsHandedOver: of those that wait for an address that its owner gives up,
// one gets it. The claims' folder goes with its last claim, and comes again.
func TestClaimIsHandedOver(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	var owners atomic.Int32
	for i := range 4 {
		s, rec := open(t, dir), &Record{Key: key(fmt.Sprint(i)), ClaimScope: "lan", Claims: []string{"192.0.2.1"}}
		save(t, s, rec)
		wg.Go(func() {
			for range 100 {
				takeTurn(t, s, rec, &owners)
			}
		})
	}
	wg.Wait()
}

// takeTurn waits for the address of a record, and gives it up again.
func takeTurn(t *testing.T, s *Store, rec *Record, owners *atomic.Int32) {
	vip := netip.MustParseAddr(rec.Claims[0])
	for owner := (Key{}); owner != rec.Key; {
		var err error
		if owner, err = s.Claim(rec.ClaimScope, vip, rec.Key); err != nil {
			t.Error(err)
			return
		}
	}
	if n := owners.Add(1); n != 1 {
		t.Errorf("%d owners", n)
	}
	time.Sleep(100 * time.Microsecond)
	if owner, err := s.Owner(rec.ClaimScope, vip); owner != rec.Key || err != nil {
		t.Errorf("%s has taken it from %s, %v", owner, rec.Key, err)
	}
	owners.Add(-1)
	if err := s.UnclaimAll(rec); err != nil {
		t.Error(err)
	}
}

// TestOwnerComesBack: one that was killed is added again while somebody else takes
// over what it has claimed.
func TestOwnerComesBack(t *testing.T) {
	vip := netip.MustParseAddr("192.0.2.1")
	keys := [2]Key{key("killed"), key("other")}
	for range 200 {
		s := store(t)
		if _, err := s.Claim("lan", vip, keys[0]); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		var owners [2]Key
		for i, key := range keys {
			wg.Go(func() {
				err := s.Save(&Record{Key: key})
				if err == nil {
					owners[i], err = s.Claim("lan", vip, key)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if owners == keys {
			t.Fatal("both have it")
		}
		if left, err := s.Owner("lan", vip); !slices.Contains(keys[:], left) || err != nil {
			t.Fatalf("nobody has it: %v, %v", left, err)
		}
	}
}

// TestClaimsThatAreNone: what else has a claim's name is replaced, or named with
// the remedy; it keeps nobody from another address.
func TestClaimsThatAreNone(t *testing.T) {
	for name, make := range map[string]func(path string) error{
		"a file":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"nonsense": func(path string) error { return os.Symlink("../nonsense", path) },
		"a folder": func(path string) error { return os.MkdirAll(filepath.Join(path, "x"), 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t)
			first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
			if _, err := s.Claim("lan", second, key("b")); err != nil {
				t.Fatal(err)
			}
			if err := make(s.claim("lan", first)); err != nil {
				t.Fatal(err)
			}
			owner, err := s.Claim("lan", first, key("a"))
			if e := cnierr.ToCNI(err); name == "a folder" && (e == nil || e.Code != types.ErrIOFailure || !strings.Contains(e.Msg, s.claim("lan", first)) || e.Details == "") {
				t.Errorf("want an error 5 that names the folder and the remedy: %+v", e)
			}
			if name != "a folder" && (owner != key("a") || err != nil) {
				t.Errorf("not taken over: %v, %v", owner, err)
			}
			if recs, err := s.Claimed(key("b")); err != nil || len(recs) != 1 || len(recs[0].Claims) != 1 {
				t.Errorf("claims of b: %v, %v", recs, err)
			}
		})
	}
}

// TestLastUserLeaves: one that has no record is none, whoever left its entry.
func TestLastUserLeaves(t *testing.T) {
	s := store(t)
	for _, id := range []string{"a", "b", "a", "lost"} {
		if id != "lost" {
			save(t, s, &Record{Key: key(id)})
		}
		if err := s.Join("mv-int", key(id)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(s.dir, users("mv-int"), "whatever", "else"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		id     string
		unused bool
	}{{"c", false}, {"a", false}, {"b", true}, {"b", true}} {
		if unused, err := s.Unused("mv-int", key(tt.id)); unused != tt.unused || err != nil {
			t.Errorf("but for %s: unused %v, %v", tt.id, unused, err)
		}
		if err := s.Leave("mv-int", key(tt.id)); err != nil {
			t.Error(err)
		}
	}
}

// TestLockExcludes: the folder is pruned by every one that leaves last, while
// others wait for the lock in it.
func TestLockExcludes(t *testing.T) {
	s := store(t)
	var wg sync.WaitGroup
	var inside, crowded atomic.Int32
	for range 50 {
		wg.Go(func() {
			lock, err := s.Lock("mv-int")
			if err != nil {
				t.Error(err)
				return
			}
			if inside.Add(1) != 1 {
				crowded.Add(1)
			}
			time.Sleep(time.Millisecond)
			inside.Add(-1)
			s.Forget(lock)
			lock.Unlock()
		})
	}
	wg.Wait()
	if n := crowded.Load(); n != 0 {
		t.Errorf("%d times another was inside, too", n)
	}
}

func TestLockHolderThatHangs(t *testing.T) {
	s := store(t)
	held, err := s.Lock("mv-int")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Unlock()
	_, err = s.lock("mv-int", 50*time.Millisecond)
	cni := cnierr.ToCNI(err)
	if cni == nil || cni.Code != types.ErrTryAgainLater || !strings.Contains(cni.Details, cnierr.TryAgain) {
		t.Errorf("want error 11, got %v", cni)
	}
}

// TestLockThatManyWaitFor: who waits long because many are before him does not
// take it for a holder that hangs.
func TestLockThatManyWaitFor(t *testing.T) {
	s := store(t)
	held, err := s.Lock("mv-int")
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 500 * time.Millisecond
	go func() {
		for pid := range 30 {
			_, _ = held.file.WriteAt([]byte(fmt.Sprintf("%d\n", 100+pid)), 0)
			time.Sleep(timeout / 10)
		}
		held.Unlock()
	}()
	lock, err := s.lock("mv-int", timeout)
	if err != nil {
		t.Fatal(err)
	}
	lock.Unlock()
}
