package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"
)

// The tests of this file put things in the plugins' way that they must not
// touch: names that lead elsewhere, and records that they did not write.

// TestNamesThatLeadElsewhere: no verb takes one, wherever it stands, and
// nothing is made.
func TestNamesThatLeadElsewhere(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	a := l.attachment("c1")
	service := a.service.Snapshot()
	for _, keys := range []string{
		`"sysctl": {"net/../kernel/hostname": "x"}`, `"sysctl": {"kernel.hostname": "x"}`, `"sysctl": {"net.ipv4/../../kernel/hostname": "x"}`,
		`"sysctl": {"net..ipv4": "x"}`, `"sysctl": {"net.ipv4.ip_forward\u0000": "1"}`,
		`"hostInterface": "../../tmp/x"`, `"hostInterface": ".."`, `"hostInterface": "a-name-of-16-chr"`, `"hostInterface": "mv%d"`, `"hostInterface": "all"`, `"hostInterface": "lo"`,
		`"master": "../eth0"`, `"master": "a-name-of-16-chr"`,
	} {
		refused(t, a.run("macvlan-vip", "ADD", conf("1.1.0", "macvlan-vip", "lan", staticV4+", "+keys)), types.ErrInvalidNetworkConfig)
		if strings.Contains(keys, "hostInterface") {
			prev := with(t, conf("1.1.0", "hairpin-route", "lan", keys), "prevResult", json.RawMessage(`{"cniVersion": "1.1.0"}`))
			refused(t, a.run("hairpin-route", "ADD", prev), types.ErrInvalidNetworkConfig)
		}
	}
	for _, ifName := range []string{"mv%d", "all", "default", "lo"} {
		bad := *a
		bad.ifName = ifName
		if o := bad.run("macvlan-vip", "ADD", conf("1.1.0", "macvlan-vip", "lan", staticV4)); o.ok() || o.err().Msg == "" {
			t.Errorf("CNI_IFNAME=%s: %s", ifName, o)
		}
	}
	l.mustBe(before, "after refused names")
	if now := a.service.Snapshot(); now != service {
		t.Errorf("the service's namespace was changed: %s", lines(service, now))
	}
}

// record is the file of an attachment's record, and dir the plugin's folder.
func (p *pair) record(plugin string) (file, dir string) {
	for i, name := range []string{"macvlan-vip", "hairpin-route"} {
		if name == plugin {
			dir = p.journals()[i]
		}
	}
	return filepath.Join(dir, "attachments", fmt.Sprintf("lan:%s:%s.json", p.id, p.ifName)), dir
}

// tricks put something in a record's place; away is where the record is now.
var tricks = map[string]func(file, away string) error{
	"a link": func(file, away string) error {
		return os.Symlink(away, file)
	},
	"a pipe":                func(file, _ string) error { return unix.Mkfifo(file, 0o600) },
	"a second name":         func(file, away string) error { return os.Link(away, file) },
	"another user's":        func(file, away string) error { return copied(away, file, 0o600, 65534) },
	"one others can change": func(file, away string) error { return copied(away, file, 0o666, 0) },
	"not JSON":              func(file, _ string) error { return os.WriteFile(file, []byte("{"), 0o600) },
	"empty":                 func(file, _ string) error { return os.WriteFile(file, nil, 0o600) },
	"binary":                func(file, _ string) error { return os.WriteFile(file, []byte("\x00\xff\x7f"), 0o600) },
	"another attachment's": func(file, away string) error {
		data, err := os.ReadFile(away)
		if err == nil {
			err = os.WriteFile(file, bytes.ReplaceAll(data, []byte(`"c1"`), []byte(`"c2"`)), 0o600)
		}
		return err
	},
}

// spoil plays a trick on a record.
func (p *pair) spoil(t *testing.T, plugin, trick string) {
	t.Helper()
	file, _ := p.record(plugin)
	away := filepath.Join(t.TempDir(), "away")
	if trick == "a second name" {
		away = filepath.Join(filepath.Dir(file), "away")
	}
	data, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(away, data, 0o600)
	}
	if err == nil {
		err = os.Remove(file)
	}
	if err == nil {
		err = tricks[trick](file, away)
	}
	if err == nil && trick != "a link" {
		err = os.Chmod(file, modeOf(trick))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(away) })
}

// TestRecordsThatAreNotOurs: no verb does anything by a record that somebody
// else could have written, or that cannot be read. DEL and GC say which file it
// is, go by what the kernel and the claims show, and leave nothing.
func TestRecordsThatAreNotOurs(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	before := l.state()
	other := &pair{attachment: l.attachment("other"), hairpin: conf("1.1.0", "hairpin-route", "lan", ""),
		link: conf("1.1.0", "macvlan-vip", "lan", strings.ReplaceAll(staticV4, "192.0.2.10", "192.0.2.20"))}
	for trick := range tricks {
		for _, verb := range []string{"DEL", "GC"} {
			t.Run(verb+" "+trick, func(t *testing.T) {
				p := l.up(t, "c1", "1.1.0", dualStack)
				for _, plugin := range plugins {
					p.spoil(t, plugin, trick)
				}
				// It is in nobody else's way.
				added := other.must("macvlan-vip", "ADD", other.link)
				other.must("hairpin-route", "ADD", with(t, other.hairpin, "prevResult", json.RawMessage(added.stdout)))
				other.down()
				for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
					file, _ := p.record(plugin)
					config := p.config(plugin)
					if verb == "GC" {
						config = with(t, with(t, config, "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{})
					}
					if o := p.must(plugin, verb, config); !strings.Contains(o.stderr, file) {
						t.Errorf("%s does not say which file: %s", verb, o)
					}
				}
				if out := p.service.IP("link show"); strings.Contains(out, "mv0") {
					t.Errorf("left in the netns:\n%s", out)
				}
				os.Remove(filepath.Join(l.journals()[0], "attachments", "away"))
				os.Remove(filepath.Join(l.journals()[1], "attachments", "away"))
				l.mustBe(before, "after "+verb)
			})
		}
	}
}

// TestBadEntries: what is in the place of a claim or of the entry of a user of
// mv-int is no claim and no entry. It is in nobody else's way, ADD puts it right,
// and DEL and GC take it away.
func TestBadEntries(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	before := l.state()
	garbage := map[string]func(path string) error{
		"a file":            func(path string) error { return os.WriteFile(path, []byte("\x00\xff"), 0o600) },
		"a folder":          func(path string) error { return os.Mkdir(path, 0o755) },
		"a pipe":            func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a link to nowhere": func(path string) error { return os.Symlink("no:body", path) },
		"nothing":           func(string) error { return nil },
	}
	for _, entries := range []string{"claims", "users"} {
		for name, put := range garbage {
			for _, verb := range []string{"ADD", "DEL", "GC"} {
				t.Run(entries+" "+name+" "+verb, func(t *testing.T) {
					p := l.up(t, "c1", "1.1.0", dualStack)
					for _, dir := range l.journals() {
						found, _ := filepath.Glob(filepath.Join(dir, entries, "*/*"))
						for _, path := range found {
							if err := errors.Join(os.Remove(path), put(path)); err != nil {
								t.Fatal(err)
							}
						}
					}
					other := l.up(t, "other", "1.1.0", strings.ReplaceAll(strings.ReplaceAll(dualStack, "192.0.2.10", "192.0.2.20"), "::10", "::20"))
					for _, plugin := range plugins {
						other.must(plugin, "CHECK", other.config(plugin))
					}
					other.down()
					p.afterGarbage(t, verb, entries)
					l.mustBe(before, "after "+verb)
				})
			}
		}
	}
}

// afterGarbage runs a verb of an attachment whose claims or users are garbage.
func (p *pair) afterGarbage(t *testing.T, verb, entries string) {
	t.Helper()
	if o := p.run("macvlan-vip", "CHECK", p.link); entries == "claims" && (o.ok() || !strings.Contains(o.stdout, "192.0.2.10")) {
		t.Errorf("CHECK does not miss the claims: %s", o)
	}
	switch verb {
	case "ADD":
		p.must("macvlan-vip", "ADD", with(t, p.link, "prevResult", nil))
		p.must("hairpin-route", "ADD", p.hairpin)
		for _, plugin := range plugins {
			p.must(plugin, "CHECK", p.config(plugin))
		}
		fallthrough
	case "DEL":
		p.down()
	case "GC":
		for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
			p.must(plugin, "GC", with(t, with(t, p.config(plugin), "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{}))
		}
	}
	if out := p.service.IP("link show"); strings.Contains(out, "mv0") {
		t.Errorf("left in the netns:\n%s", out)
	}
}

// TestGCOfOneHost: another host's attachment has the same names, and its
// namespace is in sight. GC by a record that cannot be read does not touch it.
func TestGCOfOneHost(t *testing.T) {
	l, other := newLab(t, "192.0.2.1/24", "2001:db8::1/64"), newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	p, theirs := l.up(t, "c1", "1.1.0", dualStack), other.up(t, "c1", "1.1.0", dualStack)
	service := theirs.service.Snapshot()
	for _, plugin := range plugins {
		p.spoil(t, plugin, "empty")
	}
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		p.must(plugin, "GC", with(t, with(t, p.config(plugin), "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{}))
	}
	if out := p.service.IP("link show"); strings.Contains(out, "mv0") {
		t.Errorf("left in the netns:\n%s", out)
	}
	if diff := lines(service, theirs.service.Snapshot()); diff != "" {
		t.Errorf("the other's namespace is another: %s", diff)
	}
	theirs.down()
}

// dualStack is a VIP of each family.
const dualStack = `"master": "eth0", "ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}, {"address": "2001:db8::10/64"}]}`

// TestAddOverBadRecord: an ADD that is repeated makes a record that can be read
// again; what the lost one knew is gone after DEL.
func TestAddOverBadRecord(t *testing.T) {
	l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
	before := l.state()
	for _, plugin := range plugins {
		for _, trick := range []string{"empty", "a link", "another attachment's"} {
			t.Run(plugin+" "+trick, func(t *testing.T) {
				p := l.up(t, "c1", "1.1.0", dualStack)
				whole := l.host.Snapshot() + p.service.Snapshot()
				p.spoil(t, plugin, trick)
				p.must(plugin, "ADD", with(t, p.config(plugin), "prevResult", map[bool]any{true: nil, false: p.result}[plugin == "macvlan-vip"]))
				p.must("hairpin-route", "ADD", p.hairpin)
				for _, plugin := range plugins {
					p.must(plugin, "CHECK", p.config(plugin))
				}
				if diff := withoutIndices(whole, l.host.Snapshot()+p.service.Snapshot()); diff != "" {
					t.Errorf("after ADD: %s", diff)
				}
				p.down()
				l.mustBe(before, "after DEL")
			})
		}
	}
}

// withoutIndices compares two snapshots but for the numbers of links, which are
// others when a link was made anew.
func withoutIndices(a, b string) string {
	number := regexp.MustCompile(`(?m)^\d+: |@if\d+|if\d+ `)
	return lines(number.ReplaceAllString(a, ""), number.ReplaceAllString(b, ""))
}

func copied(from, to string, mode os.FileMode, uid int) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to, data, mode); err != nil {
		return err
	}
	return os.Chown(to, uid, uid)
}

// modeOf undoes what the umask does.
func modeOf(trick string) os.FileMode {
	if trick == "one others can change" {
		return 0o666
	}
	return 0o600
}

// TestWithoutItsRecord: with its records gone, DEL takes away what the kernel
// and the claims show, and gives the lease back.
func TestWithoutItsRecord(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	for name, flush := range map[string]func(p *pair){
		"":              func(*pair) {},
		"netns gone":    func(p *pair) { p.service.IP("link del mv0") },
		"mv-int gone":   func(*pair) { l.host.IP("link del mv-int") },
		"routes gone":   func(*pair) { l.host.IP("route flush table local proto 118") },
		"CNI_ARGS bad":  func(p *pair) { p.args = "nonsense" },
		"CAP_ARGS bad":  func(p *pair) { p.link = with(t, p.link, "runtimeConfig", "nonsense") },
		"config edited": func(p *pair) { p.link = with(t, p.link, "mode", 7) },
	} {
		t.Run(name, func(t *testing.T) {
			p := l.up(t, "c1", "1.1.0", `"master": "eth0", `+l.hostLocal("192.0.2.0/24"))
			for _, plugin := range plugins {
				file, _ := p.record(plugin)
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
			}
			flush(p)
			p.down()
			if out := p.service.IP("link show"); strings.Contains(out, "mv0") {
				t.Errorf("left in the netns:\n%s", out)
			}
			l.mustBe(before, "after DEL")
		})
	}
}

// TestFoldersThatAreNotOurs: a journal that is a link, or that others can
// write to, stops every verb that would use it.
func TestFoldersThatAreNotOurs(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	for i, plugin := range plugins {
		p := l.up(t, "c1", "1.1.0", staticV4)
		dir := l.journals()[i]
		before := l.host.Snapshot() + p.service.Snapshot()
		all := func() {
			t.Helper()
			gc := with(t, with(t, p.config(plugin), "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{})
			for verb, config := range map[string]string{"ADD": p.config(plugin), "CHECK": p.config(plugin), "DEL": p.config(plugin), "GC": gc} {
				o := p.run(plugin, verb, config)
				refused(t, o, types.ErrIOFailure)
				if !strings.Contains(o.err().Msg, dir) || !strings.Contains(o.err().Details, "remove it") {
					t.Errorf("%s %s does not say which folder, and what to do: %s", plugin, verb, o.stdout)
				}
			}
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		all()
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		away := dir + "-away"
		if err := os.Rename(dir, away); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(away, dir); err != nil {
			t.Fatal(err)
		}
		all()
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(away, dir); err != nil {
			t.Fatal(err)
		}
		if now := l.host.Snapshot() + p.service.Snapshot(); now != before {
			t.Errorf("the kernel's state was changed: %s", lines(before, now))
		}
		p.down()
	}
}

// TestRulesWithoutTheirRecord: of two attachments in one namespace, one's record
// is lost. What keeps its answers on its link goes with it, and the other's stays.
func TestRulesWithoutTheirRecord(t *testing.T) {
	for _, verb := range []string{"DEL", "GC"} {
		t.Run(verb, func(t *testing.T) {
			l := newLab(t, "192.0.2.1/24", "2001:db8::1/64")
			before := l.state()
			p := l.up(t, "c1", "1.1.0", dualStack)
			alone := p.service.IP("-4 rule show") + p.service.IP("-6 rule show")
			second := l.beside(t, p, "mv1", "20")
			for _, a := range []*pair{second, p} {
				a.spoil(t, "hairpin-route", "empty")
				for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
					config := a.config(plugin)
					if verb == "GC" {
						valid := []types.GCAttachment{}
						if a == second {
							valid = append(valid, types.GCAttachment{ContainerID: p.id, IfName: p.ifName})
						}
						config = with(t, with(t, config, "prevResult", nil), "cni.dev/valid-attachments", valid)
					}
					a.must(plugin, verb, config)
				}
				if a == second {
					if err := l.host.Ping(netip.MustParseAddr("192.0.2.10")); err != nil {
						t.Error(err)
					}
				}
			}
			if diff := lines(alone, p.service.IP("-4 rule show")+p.service.IP("-6 rule show")); diff != "" {
				t.Errorf("the namespace's rules: %s", diff)
			}
			l.mustBe(before, "after "+verb)
		})
	}
}

// beside adds another attachment to the namespace of one that is up.
func (l *lab) beside(t *testing.T, p *pair, ifName, part string) *pair {
	t.Helper()
	a := *p.attachment
	a.ifName = ifName
	second := &pair{attachment: &a, hairpin: conf("1.1.0", "hairpin-route", "lan", ""),
		link: conf("1.1.0", "macvlan-vip", "lan", strings.ReplaceAll(strings.ReplaceAll(dualStack, "192.0.2.10", "192.0.2."+part), "::10", "::"+part))}
	added := json.RawMessage(second.must("macvlan-vip", "ADD", second.link).stdout)
	second.link, second.hairpin = with(t, second.link, "prevResult", added), with(t, second.hairpin, "prevResult", added)
	second.must("hairpin-route", "ADD", second.hairpin)
	return second
}
