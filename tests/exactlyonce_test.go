package tests

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
)

const historyTopic = "history"

// event is one message of a history: what was sent, and what its sender was told
// in the end.
type event struct {
	name    string // unique
	group   string
	key     string
	receipt producer.Receipt
	err     error
}

// history is what senders were told while everything around them broke.
type history struct {
	*testing.T
	proxy   *harness.Proxy
	server  *harness.Process
	binary  string
	dir     string
	stopped chan struct{}
	senders sync.WaitGroup

	mu       sync.Mutex
	events   []event
	repeated int // sends with an unknown outcome
	known    int // that turned out to be stored
}

func newHistory(t *testing.T) *history {
	t.Helper()
	h := &history{T: t, proxy: harness.StartProxy(t), binary: harness.Binary(t), dir: t.TempDir(), stopped: make(chan struct{})}
	h.start("127.0.0.1:0")
	return h
}

func (h *history) start(listen string) {
	h.Helper()
	h.server = harness.StartProcess(h.T, h.binary, append(serverArgs(h.dir, listen), "--advertise", h.proxy.Addr())...)
	h.proxy.Target(h.server.Listen)
}

func (h *history) producer(cfg producer.Config) *producer.Producer {
	h.Helper()
	cfg.NameServers = []string{h.proxy.Addr()}
	p, err := producer.New(h.Context(), cfg)
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { p.Close(context.WithoutCancel(h.Context())) })
	return p
}

func (h *history) told(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
}

func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.events)
}

func (h *history) running() bool {
	select {
	case <-h.stopped:
		return false
	default:
		return true
	}
}

// patient sends messages of one group, many at a time, through all interruptions.
func (h *history) patient(p *producer.Producer, name string) {
	for i := 0; h.running(); i++ {
		e := event{name: fmt.Sprint(name, "-", i), group: name}
		m := &message.Message{Topic: historyTopic, Group: name, Body: []byte(e.name)}
		if i%50 == 49 { // so that the load is bounded by the disk
			e.receipt, e.err = p.Send(h.Context(), m)
			h.told(e)
			continue
		}
		p.SendAsync(h.Context(), m, func(r producer.Receipt, err error) {
			e.receipt, e.err = r, err
			h.told(e)
		})
	}
}

// hasty gives each send little time, and sends again what may be stored or not.
func (h *history) hasty(p *producer.Producer, name string) {
	for i := 0; h.running(); i++ {
		e := event{name: fmt.Sprint(name, "-", i)}
		m := &message.Message{Topic: historyTopic, Body: []byte(e.name)}
		for e.receipt, e.err = p.Send(h.Context(), m); errors.Is(e.err, producer.ErrUnknownOutcome); {
			m.ID = e.receipt.MessageID
			e.receipt, e.err = p.Send(h.Context(), m)
			h.mu.Lock()
			h.repeated++
			if e.receipt.Duplicate {
				h.known++
			}
			h.mu.Unlock()
		}
		h.told(e)
	}
}

// keyed sends each message twice, as programs do that do not know what they have
// sent.
func (h *history) keyed(p *producer.Producer, name string) {
	for i := 0; h.running(); i++ {
		var both [2]event
		for n := range both {
			e := &both[n]
			e.name, e.key = fmt.Sprint(name, "-", i, "-", n), fmt.Sprint(name, "-", i)
			e.receipt, e.err = p.Send(h.Context(), &message.Message{Topic: historyTopic, DedupKey: e.key, Body: []byte(e.name)})
			h.told(*e)
		}
		first, second := both[0].receipt, both[1].receipt
		if both[0].err == nil && both[1].err == nil && (!second.Duplicate || first.Queue != second.Queue || first.Offset != second.Offset) {
			h.Errorf("key %s: got %+v, then %+v", both[0].key, first, second)
		}
	}
}

// breakSomething does one of the things that happen, and waits until sends are
// answered again.
func (h *history) breakSomething() {
	h.Helper()
	switch what := rand.IntN(4); what {
	case 0:
		h.server.Kill()
		h.start(h.server.Listen)
	case 1:
		h.proxy.Cut()
	default:
		h.proxy.Lose()
		lost := time.NewTimer(time.Duration(rand.IntN(200)) * time.Millisecond)
		<-lost.C
		if what == 2 {
			h.server.Kill()
		}
		h.proxy.Cut()
		if what == 2 {
			h.start(h.server.Listen)
		}
	}
	want := h.count() + 300 + rand.IntN(1000)
	harness.Eventually(h, "sends are answered again", func() bool { return h.count() >= want })
}

// check reads the whole topic: what was acknowledged is where it was said to be,
// nothing is there twice, what certainly failed is not there, and each group has
// the order in which it was sent.
func (h *history) check() {
	h.Helper()
	c, err := consumer.NewPull(h.Context(), consumer.PullConfig{
		NameServers: []string{h.proxy.Addr()}, From: consumer.Earliest(),
		Subscriptions: []consumer.Subscription{{Topic: historyTopic}},
	})
	if err != nil {
		h.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(h.Context()))
	type place struct {
		queue  message.Queue
		offset int64
	}
	stored, keys, last, ends := map[string]place{}, map[string]string{}, map[string]int{}, map[message.Queue]int64{}
	for d, err := range c.MessagesToEnd(h.Context()) {
		if err != nil {
			h.Fatal(err)
		}
		name := string(d.Body)
		if at, twice := stored[name]; twice {
			h.Errorf("%s is at %v and at %v %d", name, at, d.Queue, d.QueueOffset)
		}
		if other, twice := keys[d.DedupKey]; twice && d.DedupKey != "" {
			h.Errorf("%s and %s have the key %s", other, name, d.DedupKey)
		}
		if d.QueueOffset != ends[d.Queue] {
			h.Errorf("%v: offset %d where %d was expected", d.Queue, d.QueueOffset, ends[d.Queue])
		}
		stored[name], keys[d.DedupKey], ends[d.Queue] = place{d.Queue, d.QueueOffset}, name, d.QueueOffset+1
		if d.Group == "" {
			continue
		}
		i, err := strconv.Atoi(name[len(d.Group)+1:])
		if at, ok := last[d.Group]; err != nil || ok && i <= at {
			h.Errorf("%s comes behind number %d, %v", name, at, err)
		}
		last[d.Group] = i
	}
	for _, e := range h.events {
		at, ok := stored[e.name]
		switch {
		case e.err != nil && e.group != "":
			h.Errorf("%s: %v", e.name, e.err)
		case e.err != nil && ok && !errors.Is(e.err, producer.ErrUnknownOutcome):
			h.Errorf("%s is stored, and failed: %v", e.name, e.err)
		case e.err == nil && e.key == "" && at != place{e.receipt.Queue, e.receipt.Offset}:
			h.Errorf("%s is at %v, its receipt says %+v", e.name, at, e.receipt)
		}
	}
}

// TestExactlyOnce_UnderFaults sends while the server is killed, connections are
// cut and answers are lost. RMQ_FAULT_ROUNDS says how often, for a longer run.
func TestExactlyOnce_UnderFaults(t *testing.T) {
	rounds := 8
	if n, err := strconv.Atoi(os.Getenv("RMQ_FAULT_ROUNDS")); err == nil {
		rounds = n
	}
	h := newHistory(t)
	patient := h.producer(producer.Config{SendTimeout: 2 * harness.Timeout})
	hasty := h.producer(producer.Config{SendTimeout: 100 * time.Millisecond})
	for i := range 3 {
		h.senders.Go(func() { h.patient(patient, fmt.Sprint("patient", i)) })
		h.senders.Go(func() { h.hasty(hasty, fmt.Sprint("hasty", i)) })
	}
	h.senders.Go(func() { h.keyed(patient, "keyed") })
	for range rounds {
		h.breakSomething()
	}
	close(h.stopped)
	h.senders.Wait()
	for _, p := range []*producer.Producer{patient, hasty} {
		if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	}
	h.check()
	t.Logf("%d messages; %d sent again, %d of those were stored", len(h.events), h.repeated, h.known)
}

// A key is one message in its topic, whoever sends it to which queue, also after
// a restart.
func TestExactlyOnce_DedupKey(t *testing.T) {
	p := newProduction(t, producer.Config{})
	key := &message.Message{Topic: producedTopic, DedupKey: "order-1", Body: []byte("first")}
	to := func(id int) producer.SendOption { return producer.ToQueue(message.Queue{Broker: "broker-a", ID: id}) }
	first, err := p.producer.Send(t.Context(), key, to(1))
	if err != nil || first.Duplicate {
		t.Fatalf("got %+v, %v", first, err)
	}
	for i, opts := range [][]producer.SendOption{{to(2)}, nil, {to(1)}} {
		if i == 2 {
			p.cluster.Restart()
		}
		got, err := p.producer.Send(t.Context(), key, opts...)
		if err != nil || !got.Duplicate || got.Queue != first.Queue || got.Offset != first.Offset || !got.StoreTime.Equal(first.StoreTime) {
			t.Errorf("try %d: got %+v, %v; want %+v", i, got, err, first)
		}
	}
	if all := p.stored(); len(all) != 1 || len(all[1]) != 1 {
		t.Errorf("got %d queues with messages", len(all))
	}
}
