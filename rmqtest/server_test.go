package rmqtest_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/rmqtest"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestServer_AsInTheExample(t *testing.T) { testOrders(t) }

func send(t *testing.T, s *rmqtest.Server, topic string) error {
	t.Helper()
	p, err := producer.New(t.Context(), producer.Config{NameServers: []string{s.Addr()}, SendTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Send(t.Context(), &message.Message{Topic: topic})
	return errors.Join(err, p.Close(t.Context()))
}

// A restart keeps the address and what is stored, and takes up a changed
// configuration; a stopped server answers nobody.
func TestServer_RestartKeepsEverything(t *testing.T) {
	s := rmqtest.NewServer(t)
	addr := s.Addr()
	if err := send(t, s, "before"); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	if s.Addr() != addr || s.Broker() == nil {
		t.Errorf("after a restart: address %s, broker %v; want %s", s.Addr(), s.Broker(), addr)
	}
	c, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: []string{addr}, Subscriptions: []consumer.Subscription{{Topic: "before"}}, From: consumer.Earliest(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Poll(t.Context(), 1); err != nil {
		t.Error(err)
	}
	if err := c.Close(t.Context()); err != nil {
		t.Error(err)
	}
	s.Stop()
	s.Stop()
	if conn, err := net.Dial("tcp", addr); err == nil {
		conn.Close()
		t.Error("a stopped server takes connections")
	}
	s.Config.NoAutoCreateTopics = true
	s.Start()
	if err := send(t, s, "after"); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("got %v, want %v", err, protocol.TopicNotFound)
	}
}

func TestServer_EachIsAlone(t *testing.T) {
	a := rmqtest.NewServer(t)
	b := rmqtest.NewServer(t, func(c *broker.Config) { c.NoAutoCreateTopics = true })
	if a.Addr() == b.Addr() || a.Config.DataDir == b.Config.DataDir {
		t.Errorf("two servers share %s or %s", a.Addr(), a.Config.DataDir)
	}
	if err := send(t, a, "orders"); err != nil {
		t.Error(err)
	}
	if err := send(t, b, "orders"); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("got %v, want %v", err, protocol.TopicNotFound)
	}
}
