package runtimes

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	machines "macvlan-vip/tests/machine"
	"macvlan-vip/tests/testnet"
)

const (
	multusPage      = "Kubernetes with Multus"
	movesPage       = "A Deployment that moves"
	whereaboutsPage = "whereabouts"
	// kubernetesImage is the image of the page's pods.
	kubernetesImage = "docker.io/library/nginx:1.27"
	// kubernetesModule is where the programs' versions are named.
	kubernetesModule = "kubernetes"
)

// kubernetes is a cluster of two nodes with Multus.
type kubernetes struct {
	*cluster
	// programs is the folder of its programs.
	programs string
}

// newKubernetes prepares a control plane and two nodes. On these, the first network
// is upstream's bridge.
func newKubernetes(t testing.TB) *kubernetes {
	t.Helper()
	programs := os.Getenv("KUBERNETES")
	if programs == "" {
		t.Skip("KUBERNETES names no folder with Kubernetes's programs; `make test-kubernetes` builds them and runs this")
	}
	k := &kubernetes{newCluster(t), programs}
	k.controlPlane()
	for i, n := range k.workers {
		k.containerd(n)
		k.kubelet(n)
		k.networks(n, i)
	}
	return k
}

// up boots the cluster and makes it known what Multus and whereabouts keep there.
func (k *kubernetes) up() {
	k.t.Helper()
	k.boot(k.all()...)
	k.eventually("the API server is ready", "kubectl get --raw /readyz")
	k.crds("gopkg.in/k8snetworkplumbingwg/multus-cni.v4", "deployments/multus-daemonset.yml")
	k.crds("github.com/k8snetworkplumbingwg/whereabouts", "doc/crds/whereabouts.*.yaml")
	k.eventually("two nodes are ready", "test $(kubectl get nodes --no-headers | grep -cw Ready) = 2")
	k.eventually("the definitions' kinds are known", "kubectl get network-attachment-definitions,ippools.whereabouts.cni.cncf.io")
}

// kubeconfig says where the API server is, and by which token one is known there.
func (k *kubernetes) kubeconfig(token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [ { name: test, cluster: { server: "https://%s:6443", insecure-skip-tls-verify: true } } ]
users: [ { name: test, user: { token: %s } } ]
contexts: [ { name: test, context: { cluster: test, user: test } } ]
current-context: test
`, k.control.four, token)
}

// unit describes a service of a host.
func (n *node) unit(name, command string) {
	n.t.Helper()
	n.m.MustWrite(n.t, "etc/systemd/system/"+name+".service",
		"[Unit]\nStartLimitIntervalSec=0\nAfter=containerd.service etcd.service\n[Service]\nExecStart="+command+"\nRestart=always\nRestartSec=1\nKillMode=process\n")
}

// controlPlane prepares etcd, the API server, the controllers and the scheduler.
func (k *kubernetes) controlPlane() {
	k.t.Helper()
	n := k.control
	for _, program := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"} {
		n.install("usr/local/bin", filepath.Join(k.programs, program))
	}
	n.m.MustWrite(k.t, "etc/default/etcd", "ETCD_UNSAFE_NO_FSYNC=true\n")
	n.m.MustWrite(k.t, "root/.kube/config", k.kubeconfig("operator"))
	n.m.MustWrite(k.t, "etc/kubernetes/sa.key", signingKey(k.t))
	tokens := "operator,operator,operator,system:masters\n"
	for _, worker := range k.workers {
		tokens += fmt.Sprintf("%[1]s,system:node:%[1]s,%[1]s,system:nodes\n", worker.name)
	}
	n.m.MustWrite(k.t, "etc/kubernetes/tokens.csv", tokens)
	n.unit("kube-apiserver", "/usr/local/bin/kube-apiserver --etcd-servers=http://127.0.0.1:2379 --cert-dir=/var/lib/kubernetes"+
		" --advertise-address="+n.four+" --service-cluster-ip-range=10.96.0.0/16 --token-auth-file=/etc/kubernetes/tokens.csv"+
		" --authorization-mode=Node,RBAC --disable-admission-plugins=ServiceAccount"+
		" --service-account-key-file=/etc/kubernetes/sa.key --service-account-signing-key-file=/etc/kubernetes/sa.key"+
		" --service-account-issuer=https://kubernetes.default.svc")
	n.unit("kube-controller-manager", "/usr/local/bin/kube-controller-manager --kubeconfig=/root/.kube/config --cert-dir=/var/lib/kubernetes"+
		" --leader-elect=false --node-monitor-grace-period=20s")
	n.unit("kube-scheduler", "/usr/local/bin/kube-scheduler --kubeconfig=/root/.kube/config --cert-dir=/var/lib/kubernetes --leader-elect=false")
	n.starts("etcd.service", "kube-apiserver.service", "kube-controller-manager.service", "kube-scheduler.service")
}

// signingKey is that of the tokens of the pods' accounts.
func signingKey(t testing.TB) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
}

// containerd prepares a node's containers: the page's image, and the pods' first.
func (k *kubernetes) containerd(n *node) {
	k.t.Helper()
	n.m.MustWrite(k.t, "etc/containerd/config.toml", criConfig(k.t)+`
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
`)
	program := filepath.Join(filepath.SplitList(os.Getenv("PATH"))[0], "answer")
	n.m.MustWrite(k.t, "root/pause.tar", string(image(k.t, criImage, program, "pause")))
	n.m.MustWrite(k.t, "root/server.tar", string(image(k.t, kubernetesImage, program, "serve")))
	n.unit("test-images", "sh -ec 'until ctr version; do sleep 0.2; done; for i in pause server; do ctr --namespace k8s.io images import /root/$i.tar; done; exec sleep infinity'")
}

// kubelet prepares a node's kubelet.
func (k *kubernetes) kubelet(n *node) {
	k.t.Helper()
	n.install("usr/local/bin", filepath.Join(k.programs, "kubelet"))
	n.m.MustWrite(k.t, "etc/kubernetes/kubelet.conf", k.kubeconfig(n.name))
	config := `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: { anonymous: { enabled: true }, webhook: { enabled: false } }
authorization: { mode: AlwaysAllow }
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failSwapOn: false
nodeStatusUpdateFrequency: 4s
evictionHard: { memory.available: 1Mi }
imageGCHighThresholdPercent: 100
`
	if n.m.Kind == machines.Nspawn {
		config += k.withoutPrivileges(n)
	}
	n.m.MustWrite(k.t, "etc/kubernetes/kubelet.yaml", config)
	n.unit("kubelet", fmt.Sprintf("/usr/local/bin/kubelet --config=/etc/kubernetes/kubelet.yaml --kubeconfig=/etc/kubernetes/kubelet.conf --hostname-override=%s --node-ip=%s", n.name, n.four))
	n.starts("containerd.service", "test-images.service", "kubelet.service")
}

// withoutPrivileges is for a kubelet in a machine that is a container itself, on
// cgroup v1. Its pods are in one cgroup. It finds the kernel's sysctls as it would set
// them, which it may not, and no kernel's log, which it may not read.
func (k *kubernetes) withoutPrivileges(n *node) string {
	k.t.Helper()
	n.nested()
	n.m.MustWrite(k.t, "usr/local/sbin/test-tunables", `#!/bin/sh -e
[ ! -d /run/sysctl ] || exit 0
ln -sf null /dev/kmsg
mkdir /run/sysctl
while read -r key value; do
	echo "$value" >"/run/sysctl/${key##*/}"
	mount --bind "/run/sysctl/${key##*/}" "/proc/sys/$key"
done <<-END
	vm/overcommit_memory 1
	vm/panic_on_oom 0
	kernel/panic 10
	kernel/panic_on_oops 1
	kernel/keys/root_maxkeys 1000000
	kernel/keys/root_maxbytes 25000000
END
`)
	if err := n.m.Chmod("usr/local/sbin/test-tunables", 0o755); err != nil {
		k.t.Fatal(err)
	}
	n.m.MustWrite(k.t, "etc/systemd/system/kubelet.service.d/test.conf", "[Service]\nExecStartPre=/usr/local/sbin/test-tunables\n")
	return `failCgroupV1: false
enforceNodeAllocatable: []
cgroupRoot: ` + n.containers + `
`
}

// networks prepares a node's CNI: Multus, which calls a bridge for the first link.
func (k *kubernetes) networks(n *node, number int) {
	k.t.Helper()
	n.install("opt/cni/bin", filepath.Join(k.programs, "multus"), filepath.Join(k.programs, "whereabouts"))
	for _, plugin := range []string{"bridge", "loopback"} {
		if err := n.m.Link("opt/cni/bin/"+plugin, "/usr/lib/cni/"+plugin); err != nil {
			k.t.Fatal(err)
		}
	}
	n.m.MustWrite(k.t, "etc/cni/net.d/whereabouts.d/whereabouts.conf", `{
  "datastore": "kubernetes", "kubernetes": { "kubeconfig": "/etc/cni/net.d/whereabouts.d/whereabouts.kubeconfig" }
}
`)
	for _, name := range []string{"multus", "whereabouts"} {
		n.m.MustWrite(k.t, fmt.Sprintf("etc/cni/net.d/%s.d/%[1]s.kubeconfig", name), k.kubeconfig("operator"))
	}
	n.m.MustWrite(k.t, "etc/cni/net.d/00-multus.conf", fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus",
  "kubeconfig": "/etc/cni/net.d/multus.d/multus.kubeconfig",
  "delegates": [ {
    "cniVersion": "1.0.0", "name": "pods",
    "plugins": [ {
      "type": "bridge", "bridge": "cni0", "isGateway": true,
      "ipam": { "type": "host-local", "dataDir": "/run/cni/ipam", "ranges": [ [ { "subnet": "10.244.%d.0/24" } ] ] }
    } ]
  } ]
}
`, number))
}

// crds applies the definitions of kinds among a module's manifests.
func (k *kubernetes) crds(module, pattern string) {
	k.t.Helper()
	list := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module)
	list.Dir = kubernetesModule
	dir, err := list.Output()
	if err != nil {
		k.t.Fatalf("find %s: %v", module, err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), pattern))
	if err != nil || len(files) == 0 {
		k.t.Fatalf("%s has no %s: %v", module, pattern, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			k.t.Fatal(err)
		}
		for manifest := range strings.SplitSeq(string(text), "\n---\n") {
			if strings.Contains(manifest, "kind: CustomResourceDefinition") {
				k.apply(manifest)
			}
		}
	}
}

// apply has the cluster make what manifests describe.
func (k *kubernetes) apply(manifests ...string) {
	k.t.Helper()
	k.control.m.MustWrite(k.t, "root/web.yaml", strings.Join(manifests, "\n---\n"))
	k.control.sh("cd && kubectl apply -f web.yaml")
}

// eventually waits until a command on the control machine succeeds.
func (k *kubernetes) eventually(what, script string) {
	k.t.Helper()
	k.within(moveTime, what, script)
}

func (k *kubernetes) within(limit time.Duration, what, script string) {
	k.t.Helper()
	testnet.Within(k.t, limit*time.Duration(k.workers[0].m.Slowness()), what, func() error {
		out, err := k.control.try(script)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// TestKubernetes is a cluster whose pods have VIPs on a second link.
func TestKubernetes(t *testing.T) {
	k := newKubernetes(t)
	k.up()
	before := k.states()
	k.pod(before)
	k.deployment(before)
	k.misuse(before)
	k.pool(before)
	k.nodeReboot(before)
}

// podAt describes a pod on a node with one VIP in the page's network.
func podAt(name string, n *node, vip string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  annotations:
    k8s.v1.cni.cncf.io/networks: '[ { "name": "web", "interface": "mv0", "ips": [ %q ] } ]'
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers: [ { name: web, image: %q } ]
`, name, vip, n.name, kubernetesImage)
}

// pod runs the page's: reached at its VIPs from its node, the other one and the
// LAN, while its first link stays the cluster's.
func (k *kubernetes) pod(before map[*node]string) {
	k.t.Helper()
	manifests := blocks(k.t, multusPage, "yaml") // network, pod
	steps := blocks(k.t, multusPage, "sh")       // apply, events
	k.control.m.MustWrite(k.t, "root/web.yaml", manifests[0]+"---\n"+manifests[1])
	k.control.sh("cd && " + steps[0])
	holder := k.holder(vip4)
	k.reached(vip4, vip6)
	first := k.control.sh("kubectl get pod web -o jsonpath='{.status.podIP}'")
	if !strings.HasPrefix(first, "10.244.") {
		k.t.Errorf("the pod's first address is %s, not the cluster's", first)
	}
	if mac := k.lan.IP("neigh show " + vip4); !strings.Contains(mac, "02:00:5e:00:53:10") {
		k.t.Errorf("the LAN knows the VIP by another MAC than the annotation's: %s", mac)
	}
	holder.sh("curl --silent --show-error --max-time 5 http://" + first)
	k.control.sh("kubectl delete pod web --grace-period=1")
	k.left(before)
}

// deployment moves the page's to the other node, when its own is drained and
// when it has lost its power.
func (k *kubernetes) deployment(before map[*node]string) {
	k.t.Helper()
	k.apply(fenced(k.t, movesPage, "yaml"))
	steps := blocks(k.t, movesPage, "sh") // drain, uncordon
	first := k.holder(vip4)
	k.reached(vip4, vip6)
	k.eventually("the kubelet's probe has an answer", "kubectl wait --for=condition=Available --timeout=10s deployment/web")
	outage := k.asked(vip4, vip6)
	k.control.sh(strings.ReplaceAll(steps[0], "node1", first.name))
	second := k.holderAfter(vip4, first)
	k.reached(vip4, vip6)
	k.t.Logf("a drain moves the VIPs from %s to %s: the LAN has no answer for %s", first.name, second.name, outage())
	first.left(before[first])
	k.control.sh(strings.ReplaceAll(steps[1], "node1", first.name))

	outage = k.asked(vip4, vip6)
	second.m.Cut()
	if now := k.holderAfter(vip4, second); now != first {
		k.t.Fatalf("%s has the VIP", now.name)
	}
	first.sees(vip4, first.four, first.try)
	first.sees(vip6, peer6, k.lan.Shell)
	k.t.Logf("a power cut moves them back: the LAN has no answer for %s", outage())
	k.boot(second)
	k.eventually(second.name+" is ready", "kubectl wait --for=condition=Ready --timeout=10s node/"+second.name)
	k.reached(vip4, vip6)
	if now := k.holder(vip4); now != first {
		k.t.Errorf("the VIP went to %s when that was back", now.name)
	}
	k.control.sh("kubectl delete deployment web")
	k.left(before)
}

// misuse is refused, and the pod's events say why, as the page asks for them.
func (k *kubernetes) misuse(before map[*node]string) {
	k.t.Helper()
	n, other := k.workers[0], k.workers[1]
	k.apply(podAt("holder", n, vip4+"/24"))
	k.holder(vip4)
	events := blocks(k.t, multusPage, "sh")[1]
	for name, c := range map[string]struct{ vip, why string }{
		"taken-by-a-peer":  {peer4 + "/24", "VIP " + peer4 + " is in use by "},
		"taken-by-a-pod":   {vip4 + "/24", "VIP " + vip4 + " is in use by "},
		"taken-by-a-node":  {other.four + "/24", "VIP " + other.four + ": the host itself has it"},
		"off-link":         {"198.51.100.10/24", `not in a network of the master "eth0"`},
		"not-an-address":   {"192.0.2.300/24", "192.0.2.300"},
		"off-link-of-six":  {"2001:db8:1::10/64", `not in a network of the master "eth0"`},
		"without-a-length": {"192.0.2.20", "192.0.2.20"},
	} {
		k.apply(podAt(name, other, c.vip))
		k.eventually(name+" is refused: "+c.why, fmt.Sprintf("%s | grep pod/%s | grep -F '%s'", strings.TrimSpace(events), name, c.why))
		k.control.sh("kubectl delete pod --wait=false --grace-period=1 " + name)
	}
	k.reached(vip4)
	k.control.sh("kubectl delete pod --all --grace-period=1")
	k.left(before)
}

// pool starts 50 pods at once, to which whereabouts assigns addresses.
func (k *kubernetes) pool(before map[*node]string) {
	k.t.Helper()
	const pods = 50
	at := time.Now()
	k.apply(blocks(k.t, whereaboutsPage, "yaml")...)
	k.eventually("two pods of the pool are ready", "kubectl wait --for=condition=Available --timeout=10s deployment/pool")
	k.control.sh(fmt.Sprintf("kubectl scale deployment pool --replicas=%d", pods))
	k.within(6*moveTime, "all pods of the pool are ready", "kubectl rollout status deployment/pool --timeout=20s")
	k.t.Logf("%d pods are ready after %s", pods, time.Since(at).Round(time.Second))
	k.distinct(2 * pods)
	at = time.Now()
	k.control.sh("kubectl delete deployment pool")
	k.within(3*moveTime, "the pool's pods are gone", `pods=$(kubectl get pods -l app=pool --no-headers) && test -z "$pods"`)
	k.t.Logf("they are gone %s after they were deleted", time.Since(at).Round(time.Second))
	k.left(before)
	if left := k.control.sh("kubectl get overlappingrangeipreservations.whereabouts.cni.cncf.io --all-namespaces --no-headers"); left != "" {
		k.t.Errorf("whereabouts keeps reservations:\n%s", left)
	}
}

// distinct asserts that the pool's pods have a number of addresses, each of which
// answers the LAN, and the first and last the nodes.
func (k *kubernetes) distinct(addresses int) {
	k.t.Helper()
	vips := strings.Fields(k.control.sh(`kubectl get pods -l app=pool -o jsonpath='{range .items[*]}{.metadata.annotations.k8s\.v1\.cni\.cncf\.io/network-status}{end}' |
grep -oE '"(192\.0\.2\.|2001:db8::)[0-9a-f]+"' | tr -d '"' | sort -u`))
	if len(vips) != addresses {
		k.t.Fatalf("%d addresses, want %d: %v", len(vips), addresses, vips)
	}
	for _, vip := range vips {
		k.workers[0].sees(vip, like(vip, peer4, peer6), k.lan.Shell)
	}
	k.reached(vips[0], vips[len(vips)-1])
}

// nodeReboot: a pod is back after an orderly reboot of its node, and one that was
// deleted while the node was off leaves nothing, which the kubelet sees to.
func (k *kubernetes) nodeReboot(before map[*node]string) {
	k.t.Helper()
	n := k.workers[1]
	const other4 = "192.0.2.11"
	k.apply(podAt("stays", n, vip4+"/24"), podAt("goes", n, other4+"/24"))
	k.reached(vip4, other4)
	if err := n.m.PowerOff(); err != nil {
		k.t.Fatal(err)
	}
	k.workers[0].silent(vip4)
	k.control.sh("kubectl delete pod goes --force --grace-period=0")
	k.boot(n)
	k.reached(vip4)
	n.silent(other4)
	k.control.sh("kubectl delete pod stays --grace-period=1")
	k.left(before)
}
