package command

import (
	"testing"
	"time"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
)

func TestDeliveryLine_Text(t *testing.T) {
	full := &deliveryLine{Delivery: &consumer.Delivery{Stored: *stored(), Attempt: 1}}
	plain := &deliveryLine{Delivery: &consumer.Delivery{Stored: message.Stored{
		Message: message.Message{Topic: "t", Body: []byte("hello, wörld")}, Queue: message.Queue{Topic: "t", Broker: "b"},
		StoreTime: time.UnixMilli(0),
	}}}
	binary := &deliveryLine{Delivery: &consumer.Delivery{Stored: message.Stored{
		Message: message.Message{Topic: "t", Body: []byte{0xff, 0x1b}}, Queue: message.Queue{Topic: "t", Broker: "b"},
		StoreTime: time.UnixMilli(0),
	}}}
	raw := &deliveryLine{Delivery: plain.Delivery, raw: true}
	var out []byte
	for _, l := range []*deliveryLine{full, plain, binary, raw} {
		out = append(l.appendText(out), '\n')
	}
	golden(t, "deliveries.txt", out)
}

func TestRemaining_CountsDownToTheEndOfEachQueue(t *testing.T) {
	a, b := message.Queue{Topic: "t", Broker: "b", ID: 0}, message.Queue{Topic: "t", Broker: "b", ID: 1}
	r := newRemaining(map[message.Queue]int64{a: 2, b: 0})
	d := &consumer.Delivery{Stored: message.Stored{Queue: a}}
	other := &consumer.Delivery{Stored: message.Stored{Queue: b}}
	r.came(d)
	r.came(other)
	if r.empty() {
		t.Fatal("ends one message too early")
	}
	r.came(d)
	if !r.empty() {
		t.Fatalf("still waits for %v", r)
	}
	var none remaining
	none.came(d)
}
