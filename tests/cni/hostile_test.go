package cni

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
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

// TestRecordsThatAreNotOurs: DEL and GC do nothing by a record that somebody
// else could have written, and say which file it is and what to do about it.
func TestRecordsThatAreNotOurs(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	for _, plugin := range plugins {
		for trick, play := range map[string]func(file, away string) error{
			"a link": func(file, away string) error {
				return os.Symlink(away, file)
			},
			"a pipe":                func(file, _ string) error { return unix.Mkfifo(file, 0o600) },
			"a second name":         func(file, away string) error { return os.Link(away, file) },
			"another user's":        func(file, away string) error { return copied(away, file, 0o600, 65534) },
			"one others can change": func(file, away string) error { return copied(away, file, 0o666, 0) },
			"not JSON":              func(file, _ string) error { return os.WriteFile(file, []byte("{"), 0o600) },
		} {
			t.Run(plugin+" "+trick, func(t *testing.T) {
				p := l.up(t, "c1", "1.1.0", staticV4)
				file, dir := p.record(plugin)
				away := filepath.Join(dir, "away")
				if err := os.Rename(file, away); err != nil {
					t.Fatal(err)
				}
				if err := play(file, away); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(file, modeOf(trick)); err != nil {
					t.Fatal(err)
				}
				before := l.host.Snapshot() + p.service.Snapshot()
				gc := with(t, with(t, p.config(plugin), "prevResult", nil), "cni.dev/valid-attachments", []types.GCAttachment{})
				for verb, config := range map[string]string{"ADD": p.config(plugin), "DEL": p.config(plugin), "GC": gc} {
					o := p.run(plugin, verb, config)
					refused(t, o, types.ErrIOFailure)
					if !strings.Contains(o.err().Msg, file) || !strings.Contains(o.err().Details, "remove it") {
						t.Errorf("%s does not say which file, and what to do: %s", verb, o.stdout)
					}
				}
				if now := l.host.Snapshot() + p.service.Snapshot(); now != before {
					t.Errorf("the kernel's state was changed: %s", lines(before, now))
				}
				if err := os.Rename(away, file); err != nil {
					t.Fatal(err)
				}
				// A link to itself is all that a rename of one name of a file onto
				// the other leaves.
				os.Remove(away)
				p.down()
			})
		}
	}
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

// TestWithoutItsRecord: once the operator has removed a bad record, as the
// remedy says, DEL takes the link away by its alias, and gives the lease back.
func TestWithoutItsRecord(t *testing.T) {
	l := newLab(t, "192.0.2.1/24")
	before := l.state()
	p := l.up(t, "c1", "1.1.0", `"master": "eth0", `+l.hostLocal("192.0.2.0/24"))
	p.must("hairpin-route", "DEL", p.hairpin)
	file, dir := p.record("macvlan-vip")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	p.must("macvlan-vip", "DEL", p.link)
	if out := p.service.IP("link show"); strings.Contains(out, "mv0") {
		t.Errorf("left in the netns:\n%s", out)
	}
	if left := files(t, l.leases); left != "" {
		t.Errorf("left of the lease: %s", left)
	}
	// What only the record knew: that mv-int is not used any more. The next
	// ADD of the attachment takes over, and its DEL leaves nothing.
	p.link = with(t, p.link, "prevResult", nil)
	p.must("macvlan-vip", "ADD", p.link)
	p.must("macvlan-vip", "DEL", p.link)
	os.RemoveAll(filepath.Join(dir, "claims"))
	l.mustBe(before, "after DEL")
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
