package broker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// repeating is a cluster, and a client that says everything twice.
type repeating struct {
	*testing.T
	cluster *harness.Cluster
	client  *client.Client
	admin   *admin.Admin
}

func newRepeating(t *testing.T, change ...func(*broker.Config)) *repeating {
	t.Helper()
	r := &repeating{T: t, cluster: harness.Start(t, change...)}
	r.connect()
	if _, err := r.admin.CreateTopic(t.Context(), admin.TopicSpec{Name: "t", ReadQueues: 2, WriteQueues: 2}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *repeating) connect() {
	r.Helper()
	var err error
	if r.admin, err = admin.New(r.Context(), admin.Config{NameServers: r.cluster.NameServers}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(r.admin.Close)
	if r.client, err = client.New(r.Context(), client.Config{NameServers: r.cluster.NameServers}); err != nil {
		r.Fatal(err)
	}
	r.Cleanup(r.client.Close)
	harness.Eventually(r, "the broker is found", func() bool {
		_, err := r.client.Cluster(r.Context())
		return err == nil
	})
}

func (r *repeating) restart() {
	r.Helper()
	r.cluster.Restart()
	r.connect()
}

// batchOf has count messages.
func batchOf(l batch.Lead, count int, change ...func(*message.Message)) []byte {
	l.Topic = "t"
	b := batch.NewBuilder("t", 0)
	b.Begin(&l)
	for i := range count {
		m := message.Message{ID: message.MakeID(1, l.Sequence.First+uint64(i)), BornTime: time.UnixMilli(1)}
		for _, f := range change {
			f(&m)
		}
		b.Add(&m)
	}
	return b.Finish()
}

func (r *repeating) send(batches ...[]byte) []protocol.SendResult {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), harness.Timeout)
	defer cancel()
	req := &protocol.SendRequest{ClientID: "c", Group: "g"}
	for _, b := range batches {
		req.Batches = append(req.Batches, b...)
	}
	resp, err := client.Call[protocol.SendResponse](ctx, r.client, "broker-a", protocol.ClassSend, req)
	if err != nil {
		r.Fatal(err)
	}
	for _, result := range resp.Results {
		if result.Err != nil {
			r.Fatal(result.Err)
		}
	}
	return resp.Results
}

// again wants the answers of a first time, marked as duplicates in a queue.
func (r *repeating) again(queue int, first []protocol.SendResult, batches ...[]byte) {
	r.Helper()
	for i, got := range r.send(batches...) {
		want := first[i]
		want.Duplicate, want.Queue = true, queue
		if got != want {
			r.Errorf("batch %d: got %+v, want %+v", i, got, want)
		}
	}
}

func (r *repeating) messages() (n int64) {
	r.Helper()
	d, err := r.admin.DescribeTopic(r.Context(), "t", admin.Target{})
	if err != nil {
		r.Fatal(err)
	}
	for _, q := range d.Brokers[0].Queues {
		n += q.End
	}
	return n
}

func TestIdempotence_OverTheWire(t *testing.T) {
	r := newRepeating(t)
	s := batch.Sequence{Producer: 5, Incarnation: 6, Begin: true}
	next := s
	next.First = 3
	batches := [][]byte{batchOf(batch.Lead{Queue: 1, Sequence: s}, 3), batchOf(batch.Lead{Queue: 1, Sequence: next}, 2)}
	first := r.send(batches...)
	if first[0].Duplicate || first[1].BaseOffset != 3 {
		t.Fatalf("got %+v", first)
	}
	// Twice in one request: the second waits for the first.
	other := batchOf(batch.Lead{Queue: 0, Sequence: s}, 4)
	both := r.send(other, other)
	if both[0].Duplicate || !both[1].Duplicate || both[0].BaseOffset != both[1].BaseOffset {
		t.Errorf("got %+v", both)
	}
	for range 2 {
		r.again(1, first, batches...)
		r.again(0, both[:1], other)
		r.restart()
	}
	if n := r.messages(); n != 9 {
		t.Errorf("got %d messages, want 9", n)
	}
}

// What is held back is not held twice.
func TestIdempotence_HeldBack(t *testing.T) {
	r := newRepeating(t)
	s := batch.Sequence{Producer: 5, Incarnation: 6, Begin: true}
	later := func(m *message.Message) { m.Delay = time.Hour }
	delayed := batchOf(batch.Lead{Purpose: batch.ToTimer, Sequence: s}, 3, later)
	s.First = 3
	half := batchOf(batch.Lead{Purpose: batch.ToTransaction, Sequence: s}, 2)
	s.First = 1
	s.Again = true
	meanwhile := batchOf(batch.Lead{Purpose: batch.ToTimer, Sequence: s}, 1, later)
	first := r.send(delayed, half, meanwhile)
	if got := first[2]; got.BaseOffset != -2 || got.Index != first[0].Index || !got.Duplicate {
		t.Errorf("a part of what is on its way: got %+v", got)
	}
	first = first[:2]
	for _, result := range first {
		if result.BaseOffset != -1 || result.Index == 0 || result.Duplicate {
			t.Fatalf("got %+v", result)
		}
	}
	part := first[:1:1]
	s.First, s.Again = 1, true
	for range 2 {
		r.again(0, first, delayed, half)
		part[0].BaseOffset = -2
		r.again(0, part, batchOf(batch.Lead{Purpose: batch.ToTimer, Sequence: s}, 1, later))
		part[0].BaseOffset = -1
		r.restart()
	}
	list, err := client.Call[protocol.ListDelayedResponse](t.Context(), r.client, "broker-a", protocol.ClassAdmin, &protocol.ListDelayedRequest{Max: 10})
	if err != nil || list.Pending != 3 {
		t.Errorf("got %+v, %v; want 3 that wait", list, err)
	}
	halves, err := client.Call[protocol.ListTransactionsResponse](t.Context(), r.client, "broker-a", protocol.ClassAdmin, &protocol.ListTransactionsRequest{Max: 10})
	if err != nil || halves.Pending != 2 {
		t.Errorf("got %+v, %v; want 2 that wait", halves, err)
	}
}

// A duplicate uses up nothing of a quota.
func TestIdempotence_DuplicatesAreFree(t *testing.T) {
	r := newRepeating(t, func(c *broker.Config) { c.Now = func() time.Time { return time.UnixMilli(1_700_000_000_000) } })
	one, all := int64(1), int64(1<<20)
	_, err := r.admin.SetQuota(t.Context(), protocol.QuotaOfClient, "c", admin.RatesPatch{MessagesPerSecond: &one, BytesPerSecond: &all}, admin.Target{})
	if err != nil {
		t.Fatal(err)
	}
	b := batchOf(batch.Lead{Sequence: batch.Sequence{Producer: 5, Incarnation: 6, Begin: true}}, 1)
	first := r.send(b)
	for range 5 {
		r.again(0, first, b)
	}
}

func TestIdempotence_ConfigIsChecked(t *testing.T) {
	_, err := broker.Open(t.Context(), broker.Config{DataDir: t.TempDir(), Idempotence: broker.Idempotence{ProducerExpiry: time.Second, MaxDedupKeys: -1}}, nil)
	if err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
