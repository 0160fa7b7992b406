// idle is a CNI plugin that does nothing: the first of a chain has its IPAM plugin asked, and
// passes on what that prints, the others pass on what they get. What a chain of these takes
// is none of another's work.
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

func main() {
	// skel need not look at the namespace, which none of the verbs enters.
	_ = os.Setenv("CNI_NETNS_OVERRIDE", "1")
	skel.PluginMainFuncs(skel.CNIFuncs{
		Add: passOn, Check: passOn, Del: func(*skel.CmdArgs) error { return nil },
	}, version.All, "idle")
}

// passOn prints the result that the plugins before this one have made.
func passOn(args *skel.CmdArgs) error {
	var conf struct {
		IPAM struct {
			Type string `json:"type"`
		} `json:"ipam"`
		PrevResult json.RawMessage `json:"prevResult"`
	}
	if err := json.Unmarshal(args.StdinData, &conf); err != nil {
		return err
	}
	if conf.IPAM.Type != "" {
		ipam := exec.Command(conf.IPAM.Type)
		ipam.Env = append(os.Environ(), "GOMAXPROCS=1")
		ipam.Stdin, ipam.Stdout, ipam.Stderr = bytes.NewReader(args.StdinData), os.Stdout, os.Stderr
		return ipam.Run()
	}
	_, err := os.Stdout.Write(conf.PrevResult)
	return err
}
