// agent is what a test's machine under qemu runs of the tests' own. As /init
// of the initial RAM disk it mounts the root file system and starts the
// distribution's own init. As a service it runs the commands that tests send
// over a virtio-serial port, by the SSH protocol.
package main

import (
	"log"
	"os"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("machine-agent: ")
	if os.Getpid() == 1 {
		log.Fatal(initialize())
	}
	log.Fatal(serve())
}
