package runtimes

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// cri is the Container Runtime Interface's client, as far as a pod of one
// container needs it. Debian 12 packages no crictl, and what is said is little:
// gRPC frames, and of protobuf only fields that hold a string or a message.
type cri struct {
	t      testing.TB
	client *http.Client
}

func newCRI(t testing.TB, socket string) *cri {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{
		Protocols: &protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &cri{t, &http.Client{Transport: transport, Timeout: 20 * time.Second}}
}

// field is one of a protobuf message, with a number below 16.
func field[T string | []byte](number int, value T) []byte {
	b := binary.AppendUvarint(nil, uint64(number<<3|2))
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func message(fields ...[]byte) []byte { return bytes.Join(fields, nil) }

// call calls a method of the RuntimeService and gives the first field of what
// it answers, which is an ID where there is any.
func (c *cri) call(method string, request []byte) string {
	c.t.Helper()
	id, err := c.try(method, request)
	if err != nil {
		c.t.Fatal(err)
	}
	return id
}

func (c *cri) try(method string, request []byte) (id string, err error) {
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request)))
	post, err := http.NewRequest(http.MethodPost, "http://cri/runtime.v1.RuntimeService/"+method,
		bytes.NewReader(append(frame, request...)))
	if err != nil {
		return "", err
	}
	post.Header.Set("Content-Type", "application/grpc")
	post.Header.Set("TE", "trailers")
	answer, err := c.client.Do(post)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", fmt.Errorf("%s: %w", method, err)
	}
	for _, header := range []http.Header{answer.Header, answer.Trailer} {
		if status := header.Get("Grpc-Status"); status != "" && status != "0" {
			return "", fmt.Errorf("%s: status %s: %s", method, status, header.Get("Grpc-Message"))
		}
	}
	const head = 5 + 2 // the frame's, and the field's with a length below 128
	if len(body) < head {
		return "", nil
	}
	return string(body[head:]), nil
}

// podConfig is a pod's metadata, and among what is Linux's the parent cgroup.
func (m *machine) podConfig() []byte {
	return message(
		field(1, message(field(1, "web"), field(2, "uid-web"), field(3, "default"))),
		field(8, message(field(1, m.cgroup))),
	)
}

// startPod starts a pod and the container in it.
func (c *cri) startPod(config []byte) (pod string) {
	c.t.Helper()
	pod = c.call("RunPodSandbox", field(1, config))
	container := message(
		field(1, message(field(1, "web"))), field(2, message(field(1, criImage))),
		field(3, "/answer"), field(4, "serve"),
	)
	id := c.call("CreateContainer", message(field(1, pod), field(2, container), field(3, config)))
	c.call("StartContainer", field(1, id))
	return pod
}

// pods is what a runtime with CRI has to show.
func (m *machine) pods(client *cri) {
	m.t.Helper()
	before := m.state()
	for range 2 {
		pod := client.startPod(m.podConfig())
		m.reached(vip4, vip6)
		client.call("StopPodSandbox", field(1, pod))
		m.clean(before)
		client.call("RemovePodSandbox", field(1, pod))
		m.clean(before)
	}
}
