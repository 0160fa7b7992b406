package runtimes

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"

	"macvlan-vip/tests/testnet"
)

// TestMultus attaches as Multus does, by its documentation: with a pod's
// identity as arguments, and what the pod's annotation asks for.
func TestMultus(t *testing.T) {
	_, config, _ := strings.Cut(fenced(t, "Kubernetes with Multus", "yaml"), "config: |\n")
	attach(t, []byte(config), libcni.RuntimeConf{
		IfName: "mv0",
		Args: [][2]string{
			{"IgnoreUnknown", "true"}, {"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", "web"},
			{"K8S_POD_INFRA_CONTAINER_ID", "1234567890"}, {"K8S_POD_UID", "5fc98185-17ff"},
		},
		CapabilityArgs: map[string]any{
			"ips": []string{vip4 + "/24", vip6 + "/64"}, "mac": "02:00:5e:00:53:10",
		},
	})
}

// attach adds a service to a network, checks it and deletes it, and finds
// nothing left.
func attach(t *testing.T, config []byte, runtime libcni.RuntimeConf) {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes(config)
	if err != nil {
		t.Fatal(err)
	}
	host, _ := testnet.NewHost(t, "192.0.2.2/24", "2001:db8::2/64")
	service := testnet.New(t)
	runtime.ContainerID, runtime.NetNS = filepath.Base(service.Path()), service.Path()
	cni := libcni.NewCNIConfigWithCacheDir(filepath.SplitList(os.Getenv("PATH")), t.TempDir(), nil)
	before := host.Snapshot()
	host.Do(func() error {
		result, err := cni.AddNetworkList(context.Background(), list, &runtime)
		if err != nil {
			return err
		}
		printed, err := json.Marshal(result)
		if err == nil && (!strings.Contains(string(printed), vip4) || !strings.Contains(string(printed), vip6)) {
			t.Errorf("the result lacks a VIP: %s", printed)
		}
		return err
	})
	host.Do(func() error { return cni.CheckNetworkList(context.Background(), list, &runtime) })
	host.Do(func() error { return cni.DelNetworkList(context.Background(), list, &runtime) })
	if after := host.Snapshot(); after != before {
		t.Errorf("the host is not as before:\n%s\nbefore:\n%s", after, before)
	}
}
