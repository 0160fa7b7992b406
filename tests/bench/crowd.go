package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"macvlan-vip/tests/testnet"
)

// fullSite is a host with a crowd of services, one of which is the site's
// holder. They come and go by the bare protocol, since hundreds of calls of
// cnitool would take most of the bench's time.
func fullSite(t *testing.T, crowd int) *site {
	t.Helper()
	s := newSite(t, vips(2), true)
	t.Cleanup(s.disperse)
	for i := range crowd - 1 {
		service := testnet.New(t)
		id := fmt.Sprintf("crowd-%d", i)
		result := s.plugin("macvlan-vip", "ADD", id, service, s.crowdConf(i))
		conf := map[string]any{"type": "hairpin-route", "prevResult": json.RawMessage(result)}
		s.plugin("hairpin-route", "ADD", id, service, conf)
	}
	return s
}

func (s *site) crowdConf(i int) map[string]any {
	conf := ours(quiet)[0]
	conf["ipam"] = map[string]any{"type": "static", "addresses": []map[string]string{{"address": fmt.Sprintf("10.99.%d.%d/16", 100+i/250, 1+i%250)}}}
	return conf
}

// disperse takes the whole crowd down: none of its attachments is valid.
func (s *site) disperse() {
	for _, plugin := range []string{"hairpin-route", "macvlan-vip"} {
		conf := map[string]any{"type": plugin, "cni.dev/valid-attachments": []string{}}
		if plugin == "macvlan-vip" {
			conf = s.crowdConf(0)
			conf["cni.dev/valid-attachments"] = []string{}
		}
		s.plugin(plugin, "GC", "", nil, conf)
	}
}

// plugin runs a verb of a plugin on the crowd's network and gives its result.
func (s *site) plugin(plugin, verb, id string, service *testnet.Namespace, conf map[string]any) []byte {
	s.t.Helper()
	return s.pluginOf("crowd", plugin, verb, id, service, conf)
}

// pluginOf is plugin for any network.
func (s *site) pluginOf(network, plugin, verb, id string, service *testnet.Namespace, conf map[string]any) []byte {
	s.t.Helper()
	conf["cniVersion"], conf["name"] = "1.1.0", network
	stdin, err := json.Marshal(conf)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(plugin)
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_PATH=" + os.Getenv("PATH")}
	if service != nil {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+id, "CNI_IFNAME=mv0", "CNI_NETNS="+service.Path())
	}
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &out
	s.host.Do(func() error {
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s of %s: %w: %s", verb, plugin, err, &out)
		}
		return nil
	})
	return out.Bytes()
}
