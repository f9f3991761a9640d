package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/filter"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// site is a cluster with a topic "t" of two queues, and all that was sent to it.
type site struct {
	*testing.T
	cluster  *harness.Cluster
	producer *producer.Producer
	admin    *admin.Admin
	sent     [2][]message.Message
}

func newSite(t *testing.T, change ...func(*broker.Config)) *site {
	t.Helper()
	s := &site{T: t, cluster: harness.Start(t, change...)}
	var err error
	if s.producer, err = producer.New(t.Context(), producer.Config{NameServers: s.cluster.NameServers, SendTimeout: harness.Timeout}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.check(s.producer.Close(context.WithoutCancel(t.Context()))) })
	if s.admin, err = admin.New(t.Context(), admin.Config{NameServers: s.cluster.NameServers}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.admin.Close)
	_, err = s.admin.CreateTopic(t.Context(), admin.TopicSpec{Name: "t", ReadQueues: 2, WriteQueues: 2}, admin.Target{})
	s.check(err)
	return s
}

func (s *site) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// send sends messages to a queue, one behind another, and waits for them.
func (s *site) send(queue int, ms ...message.Message) {
	s.Helper()
	errs := make(chan error, len(ms))
	for i := range ms {
		ms[i].Topic = "t"
		ms[i].Body = fmt.Appendf(nil, "%d/%d", queue, len(s.sent[queue]))
		s.sent[queue] = append(s.sent[queue], ms[i])
		m := ms[i]
		s.producer.SendAsync(s.Context(), &m, func(_ producer.Receipt, err error) { errs <- err },
			producer.ToQueue(message.Queue{Broker: "broker-a", ID: queue}))
	}
	for range ms {
		s.check(<-errs)
	}
}

// wanted are the bodies of the messages of a queue that a subscription is for.
func (s *site) wanted(queue int, sub Subscription) (bodies []string) {
	f, err := sub.filter()
	s.check(err)
	for _, m := range s.sent[queue] {
		if f == nil || f.match(&item{Delivery: Delivery{Stored: message.Stored{Message: m}}}) {
			bodies = append(bodies, string(m.Body))
		}
	}
	return bodies
}

// gathering is what a subscription got, by queue.
type gathering struct {
	mu  sync.Mutex
	got [2][]string
}

func (g *gathering) handle(_ context.Context, d *Delivery) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.got[d.Queue.ID] = append(g.got[d.Queue.ID], string(d.Body))
	return nil
}

func (g *gathering) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.got[0]) + len(g.got[1])
}

func (s *site) config(group string, sub Subscription) Config {
	sub.Topic = "t"
	return Config{NameServers: s.cluster.NameServers, Group: group, Subscriptions: []Subscription{sub}, From: Earliest(),
		Ordered: true, CommitInterval: 10 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
}

// push runs a member until stop, and waits until it has its queues.
func (s *site) push(cfg Config, h Handler) (stop func()) {
	s.Helper()
	p, err := NewPush(s.Context(), cfg, h)
	s.check(err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // stop waits for it
	stop = sync.OnceFunc(func() {
		cancel()
		s.check(<-ran)
	})
	s.Cleanup(stop)
	receive(s.T, "the queues", p.Ready())
	return stop
}

// lag is how many messages a group has to consume, by all that the broker knows; -1
// while it cannot be asked, as after a restart.
func (s *site) lag(group string) int64 {
	s.Helper()
	g, err := s.admin.DescribeGroup(s.Context(), group, admin.Target{})
	if protocol.CodeOf(err).Retryable() {
		return -1
	}
	s.check(err)
	return g.Lag()
}

// someMessages have tags and properties at random, most of them in runs, as they
// come when a batch has one tag.
func someMessages(r *rand.Rand) (ms []message.Message) {
	for range 1 + r.IntN(60) {
		m := message.Message{Tag: []string{"", "a", "b", "c"}[r.IntN(4)], Keys: [][]string{nil, {"k"}, {"k", "l"}}[r.IntN(3)]}
		for _, name := range []string{"n", "region"} {
			if r.IntN(3) > 0 {
				if m.Properties == nil {
					m.Properties = map[string]string{}
				}
				m.Properties[name] = []string{"1", "2.5", "eu", "us"}[r.IntN(4)]
			}
		}
		for range 1 + r.IntN(8)*r.IntN(2) {
			ms = append(ms, m)
		}
	}
	return ms
}

var someFilters = []Subscription{
	{}, {Tag: "a"}, {Tag: "a || c"}, {Tag: "none"}, {Tag: "*"},
	{SQL: "n > 1"}, {SQL: "n = 1 OR TAGS = 'b'"}, {SQL: "region IN ('eu', 'us') AND NOT n BETWEEN 2 AND 3"},
	{SQL: "KEYS CONTAINS 'l' AND region IS NULL"}, {SQL: "n IS NOT NULL AND n = 7"},
}

// Any mix of filters and messages: each group, and a reader of its own, gets exactly
// what it wants, in order and once, over restarts of the server and of members, from
// segments that are sealed; and the group's offset is at the end then.
func TestFiltered_EachGetsWhatItWants(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			s := newSite(t, func(c *broker.Config) { c.Store.FirstSegmentBytes, c.Store.SegmentBytes = 64<<10, 64<<10 })
			filters := slices.Clone(someFilters)
			r.Shuffle(len(filters), func(i, j int) { filters[i], filters[j] = filters[j], filters[i] })
			filters = filters[:4]
			got := make([]gathering, len(filters))
			for round := range 3 {
				stops := make([]func(), len(filters))
				for range 4 {
					s.send(r.IntN(2), someMessages(r)...)
				}
				for i, f := range filters {
					stops[i] = s.push(s.config(fmt.Sprint("g", i), f), got[i].handle)
				}
				s.send(r.IntN(2), someMessages(r)...)
				if round == 1 {
					s.cluster.Restart()
				}
				s.send(r.IntN(2), someMessages(r)...)
				for i, f := range filters {
					s.gets(fmt.Sprint("g", i), f, &got[i])
					stops[i]()
				}
			}
			for _, f := range filters {
				s.reads(f)
			}
		})
	}
}

// gets waits until a group has all that it wants, and has committed all there is.
func (s *site) gets(group string, sub Subscription, got *gathering) {
	s.Helper()
	var want [2][]string
	for q := range want {
		want[q] = s.wanted(q, sub)
	}
	harness.Eventually(s, fmt.Sprintf("%+v: %d messages", sub, len(want[0])+len(want[1])), func() bool { return got.count() >= len(want[0])+len(want[1]) })
	harness.Eventually(s, fmt.Sprintf("%+v: no lag", sub), func() bool { return s.lag(group) == 0 })
	got.mu.Lock()
	defer got.mu.Unlock()
	for q := range want {
		if !slices.Equal(got.got[q], want[q]) {
			s.Errorf("%+v, queue %d: got %v, want %v", sub, q, got.got[q], want[q])
		}
	}
}

// reads has a consumer without a group read what is there.
func (s *site) reads(sub Subscription) {
	s.Helper()
	sub.Topic = "t"
	p := newTestPull(s.T, PullConfig{NameServers: s.cluster.NameServers, Subscriptions: []Subscription{sub}, From: Earliest()})
	var got [2][]string
	for d, err := range p.MessagesToEnd(s.Context()) {
		s.check(err)
		got[d.Queue.ID] = append(got[d.Queue.ID], string(d.Body))
	}
	for q := range got {
		if want := s.wanted(q, sub); !slices.Equal(got[q], want) {
			s.Errorf("%+v, queue %d: a reader got %v, want %v", sub, q, got[q], want)
		}
	}
}

// What was not handled is not passed over, whatever was filtered out around it.
func TestFiltered_CommitsStopAtWhatIsNotDone(t *testing.T) {
	s := newSite(t)
	tagged := func(tags string) (ms []message.Message) {
		for _, tag := range tags {
			ms = append(ms, message.Message{Tag: string(tag)})
		}
		return ms
	}
	s.send(0, tagged("bbbabbbabb")...)
	block, started := make(chan struct{}), make(chan string, 10)
	cfg := s.config("g", Subscription{Tag: "a"})
	cfg.ShutdownTimeout, cfg.RebalanceTimeout = time.Hour, time.Hour
	s.push(cfg, func(ctx context.Context, d *Delivery) error {
		started <- string(d.Body)
		select {
		case <-block:
		case <-ctx.Done():
		}
		return nil
	})
	if got := receive(t, "a message", started); got != "0/3" {
		t.Errorf("got %s first", got)
	}
	harness.Eventually(t, "a lag of the two that match", func() bool { return s.lag("g") == 2 })
	close(block)
	harness.Eventually(t, "no lag", func() bool { return s.lag("g") == 0 })
	s.send(0, tagged("bbbb")...) // nobody wants these
	harness.Eventually(t, "no lag", func() bool { return s.lag("g") == 0 })
	if got := receive(t, "a message", started); got != "0/7" || len(started) > 0 {
		t.Errorf("got %s, and %d more", got, len(started))
	}
}

// refusalOf runs a member until its group refuses it.
func (s *site) refusalOf(cfg Config) error {
	s.Helper()
	p, err := NewPush(s.Context(), cfg, func(context.Context, *Delivery) error { return errors.New("it is handed something") })
	s.check(err)
	ran := make(chan error, 1)
	go func() { ran <- p.Run(s.Context()) }() // received below
	return receive(s.T, "the refusal", ran)
}

func TestSubscriptions_ADifferentOneIsRefused(t *testing.T) {
	s := newSite(t)
	var got gathering
	first := s.config("g", Subscription{Tag: "a"})
	first.ClientID = "first"
	stop := s.push(first, got.handle)
	second := s.config("g", Subscription{SQL: "n = 1"})
	second.ClientID = "second"
	err := s.refusalOf(second)
	if !errors.Is(err, ErrRefused) || !errors.Is(err, protocol.Conflict) {
		t.Fatalf("got %v", err)
	}
	for _, part := range []string{`"first"`, `"second"`, "t (tag a)", "t (sql n = 1)"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s is not in %q", part, err)
		}
	}
	s.send(0, message.Message{Tag: "a"}, message.Message{Tag: "b", Properties: map[string]string{"n": "1"}})
	s.gets("g", Subscription{Tag: "a"}, &got)
	stop()
	var now gathering
	s.push(second, now.handle) // the old ones are gone
	s.send(1, message.Message{Properties: map[string]string{"n": "1"}})
	harness.Eventually(t, "the new one's message", func() bool { // and perhaps the one that the old one did not want, and had not passed yet
		now.mu.Lock()
		defer now.mu.Unlock()
		return slices.Equal(now.got[1], []string{"1/0"})
	})
}

func TestSubscriptions_APullConsumerIsTold(t *testing.T) {
	s := newSite(t)
	s.push(s.config("g", Subscription{}), func(context.Context, *Delivery) error { return nil })
	cfg := PullConfig{NameServers: s.cluster.NameServers, Group: "g", Subscriptions: []Subscription{{Topic: "t", Tag: "a"}}}
	loops := map[string]func(p *Pull) (errs []error){
		"Messages": func(p *Pull) (errs []error) {
			for _, err := range p.Messages(t.Context()) {
				errs = append(errs, err)
			}
			return errs
		},
		"MessagesToEnd": func(p *Pull) (errs []error) {
			for _, err := range p.MessagesToEnd(t.Context()) {
				errs = append(errs, err)
			}
			return errs
		},
		"Poll": func(p *Pull) []error {
			_, err := p.Poll(t.Context(), 1)
			return []error{err}
		},
	}
	for _, name := range slices.Sorted(maps.Keys(loops)) {
		p := newTestPull(t, cfg)
		if errs := loops[name](p); len(errs) != 1 || !errors.Is(errs[0], ErrRefused) {
			t.Errorf("%s: got %v", name, errs)
		}
		receive(t, name+": the end", p.Ended())
		if _, err := p.Poll(t.Context(), 1); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: afterwards Poll says %v", name, err)
		}
	}
}

// With per-member subscriptions each gets its topics, and nothing is lost.
func TestSubscriptions_PerMember(t *testing.T) {
	s := newSite(t)
	_, err := s.admin.CreateTopic(t.Context(), admin.TopicSpec{Name: "u", ReadQueues: 2, WriteQueues: 2}, admin.Target{})
	s.check(err)
	_, err = s.admin.CreateGroup(t.Context(), protocol.GroupConfig{Name: "g", ConsumeEnabled: true, PerMemberSubscriptions: true}, admin.Target{})
	s.check(err)
	var both, one sync.Map
	into := func(m *sync.Map) Handler {
		return func(_ context.Context, d *Delivery) error {
			if _, twice := m.LoadOrStore(d.Topic+string(d.Body), true); twice {
				t.Errorf("%s of %s comes twice", d.Body, d.Topic)
			}
			return nil
		}
	}
	wide := s.config("g", Subscription{Tag: "a"})
	wide.Subscriptions = append(wide.Subscriptions, Subscription{Topic: "u"})
	s.push(wide, into(&both))
	s.push(s.config("g", Subscription{Tag: "a"}), into(&one))
	if err := s.refusalOf(s.config("g", Subscription{Tag: "b"})); !errors.Is(err, ErrRefused) {
		t.Errorf("another filter of a common topic: got %v", err)
	}
	for q := range 2 {
		s.send(q, message.Message{Tag: "a"}, message.Message{Tag: "b"})
		_, err := s.producer.Send(t.Context(), &message.Message{Topic: "u", Body: fmt.Append(nil, q)})
		s.check(err)
	}
	size := func(m *sync.Map) (n int) {
		m.Range(func(any, any) bool { n++; return true })
		return n
	}
	harness.Eventually(t, "all messages", func() bool { return size(&both)+size(&one) == 4 })
	if _, stray := one.Load("u0"); stray || size(&both) < 2 {
		t.Error("a member gets a topic that it did not subscribe")
	}
}

// Two consumers with one id: the second is refused, the first is not disturbed.
func TestClientID_TheSecondIsRefused(t *testing.T) {
	s := newSite(t, func(c *broker.Config) { c.SessionTimeout = 3 * time.Second })
	var got gathering
	cfg := s.config("g", Subscription{})
	cfg.ClientID = "twin"
	stop := s.push(cfg, got.handle)
	s.send(0, make([]message.Message, 20)...)
	err := s.refusalOf(cfg)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), `"twin" is in use`) {
		t.Fatalf("got %v", err)
	}
	s.send(1, make([]message.Message, 20)...)
	s.gets("g", Subscription{}, &got)
	stop()
	var told errs
	cfg.OnError = told.add
	s.push(cfg, got.handle)
	s.send(1, make([]message.Message, 20)...)
	s.gets("g", Subscription{}, &got)
	if n := told.count(protocol.Conflict); n != 0 {
		t.Errorf("it has waited for the first one, which has left: told so %d times", n)
	}
}

// One that starts again after it was killed waits until its former session is over.
func TestClientID_IsFreeWhenItsSessionIsOver(t *testing.T) {
	s := newSite(t, func(c *broker.Config) { c.SessionTimeout = 3 * time.Second })
	conn, err := transport.Dial(s.cluster.NameServers[0], transport.Options{Name: "killed"})
	s.check(err)
	t.Cleanup(conn.Close)
	_, err = transport.Call[protocol.HeartbeatResponse](t.Context(), conn, protocol.BrokerSubject("broker-a", 0, protocol.ClassClient),
		&protocol.HeartbeatRequest{ClientID: "twin", Inbox: "rmq.c.killed", Incarnation: 1, Consumers: []protocol.Subscription{{Group: "g", Topics: []string{"t"}}}})
	s.check(err)
	var got gathering
	var told errs
	cfg := s.config("g", Subscription{})
	cfg.ClientID, cfg.OnError = "twin", told.add
	s.push(cfg, got.handle)
	s.send(0, message.Message{})
	s.gets("g", Subscription{}, &got)
	if n := told.count(protocol.Conflict); n != 1 {
		t.Errorf("%d errors tell that it waits", n)
	}
}

// errs gathers what OnError is told.
type errs struct {
	mu   sync.Mutex
	list []error
}

func (e *errs) add(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, err)
}

func (e *errs) count(target error) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, err := range e.list {
		if errors.Is(err, target) {
			n++
		}
	}
	return n
}

func TestFilter_ErrorsNameTheColumn(t *testing.T) {
	_, err := NewPush(t.Context(), Config{NameServers: []string{"127.0.0.1:1"}, Group: "g", Subscriptions: []Subscription{{Topic: "t", SQL: "a >"}}}, func(context.Context, *Delivery) error { return nil })
	if !errors.Is(err, filter.ErrFilter) || !strings.Contains(err.Error(), "column 4") {
		t.Errorf("got %v", err)
	}
}
