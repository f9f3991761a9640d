package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

const maxChecks = 15

// asksInTime moves the clock by a time, to the millisecond at whose end the
// producer is to be asked, and shows that it is not asked earlier: another
// message, which it is asked for a millisecond before, comes first.
func (p *asking) asksInTime(h protocol.Held, check int, after time.Duration) protocol.CheckTransactionEvent {
	p.Helper()
	p.pass(after - 2*time.Millisecond)
	before := p.half(h.Topic, "before", immune(time.Millisecond))
	p.pass(time.Millisecond)
	p.asked(before, 1)
	p.mustEnd(before, protocol.Rollback)
	p.pass(time.Millisecond)
	return p.asked(h, check)
}

// counted waits until it is on disk how often producers were asked.
func (d *deciding) counted(topic string, checks int) protocol.TransactionStatus {
	d.Helper()
	var s protocol.TransactionStatus
	d.eventually("checks are counted", func() bool {
		s = d.status(topic)
		return s.Checks >= checks
	})
	if s.Checks != checks {
		d.Errorf("%d checks are counted, want %d", s.Checks, checks)
	}
	return s
}

// TestChecks_ToTheEnd follows a message that nobody decides: asked 15 times, over
// restarts, parked with a copy in the side topic, asked for once more because
// somebody wants it, and committed.
func TestChecks_ToTheEnd(t *testing.T) {
	d := newClocked(t)
	d.topic("orders", 1)
	p := d.joined("shop", "p1")
	m := d.message("body", func(m *message.Message) {
		m.Tag, m.Keys, m.Properties = "tag", []string{"k"}, map[string]string{"user": "own", broker.ParkedFromTopic: "a lie"}
	})
	h := p.halves("orders", 0, m)[0]
	after := firstCheck
	for check := 1; check <= maxChecks; check++ {
		e := p.asksInTime(h, check, after)
		got, _, err := batch.Decode(nil, e.Batch, "")
		d.check(err)
		if len(got) != 1 || got[0].ID != m.ID || string(got[0].Body) != "body" || got[0].Topic != "orders" || got[0].Tag != "tag" || got[0].QueueOffset != -1 {
			t.Fatalf("asked for the message %+v", got)
		}
		s := d.counted("orders", check)
		if want := d.clock.Load() + checkInterval.Milliseconds(); check < maxChecks && s.NextCheckMillis != want || check == maxChecks && s.NextCheckMillis != 0 {
			t.Errorf("after check %d the next is at %d, want %d", check, s.NextCheckMillis, want)
		}
		if after = checkInterval; check%5 == 0 {
			d.restart()
			p = d.joined("shop", fmt.Sprint("p", check)) // sends nothing
		}
	}
	d.pass(checkInterval - time.Millisecond)
	if _, err := call[protocol.ListTopicsResponse](d, d.conn, protocol.ClassAdmin, &protocol.ListTopicsRequest{Topic: broker.ParkedTopic}); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("before anything is parked: got %v", err)
	}
	d.pass(time.Millisecond)
	d.eventually("the message is parked", func() bool {
		_, err := call[protocol.ListTopicsResponse](d, d.conn, protocol.ClassAdmin, &protocol.ListTopicsRequest{Topic: broker.ParkedTopic})
		return err == nil && len(d.stored(broker.ParkedTopic)) > 0
	})
	wantParked := func() {
		t.Helper()
		got := d.stored(broker.ParkedTopic)
		want := map[string]string{
			"user": "own", broker.ParkedFromTopic: "orders", broker.ParkedFromQueue: "0", broker.ParkedFromGroup: "shop",
			broker.ParkedOrigin: fmt.Sprint(h.Origin), broker.ParkedPosition: "0", broker.ParkedChecks: "15",
		}
		if len(got) != 1 || got[0].ID != m.ID || string(got[0].Body) != "body" || got[0].Tag != "tag" || got[0].Keys[0] != "k" || fmt.Sprint(got[0].Properties) != fmt.Sprint(want) {
			t.Errorf("parked are %+v, want one with the properties %v", got, want)
		}
		if s := d.status("orders"); s.Checks < maxChecks || s.NextCheckMillis != 0 {
			t.Errorf("the parked message is listed as %+v", s)
		}
		d.wantVisible("orders")
	}
	wantParked()
	d.restart()
	p = d.joined("shop", "p")
	d.pass(100 * checkInterval)
	other := p.half("orders", "other", immune(time.Millisecond))
	d.pass(time.Millisecond)
	p.asked(other, 1) // and for nothing else
	d.mustEnd(other, protocol.Rollback)
	wantParked()
	if r := must[protocol.CheckTransactionsResponse](d, protocol.ClassAdmin, &protocol.CheckTransactionsRequest{Held: h}); r.Asked != 1 || r.NobodyOf != 0 {
		t.Errorf("check: got %+v", r)
	}
	p.asked(h, maxChecks+1)
	d.counted("orders", maxChecks+1)
	wantParked()
	if r := d.mustEnd(h, protocol.Commit); r.Queue != 0 || r.Offset != 0 {
		t.Errorf("commit: got %+v", r)
	}
	d.wantVisible("orders", "body")
	d.wantPending(0)
	if _, err := d.end(h, protocol.Rollback); !errors.Is(err, protocol.Conflict) {
		t.Errorf("rollback after the commit: got %v", err)
	}
}

func TestChecks_SideTopic(t *testing.T) {
	d := newClocked(t, func(c *broker.Config) { c.Transactions.MaxChecks = 1 })
	d.topic("orders", 1)
	p := d.joined("shop", "p1")
	held := p.halves("orders", 0, d.message("a"), d.message("b"), d.message("c"))
	d.pass(firstCheck)
	for _, h := range held {
		p.asked(h, 1)
	}
	d.eventually("checks are counted", func() bool { return d.list(protocol.ListTransactionsRequest{}).Transactions[2].Checks == 1 })
	d.mustEnd(held[1], protocol.Commit)
	d.pass(checkInterval)
	d.eventually("two are parked", func() bool {
		_, err := call[protocol.ListTopicsResponse](d, d.conn, protocol.ClassAdmin, &protocol.ListTopicsRequest{Topic: broker.ParkedTopic})
		return err == nil && len(d.stored(broker.ParkedTopic)) == 2
	})
	info := must[protocol.ListTopicsResponse](d, protocol.ClassAdmin, &protocol.ListTopicsRequest{Topic: broker.ParkedTopic}).Topics[0]
	if info.ReadQueues != 1 || !info.Perm.CanRead() || info.Perm.CanWrite() {
		t.Errorf("the side topic is %+v", info.TopicConfig)
	}
	for _, purpose := range []batch.Purpose{batch.ToQueue, batch.ToTransaction} {
		if _, err := p.send(batch.Lead{Topic: broker.ParkedTopic, Purpose: purpose}, d.message("x")); !errors.Is(err, protocol.NoPermission) {
			t.Errorf("sent to the side topic, purpose %d: got %v", purpose, err)
		}
	}
	d.mustEnd(held[0], protocol.Rollback)
	d.mustEnd(held[2], protocol.Commit)
	d.wantVisible("orders", "b", "c")
	d.wantVisible(broker.ParkedTopic, "a", "c")
}

// TestChecks_NobodyIsThere: a group that is offline loses no check, and is asked as
// soon as one of its producers is back, even if that has sent nothing.
func TestChecks_NobodyIsThere(t *testing.T) {
	d := newClocked(t)
	d.topic("orders", 1)
	h := d.producer("shop", "p1").half("orders", "body")
	other := d.joined("post", "p2")
	for range 40 {
		d.pass(checkInterval)
		probe := other.half("orders", "probe", immune(time.Millisecond))
		d.pass(time.Millisecond)
		other.asked(probe, 1)
		d.mustEnd(probe, protocol.Rollback)
	}
	if s := d.status("orders"); s.Checks != 0 {
		t.Errorf("%d checks are counted, and nobody was there", s.Checks)
	}
	if r := must[protocol.CheckTransactionsResponse](d, protocol.ClassAdmin, &protocol.CheckTransactionsRequest{Held: h}); r.Asked != 0 || r.NobodyOf != 1 {
		t.Errorf("check: got %+v", r)
	}
	silent := d.producer("shop", "p3") // connected, but cannot be asked
	_, err := call[protocol.HeartbeatResponse](d, silent.conn, protocol.ClassClient,
		&protocol.HeartbeatRequest{ClientID: "p3", Producers: []string{"shop"}, Inbox: silent.conn.Inbox()})
	d.check(err)
	back := d.joined("shop", "p4")
	back.asked(h, 1)
	d.counted("orders", 1)
	if len(silent.events) > 0 || len(other.events) > 0 {
		t.Errorf("%d and %d others were asked", len(silent.events), len(other.events))
	}
}

func TestChecks_EachProducerInTurn(t *testing.T) {
	d := newClocked(t)
	d.topic("orders", 1)
	ps := []*asking{d.joined("shop", "p1"), d.joined("shop", "p2"), d.joined("shop", "p3")}
	var messages []*message.Message
	for i := range 30 {
		messages = append(messages, d.message(fmt.Sprint(i)))
	}
	ps[0].halves("orders", 0, messages...)
	d.pass(firstCheck)
	d.eventually("all are asked for", func() bool { return len(ps[0].events)+len(ps[1].events)+len(ps[2].events) >= 30 })
	for _, p := range ps {
		if len(p.events) != 10 {
			t.Errorf("%s was asked for %d of 30", p.client, len(p.events))
		}
	}
}

func TestChecks_OnDemand(t *testing.T) {
	d := newClocked(t)
	d.topic("orders", 1)
	d.topic("mails", 1)
	p := d.joined("shop", "p1")
	orders := p.halves("orders", 0, d.message("1", immune(time.Hour)), d.message("2", immune(time.Hour)))
	mail := p.half("mails", "3", immune(time.Hour))
	d.producer("post", "p2").half("mails", "4", immune(time.Hour))
	checks := map[protocol.Held]int{}
	for _, c := range []struct {
		held   protocol.Held
		asked  []protocol.Held
		nobody int
	}{
		{orders[1], orders[1:], 0},
		{protocol.Held{Topic: "orders"}, orders, 0},
		{protocol.Held{Topic: "mails"}, []protocol.Held{mail}, 1},
		{protocol.Held{}, append(orders[:2:2], mail), 1},
	} {
		r := must[protocol.CheckTransactionsResponse](d, protocol.ClassAdmin, &protocol.CheckTransactionsRequest{Held: c.held})
		if r.Asked != len(c.asked) || r.NobodyOf != c.nobody {
			t.Errorf("%+v: got %+v", c.held, r)
		}
		for _, h := range c.asked {
			checks[h]++
			p.asked(h, checks[h])
		}
		d.eventually("it is counted", func() bool {
			for _, s := range d.list(protocol.ListTransactionsRequest{}).Transactions {
				if s.Checks != checks[s.Held] {
					return false
				}
			}
			return true
		})
	}
	d.mustEnd(mail, protocol.Rollback)
	forged := orders[0]
	forged.ID = mail.ID
	for _, c := range []struct {
		held protocol.Held
		code protocol.ErrorCode
	}{{mail, protocol.Conflict}, {forged, protocol.NotFound}, {protocol.Held{Topic: "none"}, protocol.TopicNotFound}} {
		_, err := call[protocol.CheckTransactionsResponse](d, d.conn, protocol.ClassAdmin, &protocol.CheckTransactionsRequest{Held: c.held})
		if !errors.Is(err, c.code) {
			t.Errorf("%+v: got %v, want %v", c.held, err, c.code)
		}
	}
}

// TestChecks_ManyAtOnce: what is more than a pass asks for is asked for later, and
// half messages that are large are not all read at once.
func TestChecks_ManyAtOnce(t *testing.T) {
	d := newClocked(t)
	d.topic("orders", 1)
	p := d.producer("shop", "p1")
	want := map[protocol.Held]bool{}
	for range 12 {
		large := p.half("orders", strings.Repeat("x", 2<<20))
		want[large] = true
	}
	for range 3 {
		var messages []*message.Message
		for i := range 700 {
			messages = append(messages, d.message(fmt.Sprint(i)))
		}
		for _, h := range p.halves("orders", 0, messages...) {
			want[h] = true
		}
	}
	d.pass(firstCheck)
	p.join()
	for len(want) > 0 {
		select {
		case e := <-p.events:
			if !want[e.Held] || e.Check != 1 {
				t.Fatalf("asked for %+v, check %d", e.Held, e.Check)
			}
			delete(want, e.Held)
		case <-time.After(30 * time.Second):
			t.Fatalf("not asked for %d", len(want))
		}
	}
}
