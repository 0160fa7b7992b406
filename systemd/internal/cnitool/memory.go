package cnitool

import (
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	current "github.com/containernetworking/cni/pkg/types/100"

	"macvlan-vip/systemd/internal/networks"
	"macvlan-vip/systemd/internal/settings"
)

// cacheDir is libcni's.
const cacheDir = "/var/lib/cni/results"

// Attachment is what cnitool remembers of an ADD that succeeded.
type Attachment struct {
	Kind        string `json:"kind"`
	ContainerID string `json:"containerId"`
	Config      []byte `json:"config"`
	IfName      string `json:"ifName"`
	NetworkName string `json:"networkName"`
	// CapabilityArgs are CAP_ARGS as they were.
	CapabilityArgs json.RawMessage `json:"capabilityArgs"`
	RawResult      json.RawMessage `json:"result"`
}

// Result is that of the ADD, an empty one where it cannot be read.
func (a Attachment) Result() *current.Result {
	if result, err := parseResult(a.RawResult); err == nil {
		return result
	}
	return &current.Result{}
}

// Remembered gives the attachments of a namespace, by cnitool's memory.
func Remembered(n settings.Namespace) ([]Attachment, error) {
	files, err := filepath.Glob(filepath.Join(cacheDir, "*-"+containerID(n.Path)+"-*"))
	if err != nil {
		return nil, err
	}
	var all []Attachment
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var a Attachment
		if err := json.Unmarshal(data, &a); err != nil {
			return nil, fmt.Errorf("%s: %w; remove that file if no attachment of it is left", file, err)
		}
		if a.ContainerID == containerID(n.Path) {
			all = append(all, a)
		}
	}
	return all, nil
}

// containerID is cnitool's for a namespace.
func containerID(path string) string {
	sum := sha512.Sum512([]byte(path))
	return fmt.Sprintf("cnitool-%x", sum[:10])
}

// Edited says what has been changed since the attachment was made, "" if
// nothing: the next start, not a repair, puts it into effect.
func (a Attachment) Edited(n settings.Namespace) (string, error) {
	if n.Network != a.NetworkName {
		return "NETWORK", nil
	}
	if !networks.SameJSON([]byte(os.Getenv("CAP_ARGS")), a.CapabilityArgs) {
		return "CAP_ARGS", nil
	}
	found, file, err := networks.Find(n.ConfDir, n.Network)
	if err != nil {
		return "", err
	}
	if found == nil {
		return "the network's file", nil
	}
	if networks.IsMadeFrom(a.Config, found.Text) {
		return "", nil
	}
	return file, nil
}

// Renewal tells how to put into effect what was edited.
func Renewal(n settings.Namespace) string {
	return fmt.Sprintf("`systemctl restart %s` makes it anew, and restarts what is in it", n.Shim())
}
