package chain

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
)

// plugin writes a program that notes that it was called, and what it was given.
func plugin(t *testing.T, dir, name, text string) {
	t.Helper()
	script := "#!/bin/sh\nexec 3>" + filepath.Join(dir, name+".called") + "\ncat >&3\nprintf '\\n%s %s' \"$CNI_COMMAND\" \"$CNI_ARGS\" >&3\n" + text + "\n"
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

func called(t *testing.T, dir, name string) (conf map[string]any, env string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name+".called"))
	if err != nil {
		t.Fatalf("%s was not called: %v", name, err)
	}
	text, env, _ := strings.Cut(string(data), "\n")
	if err := json.Unmarshal([]byte(text), &conf); err != nil {
		t.Fatal(err)
	}
	return conf, env
}

// TestDelete: every plugin is called with what ADD had, after another's error, its
// absence, or one that hangs, too.
func TestDelete(t *testing.T) {
	dir := t.TempDir()
	plugin(t, dir, "first", "")
	plugin(t, dir, "fails", `echo '{"code": 7, "msg": "it is bad", "details": "use another"}'; exit 1`)
	plugin(t, dir, "hangs", "sleep 1000")
	plugin(t, dir, "talks", "echo of this and that >&2")
	start := time.Now()
	logs, errs := Delete(context.Background(), Request{
		Network: "lan", Path: []string{"/nowhere", dir}, Args: "A=b", CapArgs: `{"ips": ["192.0.2.1/24"], "mac": "x"}`,
		Result: json.RawMessage(`{"cniVersion": "1.1.0"}`), Timeout: 2 * time.Second,
		Config: []byte(`{"cniVersion": "1.1.0", "name": "lan", "plugins": [
			{"type": "first", "capabilities": {"ips": true}}, {"type": "missing"}, {"type": "fails"}, {"type": "hangs"}, {"type": "../x"}, {"type": "talks"}]}`),
	})
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{`missing: failed to find plugin "missing"`, "fails: it is bad; use another", "hangs: no answer within 2s", `../x: type: "../x"`} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in:\n%s", want, all)
		}
	}
	if len(errs) != 4 || logs != "of this and that" {
		t.Errorf("%d errors, logs %q", len(errs), logs)
	}
	conf, env := called(t, dir, "first")
	if env != "DEL A=b" || conf["name"] != "lan" || conf["cniVersion"] != "1.1.0" || conf["prevResult"] == nil {
		t.Errorf("%q, %v", env, conf)
	}
	if args, _ := conf["runtimeConfig"].(map[string]any); args["ips"] == nil || args["mac"] != nil {
		t.Errorf("runtimeConfig: %v", args)
	}
	if conf, _ := called(t, dir, "talks"); conf["runtimeConfig"] != nil {
		t.Errorf("runtimeConfig of a plugin that can nothing: %v", conf)
	}
}

// TestDeleteInTheVersionOfTheAdd: a plugin reads no result of a newer version than the
// configuration's.
func TestDeleteInTheVersionOfTheAdd(t *testing.T) {
	dir := t.TempDir()
	plugin(t, dir, "first", "")
	for versions, want := range map[string]string{
		`"cniVersion": "0.4.0"`:                                "0.4.0",
		`"cniVersions": ["0.3.1", "1.1.0", "1.0.0"]`:           "1.1.0",
		`"cniVersion": "0.4.0", "cniVersions": ["1.0.0"]`:      "1.0.0",
		`"cniVersion": "1.0.0", "cniVersions": ["0.4.0"]`:      "1.0.0",
		`"cniVersion": "99.0.0", "cniVersions": ["0.4.0"]`:     "0.4.0",
		`"cniVersion": "1.0.0", "cniVersions": ["99.0.0", ""]`: "1.0.0",
	} {
		config := `{"name": "lan", ` + versions + `, "plugins": [{"type": "first"}]}`
		list, err := libcni.NetworkConfFromBytes([]byte(config))
		if err != nil || list.CNIVersion != want {
			t.Fatalf("libcni takes %s for %q, %v", versions, list.CNIVersion, err)
		}
		if _, errs := Delete(context.Background(), Request{Network: "lan", Path: []string{dir}, Timeout: time.Minute, Config: []byte(config)}); len(errs) > 0 {
			t.Error(errs)
		}
		if conf, _ := called(t, dir, "first"); conf["cniVersion"] != want {
			t.Errorf("%s: called in %v, want %s", versions, conf["cniVersion"], want)
		}
	}
}

// TestDeleteWithWhatNoAddCanHaveHad: malformed arguments are left out, and so is a
// plugin that was never there.
func TestDeleteWithWhatNoAddCanHaveHad(t *testing.T) {
	dir := t.TempDir()
	plugin(t, dir, "single", "")
	for _, args := range []string{"a;b", "=", "A=", "A=b;"} {
		_, errs := Delete(context.Background(), Request{
			Network: "lan", Path: []string{dir}, Args: args, CapArgs: "{", Failed: true, Timeout: time.Minute,
			Config: []byte(`{"name": "lan", "plugins": [{"type": "single", "capabilities": {"ips": true}}, {"type": "missing"}]}`),
		})
		conf, env := called(t, dir, "single")
		if len(errs) > 0 || env != "DEL " || conf["runtimeConfig"] != nil || conf["prevResult"] != nil {
			t.Errorf("%q: %v, %q, %v", args, errs, env, conf)
		}
	}
	if _, errs := Delete(context.Background(), Request{Config: []byte("{"), Timeout: time.Minute}); len(errs) != 1 {
		t.Error(errs)
	}
}

// TestRunEndsWhatWasStarted: the process that hangs is one that the program has
// started, and holds its output.
func TestRunEndsWhatWasStarted(t *testing.T) {
	start := time.Now()
	_, _, err := Run(context.Background(), Command{Program: "sh", Args: []string{"-c", "sleep 997 & wait"}, Timeout: 200 * time.Millisecond})
	if !errors.Is(err, ErrTimeout) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
	// One that is left behind by a program that has ended is not waited for.
	start = time.Now()
	out, _, err := Run(context.Background(), Command{Program: "sh", Args: []string{"-c", "echo a; sleep 60 &"}, Timeout: time.Minute})
	if err != nil || string(out) != "a\n" || time.Since(start) > 10*time.Second {
		t.Errorf("%q, %v after %s", out, err, time.Since(start))
	}
}
