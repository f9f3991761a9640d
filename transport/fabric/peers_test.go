package fabric_test

import (
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport/fabric"
)

func TestPeers_HaveNamesAndAddresses(t *testing.T) {
	s := start(t, fabric.Config{Listen: "127.0.0.1:0"})
	connect := func(name string, options ...nats.Option) *nats.Conn {
		nc, err := nats.Connect("nats://"+s.Addr(), append(options, nats.Name(name))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	connect("twice")
	newest := connect("twice")
	one := connect("host@1#2")
	connect("inside", nats.InProcessServer(s))
	connect("")
	peers := s.Peers()
	if len(peers) != 2 || peers["twice"] != newest.LocalAddr() || peers["host@1#2"] != one.LocalAddr() {
		t.Errorf("got %v, want the newest of twice, %s, and %s", peers, newest.LocalAddr(), one.LocalAddr())
	}
}
