package config

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"

	current "github.com/containernetworking/cni/pkg/types/100"
)

// Change compares the configurations and CNI_ARGS of two ADDs of one
// attachment. addresses tells whether they ask IPAM for other addresses; rest
// names everything else that differs, as the user would write it.
//
// What is about addresses are the keys that IPAM plugins read: ipam,
// runtimeConfig.ips (the capability "ips"), args.cni.ips, and IP and GATEWAY of
// CNI_ARGS.
func Change(was, is []byte, wasArgs, isArgs string) (addresses bool, rest []string) {
	before, now := flatten(was, wasArgs), flatten(is, isArgs)
	keys := maps.Clone(before)
	maps.Copy(keys, now)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		switch {
		case reflect.DeepEqual(before[key], now[key]):
		case slices.Contains([]string{"ipam", "runtimeConfig.ips", "args.cni.ips", "CNI_ARGS IP", "CNI_ARGS GATEWAY"}, key):
			addresses = true
		default:
			rest = append(rest, key)
		}
	}
	return addresses, rest
}

// flatten gives the keys of a configuration, those of runtimeConfig and
// args.cni one by one, and those of CNI_ARGS.
func flatten(stdin []byte, args string) map[string]any {
	flat := map[string]any{}
	var conf map[string]any
	_ = json.Unmarshal(stdin, &conf)
	for key, value := range conf {
		inner, isObject := value.(map[string]any)
		switch {
		case key == "prevResult":
		case key == "runtimeConfig" && isObject:
			prefixed(flat, "runtimeConfig.", inner)
		case key == "args" && isObject:
			prefixed(flat, "args.", inner)
		default:
			flat[key] = value
		}
	}
	if cni, ok := flat["args.cni"].(map[string]any); ok {
		delete(flat, "args.cni")
		prefixed(flat, "args.cni.", cni)
	}
	for pair := range strings.SplitSeq(args, ";") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			flat["CNI_ARGS "+key] = value
		}
	}
	return flat
}

func prefixed(into map[string]any, prefix string, from map[string]any) {
	for key, value := range from {
		into[prefix+key] = value
	}
}

// AsksFor tells whether a configuration or CNI_ARGS name the addresses to get
// of a range.
func AsksFor(stdin []byte, args string) bool {
	flat := flatten(stdin, args)
	return flat["runtimeConfig.ips"] != nil || flat["args.cni.ips"] != nil || flat["CNI_ARGS IP"] != nil
}

// Requesting gives a configuration that asks for certain addresses of a range,
// by the key that the capability "ips" has (runtimeConfig.ips).
func Requesting(stdin []byte, ips []*current.IPConfig) ([]byte, error) {
	var conf map[string]json.RawMessage
	if err := decode(stdin, &conf); err != nil {
		return nil, err
	}
	runtime := map[string]any{}
	_ = json.Unmarshal(conf["runtimeConfig"], &runtime)
	var texts []string
	for _, ip := range ips {
		texts = append(texts, ip.Address.String())
	}
	runtime["ips"] = texts
	var err error
	if conf["runtimeConfig"], err = json.Marshal(runtime); err != nil {
		return nil, err
	}
	return json.Marshal(conf)
}
