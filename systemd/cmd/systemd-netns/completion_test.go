package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCompletion: each shell loads its script and completes a command by it.
func TestCompletion(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "systemd-netns")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for shell, c := range map[string]struct {
		args   []string
		script string
	}{
		"bash": {[]string{"--norc", "--noprofile", "-c"}, `
source /usr/share/bash-completion/bash_completion
source <(systemd-netns completion bash)
complete -p systemd-netns >/dev/null
COMP_WORDS=(systemd-netns en) COMP_CWORD=1 COMP_LINE="systemd-netns en" COMP_POINT=16 COMP_TYPE=9
__start_systemd-netns
echo "${COMPREPLY[@]}"`},
		"zsh": {[]string{"-f", "-c"}, `
autoload -U compinit && compinit -D -u
source <(systemd-netns completion zsh)
[ "${_comps[systemd-netns]}" = _systemd-netns ]
# What the script hands to zsh, outside of its line editor.
compadd() { :; }
_describe() { print -l -- ${(P)2} ${(P)4}; }
words=(systemd-netns en) CURRENT=2
_systemd-netns`},
		"fish": {[]string{"--no-config", "-c"}, `
systemd-netns completion fish | source
complete -C "systemd-netns en"`},
	} {
		t.Run(shell, func(t *testing.T) {
			cmd := exec.Command(shell, append(c.args, c.script)...)
			cmd.Env = []string{"PATH=" + dir + ":/usr/bin:/bin", "HOME=" + dir, "TERM=dumb"}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "enable") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}
