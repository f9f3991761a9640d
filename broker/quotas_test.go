package broker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
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

// selling is a cluster whose clock the test moves, and a client that speaks the
// wire protocol itself: it sends what no SDK would, in anybody's name.
type selling struct {
	*testing.T
	cluster *harness.Cluster
	admin   *admin.Admin
	client  *client.Client
	clock   atomic.Int64 // Unix milliseconds
	used    atomic.Int64 // percent of the disk
	sent    uint64
}

func newSelling(t *testing.T) *selling {
	t.Helper()
	s := &selling{T: t}
	s.clock.Store(1_700_000_000_000)
	s.cluster = harness.Start(t, func(c *broker.Config) {
		c.Now = func() time.Time { return time.UnixMilli(s.clock.Load()) }
		c.Retention.Interval = 2 * time.Millisecond
		c.Store.DiskUse = func(string) (int, int64, error) { return int(s.used.Load()), 1 << 20, nil }
	})
	s.connect()
	return s
}

// connect makes clients that know nothing of an earlier server.
func (s *selling) connect() {
	var err error
	if s.admin, err = admin.New(s.Context(), admin.Config{NameServers: s.cluster.NameServers}); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(s.admin.Close)
	if s.client, err = client.New(s.Context(), client.Config{NameServers: s.cluster.NameServers}); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(s.client.Close)
	if _, err := s.client.Cluster(s.Context()); err != nil {
		s.Fatal(err)
	}
}

func (s *selling) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *selling) topic(spec admin.TopicSpec) {
	s.Helper()
	spec.ReadQueues, spec.WriteQueues = 1, 1
	_, err := s.admin.CreateTopic(s.Context(), spec, admin.Target{})
	s.check(err)
}

func (s *selling) quota(scope protocol.QuotaScope, name string, messages, bytes int64) {
	s.Helper()
	_, err := s.admin.SetQuota(s.Context(), scope, name, admin.RatesPatch{MessagesPerSecond: &messages, BytesPerSecond: &bytes}, admin.Target{})
	s.check(err)
}

// sender is in whose name something is sent, and where to.
type sender struct{ topic, group, client string }

// send sends one batch of n messages.
func (s *selling) send(from sender, n int, change ...func(*message.Message)) error {
	s.Helper()
	b := batch.NewBuilder(from.topic, 0)
	for range n {
		s.sent++
		m := message.Message{ID: message.MakeID(1, s.sent), BornTime: time.UnixMilli(1), Body: make([]byte, 100)}
		for _, f := range change {
			f(&m)
		}
		b.Add(&m)
	}
	ctx, cancel := context.WithTimeout(s.Context(), harness.Timeout)
	defer cancel()
	resp, err := client.Call[protocol.SendResponse](ctx, s.client, "broker-a", protocol.ClassSend,
		&protocol.SendRequest{ClientID: from.client, Group: from.group, Batches: b.Finish()})
	switch {
	case err != nil:
		return err
	case resp.Results[0].Err != nil:
		return resp.Results[0].Err
	}
	return nil
}

func (s *selling) passes(from sender, n int) {
	s.Helper()
	if err := s.send(from, n); err != nil {
		s.Errorf("%d of %v: %v", n, from, err)
	}
}

// refuses wants a refusal that names the quota and says when to come again.
func (s *selling) refuses(from sender, n int, quota string, after time.Duration) {
	s.Helper()
	err := s.send(from, n)
	var refusal *protocol.Error
	if !errors.As(err, &refusal) || refusal.Code != protocol.FlowControl || refusal.RetryAfter() != after || !strings.Contains(refusal.Remark, quota) {
		s.Errorf("%d of %v: got %v, %+v; want FlowControl by %q and %v", n, from, err, refusal, quota, after)
	}
}

func (s *selling) messages(topic string) (n int64) {
	s.Helper()
	d, err := s.admin.DescribeTopic(s.Context(), topic, admin.Target{})
	s.check(err)
	for _, q := range d.Brokers[0].Queues {
		n += q.End - q.Min
	}
	return n
}

func TestQuotas_OfTopicGroupAndClient(t *testing.T) {
	s := newSelling(t)
	s.topic(admin.TopicSpec{Name: "orders", Quota: protocol.Rates{MessagesPerSecond: 10}})
	s.topic(admin.TopicSpec{Name: "bills"})
	s.quota(protocol.QuotaOfGroup, "g", 6, 0)
	s.quota(protocol.QuotaOfClient, "", 4, 0)
	s.quota(protocol.QuotaOfClient, "big", 100, 0)

	s.passes(sender{"orders", "g", "big"}, 6)
	s.refuses(sender{"orders", "g", "big"}, 3, `the quota of producer group "g" is used up: 6 messages a second`, 500*time.Millisecond)
	s.passes(sender{"orders", "h", "small"}, 3)
	s.refuses(sender{"orders", "h", "small"}, 2, `client "small", which has none of its own, is used up: 4 messages a second`, 250*time.Millisecond)
	s.passes(sender{"orders", "h", "big"}, 1)
	s.refuses(sender{"orders", "h", "big"}, 1, `the quota of topic "orders" is used up: 10 messages a second`, 100*time.Millisecond)
	s.passes(sender{"bills", "h", "other"}, 4)
	s.refuses(sender{"bills", "h", "other"}, 100, `client "other"`, time.Second)
	if got := s.messages("orders"); got != 10 {
		t.Errorf("%d messages are stored, want 10", got)
	}
	s.clock.Add(100)
	s.passes(sender{"orders", "h", "big"}, 1)
	s.refuses(sender{"orders", "h", "big"}, 1, "topic", 100*time.Millisecond)
	s.clock.Add(10_000)
	s.passes(sender{"bills", "", ""}, 4)
	s.refuses(sender{"bills", "", ""}, 1, `client ""`, 250*time.Millisecond)
}

func TestQuotas_OfBytes(t *testing.T) {
	s := newSelling(t)
	s.topic(admin.TopicSpec{Name: "t", Quota: protocol.Rates{BytesPerSecond: 1000}})
	s.passes(sender{topic: "t"}, 50) // more than a second's worth
	s.refuses(sender{topic: "t"}, 1, "1000 bytes a second", time.Second)
	s.clock.Add(3000)
	s.refuses(sender{topic: "t"}, 1, "1000 bytes a second", time.Second)
	s.clock.Add(60_000)
	s.passes(sender{topic: "t"}, 1)
}

// A change holds from its answer on, and no quota is no bound.
func TestQuotas_Change(t *testing.T) {
	s := newSelling(t)
	s.topic(admin.TopicSpec{Name: "t"})
	from := sender{"t", "g", "c"}
	s.passes(from, 1000)
	s.quota(protocol.QuotaOfGroup, "g", 2, 0)
	s.passes(from, 2)
	s.refuses(from, 1, "group", 500*time.Millisecond)
	s.quota(protocol.QuotaOfGroup, "g", 4, 0)
	s.passes(from, 4)
	s.refuses(from, 1, "group", 250*time.Millisecond)
	_, err := s.admin.DeleteQuota(t.Context(), protocol.QuotaOfGroup, "g", admin.Target{})
	s.check(err)
	s.passes(from, 1000)
	_, err = s.admin.AlterTopic(t.Context(), "t", admin.TopicPatch{Quota: admin.RatesPatch{MessagesPerSecond: new(int64(3))}}, admin.Target{})
	s.check(err)
	s.passes(from, 3)
	s.refuses(from, 1, `topic "t"`, 334*time.Millisecond)
}

// What is refused for another reason counts nothing: an illegal batch, and one
// that the store does not take.
func TestQuotas_RefusedBatchesCountNothing(t *testing.T) {
	s := newSelling(t)
	s.topic(admin.TopicSpec{Name: "t", Type: message.FIFO, Quota: protocol.Rates{MessagesPerSecond: 2}})
	grouped := func(m *message.Message) { m.Group = "g" }
	for range 5 {
		if err := s.send(sender{topic: "t"}, 2); !errors.Is(err, protocol.IllegalMessage) {
			t.Fatalf("got %v, want an illegal message", err)
		}
	}
	s.used.Store(95)
	harness.Eventually(t, "the full disk is seen", func() bool { return s.cluster.Broker().Status().Refusing != nil })
	for range 3 {
		if err := s.send(sender{topic: "t"}, 2, grouped); !errors.Is(err, protocol.Unavailable) {
			t.Errorf("got %v, want Unavailable", err)
		}
	}
	s.used.Store(10)
	harness.Eventually(t, "there is room again", func() bool { return s.cluster.Broker().Status().Refusing == nil })
	s.check(s.send(sender{topic: "t"}, 2, grouped))
	if err := s.send(sender{topic: "t"}, 1, grouped); !errors.Is(err, protocol.FlowControl) {
		t.Errorf("got %v, want the quota to be used up now", err)
	}
}

// What is stored already is answered as before, whatever the quota and the type
// say by now.
func TestQuotas_DuplicatesCountNothing(t *testing.T) {
	s := newSelling(t)
	s.topic(admin.TopicSpec{Name: "t", Quota: protocol.Rates{MessagesPerSecond: 1}})
	keyed := func(m *message.Message) { m.DedupKey = "k" }
	for range 3 {
		s.check(s.send(sender{topic: "t"}, 1, keyed))
	}
	s.refuses(sender{topic: "t"}, 1, "topic", time.Second)
	_, err := s.admin.AlterTopic(t.Context(), "t", admin.TopicPatch{Type: new(message.FIFO)}, admin.Target{})
	s.check(err)
	s.check(s.send(sender{topic: "t"}, 1, keyed))
	if got := s.messages("t"); got != 1 {
		t.Errorf("%d messages, want 1", got)
	}
}

func TestQuotas_ManyClients(t *testing.T) {
	s := newSelling(t)
	s.topic(admin.TopicSpec{Name: "t"})
	s.quota(protocol.QuotaOfClient, "", 1, 0)
	for i := range 300 {
		from := sender{"t", "g", fmt.Sprint("client-", i)}
		s.passes(from, 1)
		s.refuses(from, 1, from.client, time.Second)
	}
	if got := s.messages("t"); got != 300 {
		t.Errorf("%d messages, want one of each client", got)
	}
}

// Quotas are there after a restart, also when the views are built anew from the
// log. The buckets are full then.
func TestQuotas_SurviveARestart(t *testing.T) {
	s := newSelling(t)
	s.topic(admin.TopicSpec{Name: "t", Type: message.Normal, Quota: protocol.Rates{MessagesPerSecond: 5}})
	s.quota(protocol.QuotaOfGroup, "g", 2, 0)
	s.quota(protocol.QuotaOfGroup, "gone", 1, 0)
	s.quota(protocol.QuotaOfClient, "", 3, 1<<20)
	_, err := s.admin.DeleteQuota(t.Context(), protocol.QuotaOfGroup, "gone", admin.Target{})
	s.check(err)
	before, err := s.admin.ListQuotas(t.Context(), admin.Target{})
	s.check(err)
	for _, harm := range []func(){
		func() {},
		func() { s.check(os.Remove(filepath.Join(s.cluster.Config.DataDir, "views.db"))) },
	} {
		s.cluster.Stop()
		harm()
		s.cluster.Start()
		s.connect()
		after, err := s.admin.ListQuotas(t.Context(), admin.Target{})
		s.check(err)
		if !slices.Equal(before, after) || len(after) != 2 {
			t.Errorf("got %v, want %v", after, before)
		}
		s.passes(sender{"t", "g", "a"}, 2)
		s.refuses(sender{"t", "g", "a"}, 1, `group "g"`, 500*time.Millisecond)
		s.passes(sender{"t", "gone", "b"}, 3)
		s.refuses(sender{"t", "gone", "b"}, 1, `client "b"`, 334*time.Millisecond)
		if err := s.send(sender{topic: "t"}, 1, func(m *message.Message) { m.Group = "g" }); !errors.Is(err, protocol.IllegalMessage) {
			t.Errorf("the topic's type: got %v", err)
		}
	}
}

func TestQuotas_BadInput(t *testing.T) {
	s := newSelling(t)
	put := func(q protocol.QuotaConfig) error {
		_, err := client.Call[protocol.Empty](t.Context(), s.client, "broker-a", protocol.ClassAdmin, &protocol.PutQuotaRequest{Quota: q})
		return err
	}
	one := protocol.Rates{MessagesPerSecond: 1}
	for text, q := range map[string]protocol.QuotaConfig{
		`scope "topic"`: {Scope: "topic", Name: "t", Rates: one},
		`scope ""`:      {Name: "t", Rates: one},
		"character":     {Scope: protocol.QuotaOfGroup, Name: "a b", Rates: one},
		"printable":     {Scope: protocol.QuotaOfClient, Name: "a\nb", Rates: one},
		"-1 messages":   {Scope: protocol.QuotaOfGroup, Name: "a", Rates: protocol.Rates{MessagesPerSecond: -1}},
		"-5 bytes":      {Scope: protocol.QuotaOfClient, Name: "a", Rates: protocol.Rates{BytesPerSecond: -5}},
	} {
		if err := put(q); !errors.Is(err, protocol.InvalidArgument) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: got %v", q, err)
		}
	}
	if err := put(protocol.QuotaConfig{Scope: protocol.QuotaOfGroup, Name: "nobody"}); !errors.Is(err, protocol.NotFound) {
		t.Errorf("removing what is not there: got %v", err)
	}
	if _, err := s.admin.DeleteQuota(t.Context(), protocol.QuotaOfGroup, "nobody", admin.Target{}); !errors.Is(err, protocol.NotFound) {
		t.Errorf("got %v", err)
	}
	if list, err := s.admin.ListQuotas(t.Context(), admin.Target{}); err != nil || len(list) != 0 {
		t.Errorf("got %v, %v", list, err)
	}
	if err := s.send(sender{"t", strings.Repeat("g", 121), "c"}, 1); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("a group of 121 bytes: got %v", err)
	}
}

// The broker holds every client to a topic's type, from the moment that it is
// changed; auto-created topics take everything.
func TestTopicTypes(t *testing.T) {
	s := newSelling(t)
	s.topic(admin.TopicSpec{Name: "t", Type: message.FIFO})
	grouped, urgent := func(m *message.Message) { m.Group = "g" }, func(m *message.Message) { m.Priority = 9 }
	illegal := func(err error, text string) {
		t.Helper()
		if !errors.Is(err, protocol.IllegalMessage) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
	s.check(s.send(sender{topic: "t"}, 3, grouped))
	illegal(s.send(sender{topic: "t"}, 1), `topic "t" is of type FIFO; a message without group`)
	_, err := s.admin.AlterTopic(t.Context(), "t", admin.TopicPatch{Type: new(message.Priority)}, admin.Target{})
	s.check(err)
	s.check(s.send(sender{topic: "t"}, 1, urgent))
	s.check(s.send(sender{topic: "t"}, 1))
	illegal(s.send(sender{topic: "t"}, 1, grouped), `topic "t" is of type PRIORITY; a message with a group`)
	if got := s.messages("t"); got != 5 {
		t.Errorf("%d messages, want 5", got)
	}
	_, err = s.client.EnsureTopic(t.Context(), "auto")
	s.check(err)
	for _, change := range []func(*message.Message){grouped, urgent, func(*message.Message) {}} {
		s.check(s.send(sender{topic: "auto"}, 1, change))
	}
	_, err = s.admin.CreateTopic(t.Context(), admin.TopicSpec{Name: "u", Type: "SPECIAL"}, admin.Target{})
	if !errors.Is(err, protocol.InvalidArgument) || !strings.Contains(err.Error(), "SPECIAL") {
		t.Errorf("an unknown type: got %v", err)
	}
}
