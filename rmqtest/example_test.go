package rmqtest_test

import (
	"testing"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/rmqtest"
)

// testOrders sends a message and receives it. In a file of yours it is TestOrders.
func testOrders(t *testing.T) {
	server := rmqtest.NewServer(t)
	p, err := producer.New(t.Context(), producer.Config{NameServers: []string{server.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	if _, err := p.Send(t.Context(), &message.Message{Topic: "orders", Body: []byte("hello")}); err != nil {
		t.Fatal(err)
	}
	c, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers:   []string{server.Addr()},
		Subscriptions: []consumer.Subscription{{Topic: "orders"}},
		From:          consumer.Earliest(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	ds, err := c.Poll(t.Context(), 1)
	if err != nil || string(ds[0].Body) != "hello" {
		t.Errorf("got %v, %v", ds, err)
	}
}

func Example() {
	_ = testOrders // `go test` calls it
}
