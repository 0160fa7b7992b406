// Command answer is all that is in a test's container image: it tells who asks
// by HTTP which address it sees them at or, as a pod's first container, waits.
package main

import (
	"fmt"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	// The kernel keeps signals without a handler from a namespace's first process.
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-end
		os.Exit(0)
	}()
	if len(os.Args) > 1 && os.Args[1] == "pause" {
		time.Sleep(math.MaxInt64)
	}
	log.Fatal(http.ListenAndServe(":80", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, host)
	})))
}
