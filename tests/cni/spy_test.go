package cni

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// spy is an IPAM plugin that writes down how it is called, and answers what a
// test wants.
type spy struct {
	t   testing.TB
	dir string
}

// script logs verb and environment, keeps the standard input, prints the file
// VERB.answer, and fails if there is a file VERB.fails; with one VERB.hangs it
// never ends. One VERB.slow makes it take a second, after which the file is empty.
const script = `#!/bin/sh
dir=${0%/*}
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS" >>"$dir/calls"
while IFS= read -r line || [ -n "$line" ]; do printf '%s' "$line"; done >"$dir/$CNI_COMMAND.stdin"
[ ! -e "$dir/$CNI_COMMAND.hangs" ] || sleep 60
[ ! -e "$dir/$CNI_COMMAND.slow" ] || { sleep 1; >"$dir/$CNI_COMMAND.slow"; }
echo "the spy's log of $CNI_COMMAND" >&2
[ ! -e "$dir/$CNI_COMMAND.answer" ] || while IFS= read -r line; do echo "$line"; done <"$dir/$CNI_COMMAND.answer"
[ ! -e "$dir/$CNI_COMMAND.fails" ]
`

// newSpy makes an IPAM plugin of the type "spy" that gives one address, and
// puts it into the lab's CNI_PATH.
func newSpy(l *lab, address string) *spy {
	l.t.Helper()
	s := &spy{l.t, l.t.TempDir()}
	s.write("spy", script)
	if err := os.Chmod(s.dir+"/spy", 0o700); err != nil {
		l.t.Fatal(err)
	}
	s.answers("ADD", fmt.Sprintf(`{"cniVersion": "1.1.0", "ips": [{"address": %q}], "dns": {"domain": "example.org"}}`, address))
	l.path = s.dir + ":" + l.path
	return s
}

func (s *spy) write(name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *spy) remove(name string) { os.Remove(filepath.Join(s.dir, name)) }

func (s *spy) rename(from, to string) {
	s.t.Helper()
	if err := os.Rename(filepath.Join(s.dir, from), filepath.Join(s.dir, to)); err != nil {
		s.t.Fatal(err)
	}
}

// answers makes a verb print something and succeed.
func (s *spy) answers(verb, what string) {
	s.t.Helper()
	s.write(verb+".answer", what+"\n")
	os.Remove(filepath.Join(s.dir, verb+".fails"))
}

// fails makes a verb fail with an error of the specification's form.
func (s *spy) fails(verb string, code int) {
	s.t.Helper()
	s.write(verb+".answer", fmt.Sprintf(`{"cniVersion": "1.1.0", "code": %d, "msg": "the spy refuses"}`+"\n", code))
	s.write(verb+".fails", "")
}

// calls gives the calls since the last time, a line each.
func (s *spy) calls() []string {
	s.t.Helper()
	path := filepath.Join(s.dir, "calls")
	data, _ := os.ReadFile(path)
	os.Remove(path)
	return strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
}

// verbs are the verbs of the calls since the last time.
func (s *spy) verbs() string {
	s.t.Helper()
	var verbs []string
	for _, call := range s.calls() {
		verb, _, _ := strings.Cut(call, " ")
		verbs = append(verbs, verb)
	}
	return strings.Join(verbs, " ")
}

// stdin is what the last call of a verb was given.
func (s *spy) stdin(verb string) string {
	data, _ := os.ReadFile(filepath.Join(s.dir, verb+".stdin"))
	return string(data)
}
