package docs

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"

	"macvlan-vip/tests/machine"
	"macvlan-vip/tests/page"
	"macvlan-vip/tests/testnet"
)

// Pages with a test of their own for what they tell to run.
var runElsewhere = []string{"docs/clusters.md", "docs/runtimes.md", "docs/troubleshooting.md"}

// before is what a page takes for granted other than where the README leaves
// its reader.
var before = map[string]string{
	"systemd/netns.conf.md": "rm /etc/systemd/system/haproxy.service.d/netns.conf",
}

// languages are those that a block may be in. Blocks of sh and console are run;
// text is none of these, and the rest is for files.
var languages = []string{"sh", "console", "json", "nft", "ini", "text", "toml", "yaml", "hcl", "haproxy", "go", "xml"}

// notRun is how the comment above a block begins that gives the reason.
const notRun = "not run: "

// pages reads every page of the project that is for its users.
func pages(t *testing.T) (all []*page.Page) {
	t.Helper()
	top, err := machine.Top()
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"*.md", "docs/*.md", "plugins/*/README.md", "systemd/*.md", "systemd/cmd/*/README.md", "conf/README.md", "packaging/README.md", "tests/README.md", "tests/*/README.md"} {
		files, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			p, err := page.Read(file)
			if err != nil {
				t.Fatal(err)
			}
			p.Path, _ = filepath.Rel(top, file)
			all = append(all, p)
		}
	}
	return all
}

// commands gives the blocks of a page that are to be run.
func commands(p *page.Page) (blocks []page.Block) {
	for _, b := range p.Blocks {
		if (b.Language == "sh" || b.Language == "console") && !strings.HasPrefix(b.Note, notRun) {
			blocks = append(blocks, b)
		}
	}
	return blocks
}

// TestBlocks: every block says what it is, and a block of commands that is not
// run says why.
func TestBlocks(t *testing.T) {
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if !slices.Contains(languages, b.Language) {
				t.Errorf("%s: the language %q: say behind the fence what the block is, one of %s", b.At(), b.Language, strings.Join(languages, ", "))
			}
			if reason, ok := strings.CutPrefix(b.Note, notRun); ok && len(reason) < 10 {
				t.Errorf("%s: no reason for not running it", b.At())
			}
		}
	}
}

var schemeOf = regexp.MustCompile(`^[a-z]+:`)

// TestLinks: links within the project lead somewhere.
func TestLinks(t *testing.T) {
	all := pages(t)
	top, _ := machine.Top()
	for _, p := range all {
		for _, link := range p.Links {
			if schemeOf.MatchString(link) {
				continue
			}
			file, fragment, _ := strings.Cut(link, "#")
			target := p.Path
			if file != "" {
				target = filepath.Join(filepath.Dir(p.Path), file)
			}
			if _, err := os.Stat(filepath.Join(top, target)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", p.Path, link)
				continue
			}
			if fragment != "" && !hasAnchor(all, target, fragment) {
				t.Errorf("%s: the link %s leads to no heading", p.Path, link)
			}
		}
	}
}

func hasAnchor(all []*page.Page, target, fragment string) bool {
	i := slices.IndexFunc(all, func(p *page.Page) bool { return p.Path == target })
	return i >= 0 && slices.ContainsFunc(all[i].Headings, func(h string) bool { return page.Anchor(h) == fragment })
}

var testName = regexp.MustCompile("`(Test[A-Z][A-Za-z0-9]*)`")

// TestNamedTests: the tests that a page names as its proof are there.
func TestNamedTests(t *testing.T) {
	top, err := machine.Top()
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	for _, pattern := range []string{"tests/*/*_test.go", "plugins/*/*_test.go", "plugins/internal/*/*_test.go", "systemd/internal/*/*_test.go"} {
		files, _ := filepath.Glob(filepath.Join(top, pattern))
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(data)
		}
	}
	named := 0
	for _, p := range pages(t) {
		for _, m := range testName.FindAllStringSubmatch(p.Prose, -1) {
			named++
			if !strings.Contains(source.String(), "func "+m[1]+"(t *testing.T)") {
				t.Errorf("%s: there is no test %s", p.Path, m[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("%d tests are named: this test does not see them", named)
	}
}

// TestJSON: every JSON block is JSON, and a network is one that the plugins
// take: it is added, checked and deleted.
func TestJSON(t *testing.T) {
	networks := 0
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if b.Language != "json" {
				continue
			}
			var conf struct {
				Type    string            `json:"type"`
				Plugins []json.RawMessage `json:"plugins"`
			}
			if err := json.Unmarshal([]byte(b.Text), &conf); err != nil {
				t.Errorf("%s: %v", b.At(), err)
				continue
			}
			switch {
			case len(conf.Plugins) > 0:
				networks++
				attach(t, b, b.Text)
			case conf.Type == "hairpin-route":
				networks++
				attach(t, b, fmt.Sprintf(`{"cniVersion": "1.1.0", "name": "web", "plugins": [{"type": "macvlan-vip", "master": "eth0",
					"ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}]}}, %s]}`, b.Text))
			}
		}
	}
	if networks < 4 {
		t.Errorf("%d networks in the pages: this test does not see them", networks)
	}
}

// attach adds a service to a block's network, checks it and deletes it.
func attach(t *testing.T, b page.Block, config string) {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(config))
	if err != nil {
		t.Errorf("%s: %v", b.At(), err)
		return
	}
	host, _ := testnet.NewHost(t, "192.0.2.2/24", "2001:db8::2/64")
	service := testnet.New(t)
	runtime := &libcni.RuntimeConf{ContainerID: filepath.Base(service.Path()), NetNS: service.Path(), IfName: "mv0"}
	cni := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(os.Getenv("PATH")), t.TempDir(), nil)
	ctx := context.Background()
	host.Do(func() error {
		if _, err := cni.AddNetworkList(ctx, list, runtime); err != nil {
			t.Errorf("%s: ADD: %v", b.At(), err)
		} else if err := cni.CheckNetworkList(ctx, list, runtime); err != nil {
			t.Errorf("%s: CHECK: %v", b.At(), err)
		}
		if err := cni.DelNetworkList(ctx, list, runtime); err != nil {
			t.Errorf("%s: DEL: %v", b.At(), err)
		}
		return nil
	})
}

// TestDemoOnPage: what the pages show of the demo are the demo's commands.
func TestDemoOnPage(t *testing.T) {
	top, err := machine.Top()
	if err != nil {
		t.Fatal(err)
	}
	story, err := os.ReadFile(filepath.Join(top, "tests/demo/play.go"))
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			if !strings.HasPrefix(b.Note, notRun+"`make demo`") {
				continue
			}
			for line := range strings.Lines(b.Text) {
				if _, command, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":~# "); ok {
					shown++
					if !strings.Contains(string(story), `"`+command+`"`) {
						t.Errorf("%s: the demo has no command %q", b.At(), command)
					}
				}
			}
		}
	}
	if shown < 10 {
		t.Errorf("%d commands of the demo are shown: this test does not see them", shown)
	}
}

// TestPages runs what the pages tell to run, page by page, each from where the
// README leaves its reader.
func TestPages(t *testing.T) {
	l := newLab(t)
	all := pages(t)
	for i, p := range all {
		if slices.Contains(runElsewhere, p.Path) || len(commands(p)) == 0 {
			continue
		}
		t.Run(p.Path, func(t *testing.T) {
			if i > 0 {
				l.reset(t)
			}
			l.must(t, before[p.Path])
			for _, b := range commands(p) {
				if err := l.run(b); err != nil {
					t.Errorf("%s: %v", b.At(), err)
				}
			}
			l.Serves(t, vip)
		})
	}
	l.reset(t)
	l.Serves(t, vip)
}

// run runs a block: of sh, which has to succeed, or of console.
func (l *lab) run(b page.Block) error {
	if b.Language == "console" {
		return l.console(b)
	}
	out, err := l.sh(b.Text)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// A step is a command of a console block, and the lines that it must print, in
// this order, whatever else it prints.
type step struct {
	run     func(string) (string, error)
	command string
	want    []string
}

// console runs a block that begins its commands with `host# ` or `peer# ` and
// shows, under each, what it prints. In that, … stands for anything.
func (l *lab) console(b page.Block) error {
	var steps []step
	for line := range strings.Lines(b.Text) {
		line = strings.TrimRight(line, "\n")
		if command, ok := strings.CutPrefix(line, "host# "); ok {
			steps = append(steps, step{run: l.sh, command: command})
		} else if command, ok := strings.CutPrefix(line, "peer# "); ok {
			steps = append(steps, step{run: l.Peer.Shell, command: command})
		} else if len(steps) == 0 {
			return fmt.Errorf("the block does not begin with `host# ` or `peer# `: %q", line)
		} else if strings.TrimSpace(strings.ReplaceAll(line, "…", "")) != "" {
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
		}
	}
	for _, s := range steps {
		if err := s.perform(); err != nil {
			return err
		}
	}
	return nil
}

// perform runs a command until it prints what it should: some of it takes the
// kernel or systemd a moment. Its exit status is not looked at, since commands
// that look for a fault fail where they find one.
func (s step) perform() error {
	var out string
	var missing string
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		out, _ = s.run(s.command + " 2>&1")
		if missing = lacks(out, s.want); missing == "" {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: printed no line %q in:\n%s", s.command, missing, out)
		}
	}
}

// lacks is the first of the wanted lines that is not in a text, in their order.
func lacks(text string, want []string) string {
	lines := strings.Split(text, "\n")
	for _, w := range want {
		i := slices.IndexFunc(lines, like(w))
		if i < 0 {
			return w
		}
		lines = lines[i+1:]
	}
	return ""
}

// like compares with a shown line, in which … and blanks stand for any.
func like(shown string) func(string) bool {
	var parts []string
	for _, part := range strings.Split(strings.TrimSpace(shown), "…") {
		words := strings.Fields(part)
		for i := range words {
			words[i] = regexp.QuoteMeta(words[i])
		}
		parts = append(parts, strings.Join(words, `\s+`))
	}
	return regexp.MustCompile(`^\s*` + strings.Join(parts, `.*`) + `\s*$`).MatchString
}
