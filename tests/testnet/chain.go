package testnet

import (
	"context"
	"testing"

	"github.com/containernetworking/cni/libcni"
	current "github.com/containernetworking/cni/pkg/types/100"
	"os"
	"path/filepath"
)

// Chain is a network that libcni runs, as a container runtime does.
type Chain struct {
	t    testing.TB
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
}

// NewChain loads a conflist; the plugins are those that TestMain built.
func NewChain(t testing.TB, conflist string) *Chain {
	t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(conflist))
	if err != nil {
		t.Fatal(err)
	}
	return &Chain{t, list, libcni.NewCNIConfigWithCacheDir(filepath.SplitList(os.Getenv("PATH")), t.TempDir(), nil)}
}

func (c *Chain) runtime(a *Attachment) *libcni.RuntimeConf {
	return &libcni.RuntimeConf{ContainerID: a.ID, NetNS: a.Service.Path(), IfName: a.IfName}
}

// Add adds an attachment.
func (c *Chain) Add(a *Attachment) (result *current.Result, err error) {
	a.in(func() error {
		r, addErr := c.cni.AddNetworkList(context.Background(), c.list, c.runtime(a))
		if err = addErr; err == nil {
			result, err = current.NewResultFromResult(r)
		}
		return nil
	})
	return result, err
}

// Check checks an attachment.
func (c *Chain) Check(a *Attachment) (err error) {
	a.in(func() error {
		err = c.cni.CheckNetworkList(context.Background(), c.list, c.runtime(a))
		return nil
	})
	return err
}

// Del deletes an attachment.
func (c *Chain) Del(a *Attachment) (err error) {
	a.in(func() error {
		err = c.cni.DelNetworkList(context.Background(), c.list, c.runtime(a))
		return nil
	})
	return err
}
