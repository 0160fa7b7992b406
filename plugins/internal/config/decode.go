package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/plugins/internal/cnierr"
)

// decode reads JSON and names the key of a value of the wrong type (code 6).
func decode(data []byte, into any) error {
	err := json.Unmarshal(data, into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return wrongType("", data, userKey(wrong.Field), wrong)
	}
	if err != nil {
		return cnierr.New(types.ErrDecodingFailure, "correct the JSON", "network configuration: %v", err)
	}
	return nil
}

// wrongType is the error for a value of the wrong type, somewhere under a path in data,
// which is a whole configuration or, if key is not "", the object under that key.
func wrongType(key string, data []byte, path string, wrong *json.UnmarshalTypeError) error {
	place, value := locate(bytes.TrimSpace(data), path, wrong.Value)
	if value == nil {
		place = "." + path
	}
	key = cmp.Or(strings.Trim(key+place, "."), "network configuration")
	is, wanted := typeName(wrong.Value), typeName(wrong.Type.Kind().String())
	switch wrong.Value {
	case "string", "number":
		is = strings.TrimSpace("the " + wrong.Value + " " + string(value))
	case "bool":
		is = cmp.Or(string(value), is)
	}
	return cnierr.New(types.ErrDecodingFailure, fmt.Sprintf("under %q, use %s instead of %s", key, wanted, is), "%s: %s where %s belongs", key, is, wanted)
}

// locate finds the first value of a type, as json names it, under a path. The path has the
// keys of structs, but neither those of a map nor places in a list: place has all, as
// ".sysctl.key" or ".list[0].key".
func locate(data []byte, path, valueType string) (place string, value []byte) {
	if path == "" && (typeOf(data) == valueType || "number "+string(data) == valueType) {
		return "", data
	}
	var list []json.RawMessage
	if json.Unmarshal(data, &list) == nil {
		for i, v := range list {
			if place, value = locate(v, path, valueType); value != nil {
				return fmt.Sprintf("[%d]%s", i, place), value
			}
		}
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(data, &object) == nil {
		for _, key := range slices.Sorted(maps.Keys(object)) {
			rest, along := strings.CutPrefix(path+".", key+".")
			if path != "" && !along {
				continue
			}
			if place, value = locate(object[key], strings.TrimSuffix(rest, "."), valueType); value != nil {
				return "." + key + place, value
			}
		}
	}
	return "", nil
}

// typeOf is json's name for the type of a value.
func typeOf(value []byte) string {
	switch value[0] {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "string"
	case 't', 'f':
		return "bool"
	case 'n':
		return "null"
	default:
		return "number"
	}
}

// userKey is a path of json's as the user wrote it. Go puts the names of embedded
// structs before it, and these begin with a capital, as no key does.
func userKey(path string) string {
	for path != "" && path[0] >= 'A' && path[0] <= 'Z' {
		_, path, _ = strings.Cut(path, ".")
	}
	return path
}

// decodeStrict is decode for objects that are ours alone: an unknown key in
// them can only be a mistake.
func decodeStrict(key string, data []byte, into any) error {
	if len(data) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		return wrongType(key, data, wrong.Field, wrong)
	}
	if err != nil {
		return cnierr.New(types.ErrDecodingFailure, fmt.Sprintf("correct the object under %q", key), "%s: %v", key, err)
	}
	return nil
}

// typeName is what a user calls a type, by its name in Go or json's for a value's,
// which is followed by the number where that is what is wrong.
func typeName(name string) string {
	switch kind, number, _ := strings.Cut(name, " "); {
	case number != "":
		return "the number " + number
	case strings.HasPrefix(kind, "int"), strings.HasPrefix(kind, "uint"):
		return "a whole number that is not negative"
	case kind == "map", kind == "struct", kind == "object":
		return "an object"
	case kind == "slice", kind == "array":
		return "a list"
	case kind == "bool":
		return "true or false"
	}
	return "a " + name
}
