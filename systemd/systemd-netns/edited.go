package main

import (
	"encoding/json"
	"os"
	"reflect"
)

// edited says what has been changed since an attachment was made, "" if
// nothing: the next start, not a repair, puts it into effect.
func (n *netns) edited(a attachment) (string, error) {
	if n.network != a.NetworkName {
		return "NETWORK", nil
	}
	if !sameJSON([]byte(os.Getenv("CAP_ARGS")), a.CapabilityArgs) {
		return "CAP_ARGS", nil
	}
	found, file, err := findNetwork(n.confDir, n.network)
	if err != nil {
		return "", err
	}
	if found == nil {
		return "the network's file", nil
	}
	if isMadeFrom(a.Config, found.text) {
		return "", nil
	}
	return file, nil
}

// isMadeFrom tells whether a list of plugins, as cnitool remembers it, is what
// a file has, or has been made around the file's only plugin.
func isMadeFrom(list, file []byte) bool {
	if sameJSON(list, file) {
		return true
	}
	var l struct {
		Plugins []json.RawMessage `json:"plugins"`
	}
	return json.Unmarshal(list, &l) == nil && len(l.Plugins) == 1 && sameJSON(l.Plugins[0], file)
}

// sameJSON compares two texts whatever their spaces; none is null.
func sameJSON(a, b []byte) bool {
	var av, bv any
	if len(a) > 0 && json.Unmarshal(a, &av) != nil || len(b) > 0 && json.Unmarshal(b, &bv) != nil {
		return false
	}
	return reflect.DeepEqual(av, bv)
}
