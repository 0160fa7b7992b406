package config

import (
	"encoding/json"
	"slices"
	"testing"

	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/google/go-cmp/cmp"
)

func TestChange(t *testing.T) {
	const was, wasArgs = `{"cniVersion": "1.1.0", "name": "lan", "mtu": 1400, "ipam": {"type": "static", "addresses": [{"address": "192.0.2.10/24"}]},
		"runtimeConfig": {"ips": ["192.0.2.10/24"], "mac": "02:00:00:00:00:01"}, "args": {"cni": {"ips": ["192.0.2.10"], "labels": []}}}`, "IgnoreUnknown=1;IP=192.0.2.10;MAC=02:00:00:00:00:02"
	for name, tt := range map[string]struct {
		key, args string
		value     any
		addresses bool
		rest      []string
	}{
		"nothing":             {},
		"prevResult":          {key: "prevResult", value: map[string]any{"ips": []string{}}},
		"ipam":                {key: "ipam", value: map[string]string{"type": "host-local"}, addresses: true},
		"ipam gone":           {key: "ipam", addresses: true},
		"runtimeConfig.ips":   {key: "runtimeConfig", value: map[string]any{"ips": []string{"192.0.2.11/24"}, "mac": "02:00:00:00:00:01"}, addresses: true},
		"runtimeConfig.mac":   {key: "runtimeConfig", value: map[string]any{"ips": []string{"192.0.2.10/24"}, "mac": "02:00:00:00:00:03"}, rest: []string{"runtimeConfig.mac"}},
		"runtimeConfig gone":  {key: "runtimeConfig", addresses: true, rest: []string{"runtimeConfig.mac"}},
		"args.cni.ips":        {key: "args", value: map[string]any{"cni": map[string]any{"labels": []string{}}}, addresses: true},
		"args.cni.labels":     {key: "args", value: map[string]any{"cni": map[string]any{"ips": []string{"192.0.2.10"}}}, rest: []string{"args.cni.labels"}},
		"mtu":                 {key: "mtu", value: 1300, rest: []string{"mtu"}},
		"a key more":          {key: "master", value: "eth0", rest: []string{"master"}},
		"CNI_ARGS IP":         {args: "IgnoreUnknown=1;IP=192.0.2.11;MAC=02:00:00:00:00:02", addresses: true},
		"CNI_ARGS MAC":        {args: "MAC=02:00:00:00:00:04;IgnoreUnknown=1;IP=192.0.2.10", rest: []string{"CNI_ARGS MAC"}},
		"order in CNI_ARGS":   {args: "MAC=02:00:00:00:00:02;IP=192.0.2.10;IgnoreUnknown=1"},
		"CNI_ARGS is no list": {args: "nonsense", addresses: true, rest: []string{"CNI_ARGS IgnoreUnknown", "CNI_ARGS MAC"}},
	} {
		t.Run(name, func(t *testing.T) {
			is, isArgs := was, wasArgs
			if tt.key != "" {
				is = set(t, was, tt.key, tt.value)
			}
			if tt.args != "" {
				isArgs = tt.args
			}
			addresses, rest := Change([]byte(was), []byte(is), wasArgs, isArgs)
			if addresses != tt.addresses || !slices.Equal(rest, tt.rest) {
				t.Errorf("addresses %v, rest %q", addresses, rest)
			}
		})
	}
}

func set(t *testing.T, conf, key string, value any) string {
	t.Helper()
	var keys map[string]any
	if err := json.Unmarshal([]byte(conf), &keys); err != nil {
		t.Fatal(err)
	}
	keys[key] = value
	if value == nil {
		delete(keys, key)
	}
	out, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestRequesting(t *testing.T) {
	var ips []*current.IPConfig
	if err := json.Unmarshal([]byte(`[{"address": "192.0.2.10/24"}, {"address": "2001:db8::1/64"}]`), &ips); err != nil {
		t.Fatal(err)
	}
	for was, want := range map[string]string{
		`{"name":"lan"}`: `{"name":"lan","runtimeConfig":{"ips":["192.0.2.10/24","2001:db8::1/64"]}}`,
		`{"name":"lan","runtimeConfig":{"ips":["x"],"mac":"y"}}`: `{"name":"lan","runtimeConfig":{"ips":["192.0.2.10/24","2001:db8::1/64"],"mac":"y"}}`,
	} {
		is, err := Requesting([]byte(was), ips)
		if diff := cmp.Diff(want, string(is)); diff != "" || err != nil {
			t.Errorf("%v: %s", err, diff)
		}
		if AsksFor([]byte(want), "") == false || AsksFor([]byte(`{"name": "lan"}`), "MAC=x") {
			t.Error("AsksFor")
		}
	}
}
