package packages

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"macvlan-vip/tests/page"
	"macvlan-vip/tests/testlab"
)

// TestSteps counts what an operator types on a fresh machine, from nothing to a VIP:
// the README's own commands, with nothing edited. It was 13 steps once.
func TestSteps(t *testing.T) {
	install, use := readme(t, "Install")[:1], readme(t, "Use it")
	if len(use) != 4 {
		t.Fatalf("the README enables, verifies and undoes in %d commands: %q", len(use), use)
	}
	deb := build(t, older, "022")["deb"]
	l := newLab(t)
	l.Write("etc/haproxy/haproxy.cfg", testlab.HaproxyDefaults+`
frontend all
	bind :80
	default_backend peer
backend peer
	server peer `+testlab.PeerAddr+`:8080
`)
	l.Run(t, "systemctl start haproxy")
	l.copyIn(t, deb)
	before := l.etc(t)

	var out string
	steps := slices.Concat(install, []string{use[0], use[2]})
	for _, step := range steps {
		out = l.typed(t, step)
	}
	if out != testlab.Answer || len(steps) != 3 {
		t.Errorf("after %d steps %q printed %q", len(steps), steps, out)
	}
	l.Serves(t, testlab.VIP1)
	if out := l.typed(t, use[1]); !strings.Contains(out, "active (running)") {
		t.Errorf("%s:\n%s", use[1], out)
	}
	undo := "echo y | script --quiet --return --command '" + use[3] + "' /dev/null"
	l.typed(t, undo)
	l.Silent(t, testlab.VIP1)
	if after := l.etc(t); after != before {
		t.Errorf("/etc before:\n%s\nafter:\n%s", before, after)
	}
}

// readme gives the commands of the first block of sh in a section of the README.
func readme(t *testing.T, section string) (commands []string) {
	t.Helper()
	blocks, err := page.Blocks(filepath.Join(top(t), "README.md"), section, "sh")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(blocks[0]) {
		command, _, _ := strings.Cut(line, "  #")
		commands = append(commands, strings.TrimSpace(strings.ReplaceAll(command, "sudo ", "")))
	}
	return commands
}

// typed runs a command as root would type it in their home directory.
func (l *lab) typed(t *testing.T, command string) string {
	t.Helper()
	return l.M.MustRun(t, "sh", "-c", "cd /root && "+command)
}

// etc lists all files of /etc.
func (l *lab) etc(t *testing.T) string {
	t.Helper()
	return l.Run(t, "find /etc -xdev -not -name ld.so.cache")
}
