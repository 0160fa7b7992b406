package config

import (
	"encoding/json"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"macvlan-vip/plugins/internal/cnierr"
)

// attachmentList is a list that may be sent as null: libcni writes so when the
// runtime's list is empty and Go's nil (GCArgs{}). It leaves the key out when the
// runtime has given no list at all.
type attachmentList struct {
	sent bool
	list []types.GCAttachment
}

// UnmarshalJSON is called for null, too.
func (l *attachmentList) UnmarshalJSON(data []byte) error {
	l.sent = true
	return json.Unmarshal(data, &l.list)
}

// ValidAttachments reads what a GC may not touch. known is false where the
// runtime sent no list at all, which, unlike an empty list, says nothing.
//
// The specification's key is cni.dev/valid-attachments; libcni sends
// cni.dev/attachments as well, from the time before 1.1.0 was final. An entry that lacks one of
// its two keys is an error (code 7).
func ValidAttachments(stdin []byte) (valid []types.GCAttachment, known bool, err error) {
	var raw struct {
		Valid attachmentList `json:"cni.dev/valid-attachments"`
		Early attachmentList `json:"cni.dev/attachments"`
	}
	if err := decode(stdin, &raw); err != nil {
		return nil, false, err
	}
	key := "cni.dev/valid-attachments"
	if !raw.Valid.sent {
		key, raw.Valid = "cni.dev/attachments", raw.Early
	}
	for i, a := range raw.Valid.list {
		if a.ContainerID == "" || a.IfName == "" {
			return nil, false, cnierr.Config(fmt.Sprintf("%s[%d]", key, i), a, "it names no attachment, so one that is in use could be removed", "give containerID and ifname")
		}
	}
	return raw.Valid.list, raw.Valid.sent, nil
}
