package broker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestDelays_Defaults(t *testing.T) {
	h := newHolding(t)
	orders := h.topic("orders", 1)
	// RocketMQ's messageDelayLevel.
	levels := strings.Fields("1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h")
	if len(levels) != message.MaxDelayLevel {
		t.Fatalf("%d levels", len(levels))
	}
	for _, level := range []int{19, 100, 1 << 40} {
		h.wantDue(orders, &message.Message{DelayLevel: level}, 2*time.Hour)
	}
	for i, text := range levels {
		d, err := time.ParseDuration(text)
		h.check(err)
		h.wantDue(orders, &message.Message{DelayLevel: i + 1}, d)
	}
	if d := h.timers.delays; d.Max != message.MaxDelay || message.MaxDelay < 365*24*time.Hour {
		t.Errorf("the limit is %v", d.Max)
	}
	h.wantDue(orders, in(message.MaxDelay), message.MaxDelay)
	h.wantDue(orders, in(1), time.Millisecond)
	h.wantDue(orders, at(h.millis()+1), time.Millisecond)
	h.clock.Add(1) // the middle of a millisecond: rounded up
	h.wantDue(orders, in(time.Second), time.Second+time.Millisecond)
}

// wantDue holds a message and recalls it.
func (h *holding) wantDue(to topic.Topic, m *message.Message, want time.Duration) {
	h.Helper()
	held := h.hold(to, 0, m)[0]
	p, ok := h.state.timers.Lookup(timer.Place{Origin: held.Origin})
	if got := time.Duration(p.Millis-h.millis()) * time.Millisecond; !ok || got != want {
		h.Errorf("level %d, delay %v: due in %v, %v; want %v", m.DelayLevel, m.Delay, got, ok, want)
	}
	h.wantRecall(held, true, 0)
}

func TestDelays_Limit(t *testing.T) {
	const limit = time.Hour
	h := newHolding(t, func(c *Config) { c.Delays = Delays{Levels: []time.Duration{time.Second, time.Minute}, Max: limit} })
	orders := h.topic("orders", 1)
	h.wantDue(orders, &message.Message{DelayLevel: 2}, time.Minute)
	h.wantDue(orders, &message.Message{DelayLevel: 3}, time.Minute)
	h.wantDue(orders, in(limit), limit)
	h.wantDue(orders, at(h.millis()+limit.Milliseconds()), limit)
	before := h.state.log.Status().LastIndex
	for _, c := range []struct {
		m     *message.Message
		delay string
	}{
		{in(limit + time.Millisecond), "1h0m0.001s"},
		{at(h.millis() + limit.Milliseconds() + 1), "1h0m0.001s"},
		{at(253_402_300_799_999), "2562047h"}, // the year 9999; as long as a duration can be
		{&message.Message{}, "no time of delivery"},
	} {
		r := h.try(orders, 0, in(time.Second), c.m)
		if !errors.Is(r.Err, protocol.IllegalMessage) || !strings.Contains(r.Err.Remark, c.delay) || c.delay[0] != 'n' && !strings.Contains(r.Err.Remark, "the limit is 1h0m0s") {
			t.Errorf("%v, %v: got %v", c.m.Delay, c.m.DeliverAt, r.Err)
		}
	}
	if last := h.state.log.Status().LastIndex; last != before || h.state.timers.Len() != 0 {
		t.Errorf("batches that were refused left %d records and %d messages", last-before, h.state.timers.Len())
	}
}

func TestDelays_Config(t *testing.T) {
	for _, d := range []Delays{
		{Max: -1}, {Max: message.MaxDelay + 1}, {Max: time.Microsecond}, {Levels: []time.Duration{}},
		{Levels: []time.Duration{0}}, {Levels: []time.Duration{-1}}, {Levels: []time.Duration{time.Second, message.MaxDelay + 1}},
		{Max: time.Hour}, // the default levels go up to 2 h
	} {
		if _, err := (Config{DataDir: "d", Delays: d}).withDefaults(); err == nil {
			t.Errorf("%+v was accepted", d)
		}
	}
}
