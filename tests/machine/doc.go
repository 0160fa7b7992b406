// Package machine boots throwaway machines with a real systemd for tests and
// the demo. There are two kinds, and a test that keeps to Run, Write, Read,
// Link and Systemctl runs on either:
//
//   - Nspawn, a systemd-nspawn container on this machine's kernel, boots within
//     two seconds;
//   - QEMU, a virtual machine, boots the distribution's own kernel within half
//     a minute on two cores, or within seconds where KVM works.
//
// MACHINE=qemu in the environment chooses for all tests that do not insist
// on one (see Of), DEBIAN_SUITE=bullseye the Debian release (see Suite).
//
// A machine's network cards are cabled to network namespaces of the test, its
// LANs, where the other end is a link with a name: an address, a bridge or a
// capture can be put on it. The link stays over reboots. For example:
//
//	func TestService(t *testing.T) {
//		lan := testnet.New(t)
//		m := machine.NewFor(t, []string{"-u", "haproxy"}, // journalctl's arguments, should the test fail
//			machine.With("haproxy"), // Debian packages
//			machine.Connect(
//				machine.NIC{LAN: lan.Path(), Port: "port0", Addresses: []string{"192.0.2.1/24"}}, // eth0
//				machine.NIC{LAN: lan.Path(), Port: "port1"}, // eth1, for the test to configure
//			))
//		lan.AddAddress("port0", "192.0.2.5/24")
//		m.MustWrite(t, "etc/haproxy/haproxy.cfg", config) // before the boot, or while it runs
//		m.MustBoot(t)
//		out, err := m.Run("systemctl", "start", "haproxy")  // err is an ExitError, and holds standard error
//		m.Snapshot()                                        // the host's links, addresses, routes, neighbours
//		err = m.WantPage("192.0.2.10", "answer")            // from the host; lan.WantPage from the LAN
//		err = m.SetCarrier(1, false)                        // pull eth1's cable
//		err = m.PowerOff()                                  // or m.Cut(), a power cut
//		m.MustBoot(t)                                       // on the same disk
//	}
//
// The project is installed by `make install`, unless Bare says otherwise. A
// machine's root file system comes from Root, which mmdebstrap makes once for
// all tests, in build/; a virtual machine's disk is a layer over an image of it.
package machine
