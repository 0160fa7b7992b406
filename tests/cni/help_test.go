package cni

import (
	"strings"
	"testing"
)

// TestArguments: a person at a terminal gets help, and no plugin runs.
func TestArguments(t *testing.T) {
	l := newLab(t)
	for _, plugin := range plugins {
		for _, tt := range []struct {
			arg, out, complaint string
			status              int
		}{
			{"--help", "CNI versions: 0.1.0", "", 0},
			{"--version", plugin, "", 0},
			{"--frobnicate", "", "see --help", 2},
		} {
			o := l.exec([]string{"CNI_COMMAND=ADD"}, "", plugin, tt.arg)
			if o.status != tt.status || !strings.Contains(o.stdout, tt.out) || !strings.Contains(o.stderr, tt.complaint) {
				t.Errorf("%s %s: %s", plugin, tt.arg, o)
			}
		}
	}
}
