package dropin

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"

	"macvlan-vip/systemd/internal/files"
	"macvlan-vip/systemd/internal/settings"
	"macvlan-vip/systemd/internal/units"
)

// forwardUnit is the name of a unit of a forwarded port.
func forwardUnit(namespace, port, kind string) string {
	return "systemd-netns-forward@" + namespace + ":" + port + "." + kind
}

// forwards plans the units by which ports of a namespace's localhost lead to the
// host's: instances of templates, which get their namespace and port by drop-ins.
func (w Wish) forwards(ctx context.Context, sd *units.Systemd, c *Change, n settings.Namespace) error {
	shim, err := sd.Unit(ctx, n.Shim())
	if err != nil {
		return err
	}
	for _, port := range w.Forwards {
		before := len(c.want)
		number := strconv.Itoa(int(port))
		socket, service := forwardUnit(w.In, number, "socket"), forwardUnit(w.In, number, "service")
		for _, f := range []files.File{
			files.Text(filepath.Join(unitDir, socket+".d", "netns.conf"), written+fmt.Sprintf(forwardSocket, n.Shim(), w.Unit, n.Path, port)),
			files.Text(filepath.Join(unitDir, service+".d", "netns.conf"), written+fmt.Sprintf("[Service]\nEnvironment=PORT=%d\n", port)),
			files.Link(filepath.Join(unitDir, n.Shim()+".wants", socket), shipped("systemd-netns-forward@.socket")),
		} {
			is, err := files.Read(f.Path)
			if err != nil {
				return err
			}
			if is.Found && !ours(is) {
				return foreign(f.Path, "move it away, or forward another port")
			}
			if err := c.add(f); err != nil {
				return err
			}
		}
		if len(c.want) > before && (shim.Runs() || len(c.restart) > 0) {
			// One that runs listens where its files said before.
			running, err := sd.Running(ctx, []string{socket})
			if err != nil {
				return err
			}
			c.end, c.start = append(c.end, running...), append(c.start, socket)
		}
	}
	return nil
}

// Not BindsTo, by which the socket itself would need the shim and keep it up. Clients of
// "localhost" try ::1 first, which is not there where IPv6 is turned off.
const forwardSocket = `[Unit]
PartOf=%[1]s
After=%[1]s
Before=%[2]s
[Socket]
NetworkNamespacePath=%[3]s
ListenStream=127.0.0.1:%[4]d
ListenStream=[::1]:%[4]d
FreeBind=yes
`
