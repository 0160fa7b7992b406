package delegate

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// plugin writes a shell script that is a plugin, and gives a call of it.
func plugin(t *testing.T, script string) Call {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "ipam"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return Call{Type: "ipam", Path: "/nonexistent:" + dir, Stdin: []byte(`{"cniVersion":"1.0.0","name":"n"}`), Env: []string{"CNI_IFNAME=mv0"}}
}

func TestDo(t *testing.T) {
	t.Setenv("CNI_IFNAME", "the caller's")
	t.Setenv("CNI_COMMAND", "the caller's")
	for _, tt := range []struct{ name, script, out, err string }{
		{"what it prints", `echo yes`, "yes\n", ""},
		{"nothing", ``, "", ""},
		{"environment", `printf "$CNI_COMMAND $CNI_IFNAME"`, "ADD mv0", ""},
		{"input", `cat`, `{"cniVersion":"1.0.0","name":"n"}`, ""},
		{"its own error", `echo '{"code":7,"msg":"no range"}'; exit 1`, "", "no range"},
		{"an error that is none", `echo no; exit 1`, "", "cannot be read"},
		{"a message for people", `echo "no range" >&2; exit 1`, "", "no range"},
		{"silence", `exit 3`, "", "exit status 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := plugin(t, tt.script).Do(t.Context(), "ADD")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || string(out) != tt.out {
				t.Fatalf("%q, error %v, want %q", out, err, tt.out)
			}
		})
	}
}

func TestCodeOfThePluginsError(t *testing.T) {
	_, err := plugin(t, `echo '{"code":7,"msg":"no range"}'; exit 1`).Do(t.Context(), "DEL")
	var told *types.Error
	if !errors.As(err, &told) || told.Code != 7 {
		t.Errorf("error %#v, want code 7", err)
	}
}

func TestFind(t *testing.T) {
	c := plugin(t, "")
	for _, kind := range []string{"", "other", "../ipam", "/bin/sh"} {
		if file, err := Find(kind, c.Path); !errors.Is(err, ErrNotFound) {
			t.Errorf("Find(%q) = %q, %v, want ErrNotFound", kind, file, err)
		}
	}
	if _, err := Find("ipam", c.Path); err != nil {
		t.Error(err)
	}
}

// What a plugin has started can hold its output open for longer than it lives.
func TestLeavesNobodyWaiting(t *testing.T) {
	for name, script := range map[string]string{"a child": "sleep 60 & echo '{}'", "the plugin": "sleep 60"} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			begun := time.Now()
			_, err := plugin(t, script).Do(ctx, "ADD")
			if took := time.Since(begun); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			if hung := name == "the plugin"; hung != (err != nil) {
				t.Errorf("error %v", err)
			}
		})
	}
}
