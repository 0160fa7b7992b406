package testnet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
)

// ServePage serves one page over HTTP in the namespace, on an address with a
// port, until its test ends.
func (n *Namespace) ServePage(at, page string) {
	n.t.Helper()
	var listener net.Listener
	n.Do(func() (err error) {
		listener, err = net.Listen("tcp", at)
		return err
	})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) })}
	go func() { _ = server.Serve(listener) }()
	n.t.Cleanup(func() { _ = server.Close() })
}

// Page fetches the page of an address from inside the namespace, over a
// connection of its own.
func (n *Namespace) Page(addr string) (body string, err error) {
	client := http.Client{Timeout: answerTimeout, Transport: &http.Transport{DisableKeepAlives: true, DialContext: n.dial}}
	response, err := client.Get("http://" + net.JoinHostPort(addr, "80"))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return string(data), err
}

// WantPage fetches the page of an address, and says so if it is another one.
func (n *Namespace) WantPage(addr, page string) error {
	body, err := n.Page(addr)
	if err == nil && body != page {
		err = fmt.Errorf("%s answers %q", addr, body)
	}
	return err
}

// dial gives up sooner than TCP would ask again: what is silent is asked often.
func (n *Namespace) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = n.NetNS.Do(func(ns.NetNS) (err error) {
		conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}
