package producer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

// serve runs a consumer of topic t until the test ends, and returns when it reads.
func serve(t testing.TB, c *harness.Cluster, handler consumer.Handler) {
	t.Helper()
	push, err := consumer.NewPush(t.Context(), consumer.Config{
		NameServers: c.NameServers, Group: "servers", From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "t"}},
	}, handler)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := push.Run(ctx); err != nil {
			t.Errorf("consumer: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	<-push.Ready()
}

// withTopic is a cluster that has topic t.
func withTopic(t testing.TB) *harness.Cluster {
	t.Helper()
	c := harness.Start(t)
	if _, err := producerOf(t, c, nil).Send(t.Context(), msg("creates the topic")); err != nil {
		t.Fatal(err)
	}
	return c
}

// ignoring leaves out what withTopic has sent.
func ignoring(handler consumer.Handler) consumer.Handler {
	return func(ctx context.Context, d *consumer.Delivery) error {
		if d.CorrelationID == "" {
			return nil
		}
		return handler(ctx, d)
	}
}

func TestRequest(t *testing.T) {
	c := withTopic(t)
	p := producerOf(t, c, nil)
	serve(t, c, ignoring(func(ctx context.Context, d *consumer.Delivery) error {
		if d.ReplyTo != p.client.ID() || d.ReplyBy.Before(time.Now()) || d.Tag != "q" {
			t.Errorf("the request is %+v", d.Stored)
		}
		m := &message.Message{Topic: "whatever", Tag: "a", Keys: []string{"k"}, Properties: map[string]string{"p": "v"}, Body: append([]byte("re: "), d.Body...)}
		return d.Reply(ctx, m)
	}))
	m := &message.Message{Topic: "t", Tag: "q", Body: []byte("sync")}
	r, err := p.Request(t.Context(), m)
	if err != nil || string(r.Body) != "re: sync" || r.Topic != "t" || r.Tag != "a" || r.Keys[0] != "k" || r.Properties["p"] != "v" ||
		r.ID.IsZero() || r.QueueOffset != -1 || r.Queue != (message.Queue{}) {
		t.Fatalf("got %+v, %v", r, err)
	}
	if m.CorrelationID != "" || m.ReplyTo != "" || !m.ReplyBy.IsZero() {
		t.Errorf("the caller's message was changed: %+v", m)
	}
	const n = 50
	replies := make(chan string, n)
	for i := range n {
		ctx, cancel := context.WithCancel(t.Context())
		p.RequestAsync(ctx, &message.Message{Topic: "t", Tag: "q", Body: []byte(fmt.Sprint(i))}, func(r *message.Stored, err error) {
			if err != nil {
				t.Error(err)
				r = &message.Stored{}
			}
			replies <- string(r.Body)
		})
		cancel() // has no effect any more
	}
	got := map[string]bool{}
	for range n {
		got[<-replies] = true
	}
	if len(got) != n || !got["re: 49"] {
		t.Errorf("got %d different replies, want %d", len(got), n)
	}
	if p.LateReplies() != 0 || len(p.requests.waiting) != 0 {
		t.Errorf("%d late, %d still wait", p.LateReplies(), len(p.requests.waiting))
	}
}

func TestRequest_WithinACallback(t *testing.T) {
	c := withTopic(t)
	p := producerOf(t, c, nil)
	serve(t, c, ignoring(func(ctx context.Context, d *consumer.Delivery) error { return d.Reply(ctx, msg("pong")) }))
	done := make(chan error, 1)
	p.SendAsync(t.Context(), msg("x"), func(Receipt, error) {
		_, err := p.Request(t.Context(), msg("ping"))
		done <- err
	})
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRequest_Fails(t *testing.T) {
	c := withTopic(t)
	p := producerOf(t, c, func(cfg *Config) { cfg.NoAutoCreate = true })
	if _, err := p.Send(t.Context(), msg("connects")); err != nil {
		t.Fatal(err)
	}
	soon := func() context.Context { // but long after the request is stored
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		t.Cleanup(cancel)
		return ctx
	}
	cancelled := func() context.Context {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(2*time.Second, cancel)
		return ctx
	}
	for _, x := range []struct {
		name string
		ctx  func() context.Context // nil: it is not sent
		m    *message.Message
		want []error
	}{
		{"nobody replies", soon, msg("x"), []error{ErrNoReply, ErrUnknownOutcome, context.DeadlineExceeded}},
		{"cancelled", cancelled, msg("x"), []error{ErrNoReply, context.Canceled}},
		{"no such topic", nil, &message.Message{Topic: "other"}, []error{ErrTopicNotFound}},
		{"nil", nil, nil, []error{ErrIllegalMessage}},
		{"illegal", nil, &message.Message{Topic: "t", Keys: []string{"a b"}}, []error{ErrIllegalMessage}},
	} {
		check := func(r *message.Stored, err error) {
			t.Helper()
			var e *Error
			for _, want := range x.want {
				if r != nil || !errors.Is(err, want) || !errors.As(err, &e) {
					t.Errorf("%s: got %+v, %v; want %v", x.name, r, err, want)
				}
			}
		}
		if x.ctx != nil {
			check(p.Request(x.ctx(), x.m))
			continue
		}
		check(p.Request(t.Context(), x.m))
		calls := 0
		p.RequestAsync(t.Context(), x.m, func(r *message.Stored, err error) { calls++; check(r, err) })
		if calls != 1 {
			t.Errorf("%s: %d callbacks before RequestAsync returns, want 1", x.name, calls)
		}
	}
	if n := len(p.requests.waiting); n != 0 {
		t.Errorf("%d still wait", n)
	}
}

func TestRequest_OnlyTheFirstReplyCounts(t *testing.T) {
	c := withTopic(t)
	p := producerOf(t, c, nil)
	second := make(chan error, 1)
	serve(t, c, ignoring(func(ctx context.Context, d *consumer.Delivery) error {
		err := d.Reply(ctx, msg("first"))
		second <- d.Reply(ctx, msg("second"))
		return err
	}))
	if r, err := p.Request(t.Context(), msg("x")); err != nil || string(r.Body) != "first" {
		t.Fatalf("got %v, %v", r, err)
	}
	var e *consumer.Error
	if err := <-second; !errors.Is(err, consumer.ErrNobodyWaits) || !errors.Is(err, ErrNotFound) || !errors.As(err, &e) || e.Retryable {
		t.Errorf("second reply: %v", err)
	}
	if n := p.LateReplies(); n != 1 {
		t.Errorf("%d late replies, want 1", n)
	}
}

func TestRequest_ReplyAfterTheRequesterGaveUp(t *testing.T) {
	c := withTopic(t)
	p := producerOf(t, c, nil)
	ctx, giveUp := context.WithCancel(t.Context())
	gaveUp, replied := make(chan struct{}), make(chan error, 1)
	serve(t, c, ignoring(func(ctx context.Context, d *consumer.Delivery) error {
		giveUp()
		<-gaveUp
		replied <- d.Reply(ctx, msg("late"))
		return nil
	}))
	if _, err := p.Request(ctx, msg("x")); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrNoReply) && !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("got %v", err)
	}
	close(gaveUp)
	if err := <-replied; !errors.Is(err, consumer.ErrNobodyWaits) {
		t.Errorf("late reply: %v", err)
	}
	if n := p.LateReplies(); n != 1 {
		t.Errorf("%d late replies, want 1", n)
	}
}

func TestRequest_ReplyToARequesterThatIsGone(t *testing.T) {
	c := withTopic(t)
	p := producerOf(t, c, nil)
	asked, gone, replied := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	serve(t, c, ignoring(func(ctx context.Context, d *consumer.Delivery) error {
		close(asked)
		<-gone
		replied <- d.Reply(ctx, msg("x"))
		return nil
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	p.RequestAsync(ctx, msg("x"), func(_ *message.Stored, err error) {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want %v", err, ErrClosed)
		}
	})
	<-asked
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(gone)
	if err := <-replied; !errors.Is(err, consumer.ErrNobodyWaits) || !errors.Is(err, protocol.UnknownMember) {
		t.Errorf("reply to nobody: %v", err)
	}
}

func TestRequest_ReplyAfterBothLostTheirConnections(t *testing.T) {
	c := withTopic(t)
	p := producerOf(t, c, nil)
	asked, restarted := make(chan struct{}), make(chan struct{})
	ask := sync.OnceFunc(func() { close(asked) })
	serve(t, c, ignoring(func(ctx context.Context, d *consumer.Delivery) error {
		ask()
		<-restarted
		return d.Reply(ctx, msg("pong"))
	}))
	replies := make(chan string, 1)
	p.RequestAsync(t.Context(), msg("ping"), func(r *message.Stored, err error) {
		if err != nil {
			t.Error(err)
			r = &message.Stored{}
		}
		replies <- string(r.Body)
	})
	<-asked
	c.Stop() // the broker forgets its sessions
	close(restarted)
	c.Start()
	if got := <-replies; got != "pong" {
		t.Errorf("got %q", got)
	}
}

func TestRequest_ReplyByAnotherBroker(t *testing.T) {
	c := withTopic(t)
	crash := addBroker(t, c, "broker-b", "t")
	p := producerOf(t, c, nil)
	asked, crashed := make(chan struct{}), make(chan struct{})
	serve(t, c, ignoring(func(ctx context.Context, d *consumer.Delivery) error {
		if d.Queue.Broker != "broker-b" {
			t.Errorf("the request comes from %s", d.Queue.Broker)
		}
		close(asked)
		<-crashed
		return d.Reply(ctx, msg("pong"))
	}))
	go func() {
		<-asked
		crash()
		close(crashed)
	}()
	r, err := p.Request(t.Context(), msg("ping"), ToQueue(message.Queue{Broker: "broker-b"}))
	if err != nil || string(r.Body) != "pong" {
		t.Errorf("got %v, %v", r, err)
	}
}

// addBroker runs a second broker with the topic; what is returned takes its NATS
// server away, as a crash does.
func addBroker(t testing.TB, c *harness.Cluster, name, topic string) (crash func()) {
	t.Helper()
	f, err := fabric.Start(fabric.Config{Name: name, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Open(t.Context(), broker.Config{Name: name, DataDir: t.TempDir(), NameServers: c.NameServers}, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), harness.Timeout)
		defer cancel()
		_ = b.Close(ctx) // its NATS server may be gone
		f.Close()
	})
	a, p := adminOf(t, c), producerOf(t, c, nil)
	eventually(t, "the topic is on both brokers", func() bool {
		_, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: topic}, admin.Target{Brokers: []string{name}})
		return err == nil || errors.Is(err, ErrConflict)
	})
	eventually(t, "messages go there", func() bool {
		_, err := p.Send(t.Context(), &message.Message{Topic: topic, Body: []byte("x")}, ToQueue(message.Queue{Broker: name}))
		return err == nil
	})
	return f.Close
}

func TestClose_EndsRequests(t *testing.T) {
	s := startSite(t)
	s.broker("a", 1)
	p := newProducer(t, s, nil)
	ended := make(chan error, 2)
	p.RequestAsync(t.Context(), msg("x"), func(_ *message.Stored, err error) { ended <- err })
	go func() {
		_, err := p.Request(t.Context(), msg("x"))
		ended <- err
	}()
	eventually(t, "both wait", func() bool {
		p.requests.mu.Lock()
		defer p.requests.mu.Unlock()
		return len(p.requests.waiting) == 2
	})
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want %v", err, ErrClosed)
		}
	}
	if _, err := p.Request(t.Context(), msg("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if p.requests.spawn(func() { t.Error("runs after Close") }) {
		t.Error("a goroutine began after Close")
	}
}

// replyTo is a reply as a broker brings it.
func replyTo(correlation string, id uint64) []byte {
	b := batch.NewBuilder("t", 0)
	b.Add(&message.Message{Topic: "t", ID: message.MakeID(1, id), BornTime: time.UnixMilli(1), CorrelationID: correlation})
	return b.Finish()
}

func TestRequests_Take(t *testing.T) {
	r := newRequests()
	reply, err := r.open("c")
	if err != nil {
		t.Fatal(err)
	}
	two := batch.NewBuilder("t", 0)
	for i := range 2 {
		two.Add(&message.Message{Topic: "t", ID: message.MakeID(1, uint64(i)), BornTime: time.UnixMilli(1), CorrelationID: "c"})
	}
	for name, b := range map[string][]byte{
		"nothing": nil, "damaged": append([]byte{0}, replyTo("c", 1)...), "two": two.Finish(),
		"no request's": replyTo("", 1), "more behind": append(replyTo("c", 1), 0),
	} {
		if err := r.take(b); !errors.Is(err, protocol.IllegalMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.take(replyTo("c", 1)); err != nil || (<-reply).ID != message.MakeID(1, 1) {
		t.Fatalf("the reply: %v", err)
	}
	if err := r.take(replyTo("c", 1)); err != nil || r.late != 0 {
		t.Errorf("the same reply again: %v, %d late", err, r.late)
	}
	if err := r.take(replyTo("c", 2)); !errors.Is(err, protocol.NotFound) || r.late != 1 {
		t.Errorf("another reply: %v, %d late", err, r.late)
	}
	for i := range recentReplies {
		c := fmt.Sprint("c", i)
		if _, err := r.open(c); err != nil {
			t.Fatal(err)
		}
		if err := r.take(replyTo(c, 9)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.take(replyTo("c", 1)); !errors.Is(err, protocol.NotFound) || len(r.recent) != recentReplies {
		t.Errorf("a reply of long ago: %v, %d are remembered", err, len(r.recent))
	}
}

func TestRequests_AreBounded(t *testing.T) {
	r := newRequests()
	for i := range MaxRequests {
		if _, err := r.open(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.open("more"); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want %v", err, ErrBusy)
	}
	r.forget("0")
	if _, err := r.open("more"); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
