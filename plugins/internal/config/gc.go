package config

import (
	"encoding/json"

	"github.com/containernetworking/cni/pkg/types"
)

// ValidAttachments reads what a GC may not touch. known is false where the
// runtime sent no list at all, which, unlike an empty list, says nothing.
//
// The specification's key is cni.dev/valid-attachments; libcni sends
// cni.dev/attachments as well, from the time before 1.1.0 was final.
func ValidAttachments(stdin []byte) (valid []types.GCAttachment, known bool, err error) {
	var raw struct {
		Valid *[]types.GCAttachment `json:"cni.dev/valid-attachments"`
		Early *[]types.GCAttachment `json:"cni.dev/attachments"`
	}
	if err := json.Unmarshal(stdin, &raw); err != nil {
		return nil, false, decode(stdin, &raw)
	}
	if raw.Valid == nil {
		raw.Valid = raw.Early
	}
	if raw.Valid == nil {
		return nil, false, nil
	}
	return *raw.Valid, true, nil
}
