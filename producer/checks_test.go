package producer

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestChecker_AnswersForARestartedProducer(t *testing.T) {
	c := harness.Start(t, impatient)
	fates := map[string]Decision{"yes": Commit, "no": Rollback}
	// It knows nothing; its own goodbye ends its session.
	first := producerOf(t, c, transactional(func(context.Context, *message.Stored) Decision { return Unknown }))
	for body := range fates {
		m := &message.Message{Topic: "t", Body: []byte(body), Keys: []string{"k"}, Properties: map[string]string{"p": "v"}}
		if r, err := first.SendInTransaction(t.Context(), m, decided(Unknown, nil)); err != nil || r.State != Unknown {
			t.Fatalf("got %v, %v", r, err)
		}
	}
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Restart()
	var tries sync.Map
	producerOf(t, c, transactional(func(_ context.Context, m *message.Stored) Decision {
		n, _ := tries.LoadOrStore(string(m.Body), new(atomic.Int32))
		if n.(*atomic.Int32).Add(1) == 1 {
			panic("not yet") // Unknown: asked again
		}
		if m.Topic != "t" || m.Queue.Broker != "broker-a" || m.QueueOffset != -1 || !slices.Equal(m.Keys, []string{"k"}) || m.Properties["p"] != "v" {
			t.Errorf("asked for %+v", m)
		}
		return fates[string(m.Body)]
	}))
	a := adminOf(t, c)
	eventually(t, "no transaction is open", func() bool { return len(openTransactions(t, a)) == 0 })
	wantVisible(t, c, "yes")
}

// checking is a producer whose broker is a stand-in that asks as the test wants.
type checking struct {
	*Producer
	ended chan protocol.EndTransactionRequest
	log   *logBuffer
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) has(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), s)
}

func newChecking(t *testing.T, checker Checker) *checking {
	s := startSite(t)
	c := &checking{ended: make(chan protocol.EndTransactionRequest, 100), log: &logBuffer{}}
	s.brokerWith("a", 1, func(m *transport.Mux) {
		transport.Handle(m, func(_ context.Context, r *protocol.EndTransactionRequest) (*protocol.EndTransactionResponse, error) {
			c.ended <- *r
			if r.Origin == 13 {
				return nil, protocol.Errorf(protocol.Conflict, "decided the other way")
			}
			return &protocol.EndTransactionResponse{}, nil
		})
	})
	c.Producer = newProducer(t, s, func(cfg *Config) {
		transactional(checker)(cfg)
		cfg.Logger = slog.New(slog.NewTextHandler(c.log, nil))
	})
	return c
}

// question is a broker's; its message says which.
func question(origin uint64) protocol.CheckTransactionEvent {
	id := message.MakeID(1, origin)
	b := batch.NewBuilder("t", 0)
	b.Add(&message.Message{Topic: "t", ID: id, BornTime: time.UnixMilli(1), Body: []byte(fmt.Sprint(origin))})
	return protocol.CheckTransactionEvent{
		Broker: "a", Group: DefaultGroup, Check: 1, Batch: b.Finish(),
		Held: protocol.Held{Origin: origin, ID: id.String(), Topic: "t"},
	}
}

func TestChecker_IsAskedOnceForWhatWaits(t *testing.T) {
	entered, free := make(chan string), make(chan Decision)
	c := newChecking(t, func(_ context.Context, m *message.Stored) Decision {
		entered <- string(m.Body)
		return <-free
	})
	foreign := question(99)
	foreign.Group = "others"
	c.checkLater(foreign)
	c.checkLater(question(1))
	<-entered
	for range 3 {
		c.checkLater(question(1)) // the checker has it
		c.checkLater(question(2)) // waits
	}
	free <- Commit
	if body := <-entered; body != "2" {
		t.Fatalf("asked for %s, want the next one", body)
	}
	c.checkLater(question(1)) // is answered: it may be asked for again
	free <- Rollback
	if body := <-entered; body != "1" {
		t.Fatalf("asked for %s, want 1 again", body)
	}
	c.checkLater(question(3))
	free <- Unknown // which the broker is not told
	<-entered
	free <- Commit
	for i, want := range []protocol.Decision{protocol.Commit, protocol.Rollback, protocol.Commit} {
		if r := <-c.ended; r.Decision != want || r.Origin != uint64(i+1) {
			t.Errorf("ended %+v, want %s", r, want)
		}
	}
}

func TestChecker_FailsAndGoesOn(t *testing.T) {
	c := newChecking(t, func(_ context.Context, m *message.Stored) Decision {
		if string(m.Body) == "1" {
			panic("ouch")
		}
		return Commit
	})
	bad := question(3)
	bad.Batch[len(bad.Batch)-1] ^= 1
	wrong := question(4)
	wrong.Held.ID = message.MakeID(1, 5).String()
	for _, e := range []protocol.CheckTransactionEvent{question(1), bad, wrong, question(13), question(2)} {
		c.checkLater(e)
	}
	if r := <-c.ended; r.Origin != 13 {
		t.Errorf("ended %+v first", r)
	}
	if r := <-c.ended; r.Origin != 2 || r.Decision != protocol.Commit {
		t.Errorf("ended %+v", r)
	}
	for _, line := range []string{"ouch", "cannot be read", "not the one", "decided the other way"} {
		if !c.log.has(line) {
			t.Errorf("the log does not say %q", line)
		}
	}
}

func TestChecks_AreBounded(t *testing.T) {
	c := newChecks()
	for i := range MaxPendingChecks {
		if !c.add(question(uint64(i + 1))) {
			t.Fatalf("%d are too many", i+1)
		}
	}
	if c.add(question(1 << 20)) {
		t.Errorf("%d are taken", MaxPendingChecks+1)
	}
	e := <-c.pending
	c.finish(&e)
	if !c.add(question(1 << 20)) {
		t.Error("one that was finished made no room")
	}
	c = newChecks()
	big := question(1)
	big.Batch = make([]byte, maxPendingCheckBytes)
	if !c.add(big) || c.add(question(2)) {
		t.Errorf("bytes are not bounded")
	}
	c.finish(&big)
	if !c.add(question(2)) {
		t.Error("the bytes of what was finished still count")
	}
}

func TestClose_EndsTheCheckersContext(t *testing.T) {
	entered := make(chan struct{})
	c := newChecking(t, func(ctx context.Context, _ *message.Stored) Decision {
		close(entered)
		<-ctx.Done()
		return Unknown
	})
	c.checkLater(question(1))
	<-entered
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
