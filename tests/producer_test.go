package tests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
)

const producedTopic = "produced"

// production is a cluster with a producer.
type production struct {
	*testing.T
	cluster  *harness.Cluster
	producer *producer.Producer
}

func newProduction(t *testing.T, cfg producer.Config, change ...func(*broker.Config)) *production {
	t.Helper()
	p := &production{T: t, cluster: harness.Start(t, change...)}
	cfg.NameServers = p.cluster.NameServers
	var err error
	if p.producer, err = producer.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), harness.Timeout)
		defer cancel()
		if err := p.producer.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

// stored reads the whole topic, by queue.
func (p *production) stored() map[int][]*consumer.Delivery {
	p.Helper()
	pull, err := consumer.NewPull(p.Context(), consumer.PullConfig{
		NameServers: p.cluster.NameServers, From: consumer.Earliest(),
		Subscriptions: []consumer.Subscription{{Topic: producedTopic}},
	})
	if err != nil {
		p.Fatal(err)
	}
	defer pull.Close(p.Context())
	all := map[int][]*consumer.Delivery{}
	for d, err := range pull.MessagesToEnd(p.Context()) {
		if err != nil {
			p.Fatal(err)
		}
		all[d.Queue.ID] = append(all[d.Queue.ID], d)
	}
	return all
}

// receipts collects what callbacks are told.
type receipts struct {
	mu     sync.Mutex
	got    []producer.Receipt
	errors []error
}

func (r *receipts) take(receipt producer.Receipt, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.errors = append(r.errors, err)
		return
	}
	r.got = append(r.got, receipt)
}

// dense checks that there are n receipts, whose offsets leave no gap in any
// queue.
func (r *receipts) dense(t *testing.T, n int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.got) != n || len(r.errors) != 0 {
		t.Fatalf("got %d receipts and %d errors, the first %v; want %d receipts", len(r.got), len(r.errors), cmp.Or(r.errors...), n)
	}
	slices.SortFunc(r.got, func(a, b producer.Receipt) int {
		return cmp.Or(a.Queue.Compare(b.Queue), cmp.Compare(a.Offset, b.Offset))
	})
	for i, next := 0, int64(0); i < len(r.got); i, next = i+1, next+1 {
		if i > 0 && r.got[i].Queue != r.got[i-1].Queue {
			next = 0
		}
		if r.got[i].Offset != next {
			t.Fatalf("queue %v: got offset %d, want %d", r.got[i].Queue, r.got[i].Offset, next)
		}
	}
}

func (p *production) send(m *message.Message) producer.Receipt {
	p.Helper()
	r, err := p.producer.Send(p.Context(), m)
	if err != nil {
		p.Fatal(err)
	}
	return r
}

func produced(group, body string) *message.Message {
	return &message.Message{Topic: producedTopic, Group: group, Body: []byte(body)}
}

func TestProducer_ReceiptsAreDenseFromConcurrentSenders(t *testing.T) {
	p := newProduction(t, producer.Config{})
	const senders, each = 8, 500
	var got receipts
	var running sync.WaitGroup
	for sender := range senders {
		running.Go(func() {
			for i := range each {
				m := produced(fmt.Sprint("g", sender), fmt.Sprint(i))
				if i%50 == 0 {
					got.take(p.producer.Send(t.Context(), m))
				} else {
					p.producer.SendAsync(t.Context(), m, got.take)
				}
			}
		})
	}
	running.Wait()
	if err := p.producer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got.dense(t, senders*each)
	where := map[message.ID]message.Queue{}
	for _, r := range got.got {
		where[r.MessageID] = r.Queue
	}
	next := map[string]int{}
	for _, ds := range p.stored() {
		for _, d := range ds {
			if where[d.ID] != d.Queue {
				t.Fatalf("message %v is in %v, its receipt says %v", d.ID, d.Queue, where[d.ID])
			}
			if want := fmt.Sprint(next[d.Group]); string(d.Body) != want {
				t.Fatalf("group %s: got %s, want %s", d.Group, d.Body, want)
			}
			next[d.Group]++
		}
	}
}

func TestProducer_RoundRobinUsesAllQueues(t *testing.T) {
	p := newProduction(t, producer.Config{})
	used := map[int]int{}
	for range 16 {
		used[p.send(produced("", "x")).Queue.ID]++
	}
	if len(used) != 8 {
		t.Errorf("got messages in %d queues, want 8", len(used))
	}
}

// The server goes away in the middle and comes back on the same directory: all
// messages of a group are stored once, in order.
func TestProducer_ServerRestartKeepsTheOrder(t *testing.T) {
	p := newProduction(t, producer.Config{SendTimeout: harness.Timeout})
	const n = 4000
	var got receipts
	half := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		for i := range n {
			if i == n/2 {
				close(half)
			}
			p.producer.SendAsync(t.Context(), produced(fmt.Sprint("g", i%3), fmt.Sprint(i)), got.take)
		}
	})
	<-half
	p.cluster.Restart()
	sender.Wait()
	if err := p.producer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got.got) != n || len(got.errors) != 0 {
		t.Fatalf("got %d receipts and %d errors, the first %v; want %d receipts", len(got.got), len(got.errors), cmp.Or(got.errors...), n)
	}
	stored := 0
	for queue, ds := range p.stored() {
		firsts := map[message.ID]bool{}
		next := map[string]int{}
		for _, d := range ds {
			if firsts[d.ID] {
				t.Errorf("queue %d: message %s is there twice", queue, d.Body)
			}
			firsts[d.ID] = true
			i := 0
			if _, err := fmt.Sscan(string(d.Body), &i); err != nil {
				t.Fatal(err)
			}
			if i < next[d.Group] {
				t.Fatalf("queue %d: %d comes after %d", queue, i, next[d.Group])
			}
			next[d.Group] = i + 1
		}
		stored += len(firsts)
	}
	if stored != n {
		t.Errorf("got %d messages stored, want %d", stored, n)
	}
}

// A message without a group survives a restart too, though it has only few
// retries: a server that is away does not count.
func TestProducer_FreeMessagesWaitForTheServer(t *testing.T) {
	p := newProduction(t, producer.Config{SendTimeout: harness.Timeout})
	p.send(produced("", "before"))
	p.cluster.Stop()
	var got receipts
	for i := range 100 {
		p.producer.SendAsync(t.Context(), produced("", fmt.Sprint(i)), got.take)
	}
	p.cluster.Start()
	if err := p.producer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got.got) != 100 {
		t.Errorf("got %d receipts and %v, want 100", len(got.got), got.errors)
	}
}

func TestProducer_ServerStaysAway(t *testing.T) {
	p := newProduction(t, producer.Config{})
	p.send(produced("", "before"))
	p.cluster.Stop()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := p.producer.Send(ctx, produced("", "x"))
	var e *producer.Error
	if !errors.As(err, &e) || !e.Retryable || !errors.Is(err, producer.ErrUnreachable) && !errors.Is(err, producer.ErrUnknownOutcome) {
		t.Errorf("got %v, want unreachable or an unknown outcome", err)
	}
}

func TestProducer_BufferFull(t *testing.T) {
	p := newProduction(t, producer.Config{MaxBufferedBytes: 64 << 10, OnFull: producer.Fail, SendTimeout: harness.Timeout})
	p.send(produced("", "before"))
	p.cluster.Stop()
	var got receipts
	for range 100 {
		p.producer.SendAsync(t.Context(), produced("", strings.Repeat("x", 1<<10)), got.take)
	}
	p.cluster.Start()
	if err := p.producer.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(got.errors) == 0 || len(got.got) < 50 || len(got.got)+len(got.errors) != 100 {
		t.Errorf("got %d receipts and %d errors, want some refused and the others stored", len(got.got), len(got.errors))
	}
	for _, err := range got.errors {
		if !errors.Is(err, producer.ErrBufferFull) {
			t.Errorf("got %v, want %v", err, producer.ErrBufferFull)
		}
	}
}

func TestProducer_CloseFlushes(t *testing.T) {
	p := newProduction(t, producer.Config{})
	var got receipts
	for i := range 3000 {
		p.producer.SendAsync(t.Context(), produced("", fmt.Sprint(i)), got.take)
	}
	if err := p.producer.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	got.dense(t, 3000)
}

func TestProducer_BatchLargerThanAFrame(t *testing.T) {
	p := newProduction(t, producer.Config{SendTimeout: harness.Timeout})
	var ms []*message.Message
	for i := range 12 {
		ms = append(ms, produced("", strings.Repeat(string(rune('a'+i)), 1<<20)))
	}
	rs, err := p.producer.SendBatch(t.Context(), ms)
	if err != nil {
		t.Fatal(err)
	}
	ds := p.stored()[rs[0].Queue.ID]
	if len(ds) != len(ms) {
		t.Fatalf("got %d messages in the queue, want %d", len(ds), len(ms))
	}
	for i, r := range rs {
		if r.Queue != rs[0].Queue || r.Offset != int64(i) || ds[i].ID != r.MessageID || string(ds[i].Body) != string(ms[i].Body) {
			t.Fatalf("message %d: got %v", i, r)
		}
	}
}

func TestProducer_TopicAutoCreation(t *testing.T) {
	p := newProduction(t, producer.Config{})
	if r := p.send(produced("", "x")); r.Queue.Topic != producedTopic {
		t.Errorf("got %v", r.Queue)
	}
	leaves, err := producer.New(t.Context(), producer.Config{NameServers: p.cluster.NameServers, NoAutoCreate: true})
	if err != nil {
		t.Fatal(err)
	}
	defer leaves.Close(t.Context())
	if _, err := leaves.Send(t.Context(), &message.Message{Topic: "other"}); !errors.Is(err, producer.ErrTopicNotFound) {
		t.Errorf("switched off at the producer: got %v, want %v", err, producer.ErrTopicNotFound)
	}
	if _, err := leaves.Send(t.Context(), produced("", "x")); err != nil {
		t.Errorf("a topic that exists: got %v", err)
	}
}

func TestProducer_BrokerRefusesAutoCreation(t *testing.T) {
	p := newProduction(t, producer.Config{}, func(c *broker.Config) { c.NoAutoCreateTopics = true })
	_, err := p.producer.Send(t.Context(), produced("", "x"))
	var e *producer.Error
	if !errors.Is(err, producer.ErrTopicNotFound) || !errors.As(err, &e) || e.Retryable {
		t.Errorf("got %v, want %v", err, producer.ErrTopicNotFound)
	}
}

func TestProducer_Limits(t *testing.T) {
	p := newProduction(t, producer.Config{SendTimeout: harness.Timeout})
	full := &message.Message{
		Topic: producedTopic, Group: "g", Body: make([]byte, message.MaxBodyBytes),
		Properties: map[string]string{"p": strings.Repeat("x", message.MaxPropertiesBytes-4)},
	}
	if n := full.PropertiesBytes(); n != message.MaxPropertiesBytes {
		t.Fatalf("the test makes %d bytes of properties", n)
	}
	r := p.send(full)
	d := p.stored()[r.Queue.ID][0]
	if len(d.Body) != message.MaxBodyBytes || d.Properties["p"] != full.Properties["p"] {
		t.Errorf("got a body of %d bytes and a property of %d", len(d.Body), len(d.Properties["p"]))
	}
	full.Properties["p"] += "x"
	if _, err := p.producer.Send(t.Context(), full); !errors.Is(err, message.ErrPropertiesTooLarge) || !errors.Is(err, producer.ErrIllegalMessage) {
		t.Errorf("got %v, want %v", err, message.ErrPropertiesTooLarge)
	}
	full.Properties, full.Body = nil, append(full.Body, 0)
	if _, err := p.producer.Send(t.Context(), full); !errors.Is(err, message.ErrBodyTooLarge) || !errors.Is(err, producer.ErrIllegalMessage) {
		t.Errorf("got %v, want %v", err, message.ErrBodyTooLarge)
	}
}
