package broker_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// deciding is a cluster, and what a test sees of its transactions. Producers are
// connections that speak the wire protocol themselves.
type deciding struct {
	*testing.T
	cluster *harness.Cluster
	conn    *transport.Conn // the test's own
	clock   atomic.Int64    // Unix milliseconds; where the test moves the clock
	ids     *message.IDSource
}

func newDeciding(t *testing.T, change ...func(*broker.Config)) *deciding {
	t.Helper()
	d := &deciding{T: t, ids: message.NewIDSource()}
	d.clock.Store(1_700_000_000_000)
	d.cluster = harness.Start(t, change...)
	d.conn = d.dial(nil)
	return d
}

// The plan of clusters whose clock the test moves. The broker looks at real time
// eight times as often as the shorter one says.
const (
	firstCheck    = 80 * time.Millisecond
	checkInterval = 400 * time.Millisecond
)

// clocked has the clock moved by the test. Sessions last as long as it takes.
func (d *deciding) clocked(c *broker.Config) {
	c.Now = func() time.Time { return time.UnixMilli(d.clock.Load()) }
	c.SessionTimeout = 1000 * time.Hour
	c.Transactions = broker.Transactions{FirstCheck: firstCheck, CheckInterval: checkInterval}
}

func newClocked(t *testing.T, change ...func(*broker.Config)) *deciding {
	t.Helper()
	d := &deciding{T: t, ids: message.NewIDSource()}
	d.clock.Store(1_700_000_000_000)
	d.cluster = harness.Start(t, append([]func(*broker.Config){d.clocked}, change...)...)
	d.conn = d.dial(nil)
	return d
}

func (d *deciding) pass(by time.Duration) { d.clock.Add(by.Milliseconds()) }

func (d *deciding) check(err error) {
	d.Helper()
	if err != nil {
		d.Fatal(err)
	}
}

// dial connects; whoever connected is gone when the test ends at the latest.
func (d *deciding) dial(onEvent func(protocol.Frame)) *transport.Conn {
	d.Helper()
	conn, err := transport.Dial(d.cluster.NameServers[0], transport.Options{Name: "test", Logger: d.cluster.Config.Logger, OnEvent: onEvent})
	d.check(err)
	d.Cleanup(conn.Close)
	return conn
}

func call[Resp any](d *deciding, conn *transport.Conn, class protocol.Class, req protocol.Request) (*Resp, error) {
	ctx, cancel := context.WithTimeout(d.Context(), harness.Timeout)
	defer cancel()
	if err := conn.WaitConnected(ctx); err != nil {
		return nil, err
	}
	return transport.Call[Resp](ctx, conn, protocol.BrokerSubject("broker-a", 0, class), req)
}

func must[Resp any](d *deciding, class protocol.Class, req protocol.Request) *Resp {
	d.Helper()
	resp, err := call[Resp](d, d.conn, class, req)
	d.check(err)
	return resp
}

func (d *deciding) topic(name string, queues int) {
	d.Helper()
	cfg := protocol.TopicConfig{Name: name, ReadQueues: queues, WriteQueues: queues, Perm: message.PermReadWrite}
	must[protocol.PutTopicResponse](d, protocol.ClassAdmin, &protocol.PutTopicRequest{Topic: cfg, Mode: protocol.PutCreate})
}

// restart restarts the broker; producers join again by themselves.
func (d *deciding) restart() {
	d.Helper()
	d.cluster.Restart()
	d.conn = d.dial(nil)
}

// asking is a producer, and what it is asked.
type asking struct {
	*deciding
	group, client string
	conn          *transport.Conn
	events        chan protocol.CheckTransactionEvent
}

// producer connects a producer that nobody has heard of yet.
func (d *deciding) producer(group, client string) *asking {
	d.Helper()
	p := &asking{deciding: d, group: group, client: client, events: make(chan protocol.CheckTransactionEvent, 4096)}
	p.conn = d.dial(func(f protocol.Frame) {
		var e protocol.CheckTransactionEvent
		if f.Code != protocol.CheckTransaction {
			return
		}
		if err := protocol.Unmarshal(f.Payload, &e); err != nil {
			d.Error(err)
		}
		p.events <- e
	})
	return p
}

// join has the producer asked from now on.
func (p *asking) join() {
	p.Helper()
	req := &protocol.HeartbeatRequest{ClientID: p.client, Producers: []string{p.group}, Checkers: []string{p.group}, Inbox: p.conn.Inbox()}
	_, err := call[protocol.HeartbeatResponse](p.deciding, p.conn, protocol.ClassClient, req)
	p.check(err)
}

// joined is producer and join.
func (d *deciding) joined(group, client string) *asking {
	d.Helper()
	p := d.producer(group, client)
	p.join()
	return p
}

// asked waits until the producer is asked for a message, and for none before.
func (p *asking) asked(held protocol.Held, check int) protocol.CheckTransactionEvent {
	p.Helper()
	select {
	case e := <-p.events:
		if e.Held != held || e.Check != check || e.Group != p.group || e.Broker != "broker-a" {
			p.Fatalf("asked for %+v, check %d, of group %q at %q; want %+v, check %d", e.Held, e.Check, e.Group, e.Broker, held, check)
		}
		return e
	case <-time.After(harness.Timeout):
		p.Fatalf("not asked for %+v, check %d, within %v", held, check, harness.Timeout)
		panic("unreachable")
	}
}

func (d *deciding) message(body string, change ...func(*message.Message)) *message.Message {
	m := &message.Message{ID: d.ids.Next(), BornTime: time.UnixMilli(1), Body: []byte(body)}
	for _, f := range change {
		f(m)
	}
	return m
}

func immune(to time.Duration) func(*message.Message) {
	return func(m *message.Message) { m.CheckImmunity = to }
}

func encoded(l batch.Lead, messages ...*message.Message) []byte {
	b := batch.NewBuilder("", 0)
	b.Begin(&l)
	for _, m := range messages {
		b.Add(m)
	}
	return b.Finish()
}

// send sends one batch and returns its result.
func (p *asking) send(l batch.Lead, messages ...*message.Message) (protocol.SendResult, error) {
	req := &protocol.SendRequest{ClientID: p.client, Group: p.group, Batches: encoded(l, messages...)}
	resp, err := call[protocol.SendResponse](p.deciding, p.conn, protocol.ClassSend, req)
	switch {
	case err != nil:
		return protocol.SendResult{}, err
	case resp.Results[0].Err != nil:
		return protocol.SendResult{}, resp.Results[0].Err
	}
	return resp.Results[0], nil
}

// halves sends half messages in one batch and names them.
func (p *asking) halves(topic string, queue int, messages ...*message.Message) (held []protocol.Held) {
	p.Helper()
	r, err := p.send(batch.Lead{Topic: topic, Queue: queue, Purpose: batch.ToTransaction}, messages...)
	p.check(err)
	if r.BaseOffset != -1 || r.Index == 0 || r.StoreMillis == 0 {
		p.Fatalf("half messages have the result %+v", r)
	}
	for i, m := range messages {
		held = append(held, protocol.Held{Origin: r.Index, Position: i, ID: m.ID.String(), Topic: topic})
	}
	return held
}

// half sends one half message.
func (p *asking) half(topic, body string, change ...func(*message.Message)) protocol.Held {
	p.Helper()
	return p.halves(topic, 0, p.message(body, change...))[0]
}

// end decides, on the test's own connection.
func (d *deciding) end(h protocol.Held, decision protocol.Decision) (*protocol.EndTransactionResponse, error) {
	return call[protocol.EndTransactionResponse](d, d.conn, protocol.ClassClient, &protocol.EndTransactionRequest{Held: h, Decision: decision})
}

func (d *deciding) mustEnd(h protocol.Held, decision protocol.Decision) protocol.EndTransactionResponse {
	d.Helper()
	r, err := d.end(h, decision)
	d.check(err)
	return *r
}

// stored is all messages of a topic, by queue and offset.
func (d *deciding) stored(topic string) (all []message.Stored) {
	d.Helper()
	info := must[protocol.ListTopicsResponse](d, protocol.ClassAdmin, &protocol.ListTopicsRequest{Topic: topic, Stats: true}).Topics[0]
	for _, q := range info.Queues {
		for offset := q.Min; offset < q.End; {
			req := &protocol.PullRequest{MaxBytes: protocol.MaxPullBytes, Queues: []protocol.PullQueue{{Topic: topic, Queue: q.Queue, Offset: offset}}}
			pulled := must[protocol.PullResponse](d, protocol.ClassPull, req).Queues[0]
			if pulled.Err != nil {
				d.Fatal(pulled.Err)
			}
			for rest := pulled.Batches; len(rest) > 0; {
				var err error
				all, rest, err = batch.Decode(all, rest, "broker-a")
				d.check(err)
			}
			offset = pulled.Next
		}
	}
	return all
}

// wantVisible wants the messages with these bodies, in any order, and no others.
func (d *deciding) wantVisible(topic string, bodies ...string) {
	d.Helper()
	got := []string{}
	for _, m := range d.stored(topic) {
		got = append(got, string(m.Body))
	}
	slices.Sort(got)
	slices.Sort(bodies)
	if !slices.Equal(got, append([]string{}, bodies...)) {
		d.Errorf("topic %q has %q, want %q", topic, got, bodies)
	}
}

func (d *deciding) list(req protocol.ListTransactionsRequest) *protocol.ListTransactionsResponse {
	d.Helper()
	if req.Max == 0 {
		req.Max = protocol.MaxQueryMessages
	}
	return must[protocol.ListTransactionsResponse](d, protocol.ClassAdmin, &req)
}

// status is that of the only transaction of a topic.
func (d *deciding) status(topic string) protocol.TransactionStatus {
	d.Helper()
	l := d.list(protocol.ListTransactionsRequest{Topic: topic})
	if len(l.Transactions) != 1 {
		d.Fatalf("topic %q has transactions %+v, want one", topic, l.Transactions)
	}
	return l.Transactions[0]
}

func (d *deciding) wantPending(n int) {
	d.Helper()
	if got := d.list(protocol.ListTransactionsRequest{}).Pending; got != n {
		d.Errorf("%d transactions are pending, want %d", got, n)
	}
}

func (d *deciding) eventually(what string, condition func() bool) {
	d.Helper()
	harness.Eventually(d, what, condition)
}

func heldText(h protocol.Held) string { return fmt.Sprintf("%d.%d", h.Origin, h.Position) }
