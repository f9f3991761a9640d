package consumer

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func pullConfig(b *fakeBroker) PullConfig {
	return PullConfig{NameServers: []string{b.addr}, Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest(), CommitInterval: time.Hour}
}

func newTestPull(t *testing.T, cfg PullConfig) *Pull {
	t.Helper()
	p, err := NewPull(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

func TestPullReadsToTheEnd(t *testing.T) {
	b := startFake(t, 3)
	for q := range 2 { // the third is empty
		b.store(q, 10)
		b.store(q, 10)
	}
	p := newTestPull(t, pullConfig(b))
	next := map[int]int64{}
	for d, err := range p.MessagesToEnd(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if d.QueueOffset != next[d.Queue.ID] {
			t.Fatalf("queue %d: got offset %d, want %d", d.Queue.ID, d.QueueOffset, next[d.Queue.ID])
		}
		next[d.Queue.ID]++
	}
	if next[0] != 20 || next[1] != 20 {
		t.Fatalf("got %v, want 20 of queues 0 and 1", next)
	}
	b.store(0, 3)
	lag, err := p.Lag(t.Context())
	if err != nil || lag[message.Queue{Topic: "t", Broker: fakeName}] != 3 {
		t.Fatalf("lag: got %v, %v, want 3 of queue 0", lag, err)
	}
	if !b.look(func() bool { return b.commits == 0 }) {
		t.Fatal("a reader without a group commits")
	}
	b.nobody()
}

func TestPullAssignSeekPause(t *testing.T) {
	b := startFake(t, 3)
	for q := range 3 {
		b.store(q, 10)
	}
	cfg := pullConfig(b)
	cfg.Subscriptions = nil
	p := newTestPull(t, cfg)
	q0, q1, q2 := message.Queue{Topic: "t", Broker: fakeName}, message.Queue{Topic: "t", Broker: fakeName, ID: 1}, message.Queue{Topic: "t", Broker: fakeName, ID: 2}
	if err := p.Assign(q0, q1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "assignment", func() bool { return slices.Equal(p.Assigned(), []message.Queue{q0, q1}) })
	if err := p.Pause(q0); err != nil {
		t.Fatal(err)
	}
	if err := p.Seek(t.Context(), q1, AtOffset(8)); err != nil {
		t.Fatal(err)
	}
	poll := func(want ...string) {
		t.Helper()
		var got []string
		for len(got) < len(want) {
			ds, err := p.Poll(t.Context(), len(want)-len(got))
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range ds {
				got = append(got, string(d.Body))
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
	poll("1/8", "1/9")
	if err := p.Resume(q0); err != nil {
		t.Fatal(err)
	}
	poll("0/0", "0/1")
	if err := p.Seek(t.Context(), q2, Earliest()); !errors.Is(err, ErrNotAssigned) {
		t.Fatalf("seek in a queue that is not read: got %v, want ErrNotAssigned", err)
	}
	if err := p.Pause(q2); !errors.Is(err, ErrNotAssigned) {
		t.Fatalf("pause of a queue that is not read: got %v, want ErrNotAssigned", err)
	}
	if err := p.Assign(q2); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new assignment", func() bool { return slices.Equal(p.Assigned(), []message.Queue{q2}) })
	poll("2/0")
}

func TestPullTellsOfAQueueThatDoesNotExist(t *testing.T) {
	b := startFake(t, 1)
	cfg := pullConfig(b)
	cfg.Subscriptions = nil
	p := newTestPull(t, cfg)
	if err := p.Assign(message.Queue{Topic: "t", Broker: fakeName, ID: 5}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Poll(t.Context(), 1); !errors.Is(err, protocol.QueueNotFound) {
		t.Fatalf("poll: got %v, want QueueNotFound", err)
	}
}

func TestPullInAGroupCommitsWhatIsProcessed(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 10)
	cfg := pullConfig(b)
	cfg.Group = "g"
	p := newTestPull(t, cfg)
	n := 0
	for _, err := range p.Messages(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 4 {
			break
		}
	}
	if err := p.Assign(); !errors.Is(err, ErrHasGroup) {
		t.Fatalf("assign: got %v, want ErrHasGroup", err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.committedAt(0); got != 4 {
		t.Fatalf("after Close: committed %d, want 4", got)
	}
	b.nobody()
	for range p.Messages(t.Context()) {
		t.Fatal("a closed consumer gives messages")
	}
	if _, err := p.Poll(t.Context(), 1); !errors.Is(err, ErrClosed) {
		t.Fatalf("poll after Close: got %v, want ErrClosed", err)
	}
}

func TestPullManualCommit(t *testing.T) {
	b := startFake(t, 1)
	b.store(0, 10)
	cfg := pullConfig(b)
	cfg.Group, cfg.ManualCommit = "g", true
	p := newTestPull(t, cfg)
	for want := range int64(2) {
		if ds, err := p.Poll(t.Context(), 1); err != nil || ds[0].QueueOffset != want {
			t.Fatalf("poll: got %v, %v", ds, err)
		}
	}
	if err := p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.committedAt(0); got != 2 {
		t.Fatalf("after Commit: got %d, want 2", got)
	}
	if _, err := p.Poll(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.committedAt(0); got != 2 {
		t.Fatalf("after Close: got %d, want 2: the others were not processed", got)
	}
}

func TestPollEndsWithItsContext(t *testing.T) {
	b := startFake(t, 1)
	p := newTestPull(t, pullConfig(b))
	receive(t, "ready", p.Ready())
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := p.Poll(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want the context's error", err)
	}
	for range p.Messages(ctx) {
		t.Fatal("Messages yields after its context has ended")
	}
}
