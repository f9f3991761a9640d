package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// impatient has producers asked for transactions almost at once.
func impatient(cfg *broker.Config) {
	cfg.Transactions = broker.Transactions{FirstCheck: 20 * time.Millisecond, CheckInterval: 50 * time.Millisecond, MaxChecks: 1000}
}

// patient never has them asked within a test.
func patient(cfg *broker.Config) {
	cfg.Transactions = broker.Transactions{FirstCheck: time.Hour, CheckInterval: time.Hour}
}

// producerOf is a producer of a cluster that is closed with the test.
func producerOf(t testing.TB, c *harness.Cluster, change func(*Config)) *Producer {
	t.Helper()
	cfg := Config{NameServers: c.NameServers, SendTimeout: harness.Timeout}
	if change != nil {
		change(&cfg)
	}
	p, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), harness.Timeout)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return p
}

// transactional has transactions in topic t.
func transactional(checker Checker) func(*Config) {
	return func(cfg *Config) { cfg.Checker, cfg.TransactionTopics = checker, []string{"t"} }
}

func neverAsked(t testing.TB) Checker {
	return func(_ context.Context, m *message.Stored) Decision {
		t.Errorf("the checker is asked for %s", m.Body)
		return Unknown
	}
}

// visible are the bodies that consumers see in topic t, sorted.
func visible(t testing.TB, c *harness.Cluster) []string {
	t.Helper()
	pull, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: c.NameServers, From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "t"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer pull.Close(t.Context())
	var bodies []string
	for d, err := range pull.MessagesToEnd(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, string(d.Body))
	}
	slices.Sort(bodies)
	return bodies
}

func wantVisible(t testing.TB, c *harness.Cluster, want ...string) {
	t.Helper()
	if got := visible(t, c); !slices.Equal(got, want) {
		t.Errorf("consumers see %q, want %q", got, want)
	}
}

func decided(d Decision, err error) func(context.Context) (Decision, error) {
	return func(context.Context) (Decision, error) { return d, err }
}

func TestTransaction_NamesTheRuleThatIsBroken(t *testing.T) {
	c := harness.Start(t, patient)
	p := producerOf(t, c, transactional(neverAsked(t)))
	plain := producerOf(t, c, nil)
	for _, x := range []struct {
		name string
		p    *Producer
		m    *message.Message
		want error
		part string
	}{
		{"nil", p, nil, ErrIllegalMessage, "nil"},
		{"topic", p, &message.Message{Topic: "a.b"}, ErrInvalidArgument, "a.b"},
		{"no checker", plain, msg("x"), ErrNoChecker, "Checker"},
		{"no checker, code", plain, msg("x"), ErrInvalidArgument, "Config.Checker"},
		{"another topic", p, &message.Message{Topic: "other"}, ErrInvalidArgument, "TransactionTopics"},
		{"delay", p, &message.Message{Topic: "t", Delay: time.Second}, message.ErrIllegalMessage, "cannot be delayed"},
		{"level", p, &message.Message{Topic: "t", DelayLevel: 1}, ErrIllegalMessage, "cannot be delayed"},
		{"time", p, &message.Message{Topic: "t", DeliverAt: time.Now()}, ErrIllegalMessage, "cannot be delayed"},
		{"group", p, msgOf("g", "x"), ErrIllegalMessage, "cannot have a group"},
		{"key", p, &message.Message{Topic: "t", DedupKey: "k"}, ErrIllegalMessage, "deduplication key"},
	} {
		t.Run(x.name, func(t *testing.T) {
			ran := false
			_, err := x.p.SendInTransaction(t.Context(), x.m, func(context.Context) (Decision, error) {
				ran = true
				return Commit, nil
			})
			var e *Error
			if !errors.Is(err, x.want) || !errors.As(err, &e) || e.Retryable || !strings.Contains(err.Error(), x.part) {
				t.Errorf("got %v; want %v that names %q", err, x.want, x.part)
			}
			if ran {
				t.Error("the local transaction ran without a half message")
			}
		})
	}
	for _, change := range []func(*Config){
		func(cfg *Config) { cfg.Checker = neverAsked(t) },
		func(cfg *Config) { cfg.TransactionTopics = []string{"t"} },
		func(cfg *Config) { cfg.Checker, cfg.TransactionTopics = neverAsked(t), []string{"a.b"} },
		func(cfg *Config) { cfg.CheckConcurrency = -1 },
	} {
		cfg := Config{NameServers: c.NameServers}
		change(&cfg)
		if _, err := New(t.Context(), cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

func TestSendInTransaction(t *testing.T) {
	broken := errors.New("broken")
	for _, x := range []struct {
		name  string
		local func(context.Context) (Decision, error)
		state Decision
		err   error
		part  string
	}{
		{"commit", decided(Commit, nil), Commit, nil, ""},
		{"rollback", decided(Rollback, nil), Rollback, nil, ""},
		{"unknown", decided(Unknown, nil), Unknown, nil, ""},
		{"a decision that there is not", decided(7, nil), Unknown, nil, ""},
		{"commit with an error", decided(Commit, broken), Unknown, broken, ""},
		{"rollback with an error", decided(Rollback, broken), Rollback, broken, ""},
		{"panic", func(context.Context) (Decision, error) { panic("ouch") }, Unknown, nil, "ouch"},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := harness.Start(t, patient)
			p := producerOf(t, c, transactional(neverAsked(t)))
			local := func(ctx context.Context) (Decision, error) {
				wantVisible(t, c)
				return x.local(ctx)
			}
			r, err := p.SendInTransaction(t.Context(), msg("x"), local)
			if r.State != x.state || !errors.Is(err, x.err) && x.part == "" || !strings.Contains(fmt.Sprint(err), x.part) {
				t.Fatalf("got %v, %v; want %v, %v %q", r.State, err, x.state, x.err, x.part)
			}
			if r.MessageID.IsZero() || r.Queue.Topic != "t" || r.RecallHandle != "" || (r.Offset == 0) != (x.state == Commit) || r.Offset > 0 {
				t.Errorf("receipt %+v", r)
			}
			if x.state == Commit {
				wantVisible(t, c, "x")
			} else {
				wantVisible(t, c)
			}
		})
	}
}

func TestTransaction_TheFirstDecisionHolds(t *testing.T) {
	c := harness.Start(t, patient)
	p := producerOf(t, c, transactional(neverAsked(t)))
	ctx := t.Context()
	half := func(body string) *Transaction {
		tx, err := p.SendHalf(ctx, msg(body))
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	yes, no := half("yes"), half("no")
	first, err := yes.Commit(ctx)
	if err != nil || first.MessageID != yes.MessageID() || first.StoreTime.IsZero() {
		t.Fatalf("commit: %+v, %v", first, err)
	}
	if again, err := yes.Commit(ctx); err != nil || again != first {
		t.Errorf("commit again: %+v, %v; want %+v", again, err, first)
	}
	var e *Error
	if err := yes.Rollback(ctx); !errors.Is(err, ErrConflict) || !errors.As(err, &e) || e.Retryable {
		t.Errorf("rollback after commit: %v", err)
	}
	if err := errors.Join(no.Rollback(ctx), no.Rollback(ctx)); err != nil {
		t.Errorf("rollback twice: %v", err)
	}
	if _, err := no.Commit(ctx); !errors.Is(err, ErrConflict) {
		t.Errorf("commit after rollback: %v", err)
	}
	wantVisible(t, c, "yes")
	no.handle.Position++
	if _, err := no.Commit(ctx); !errors.Is(err, ErrNotFound) {
		t.Errorf("a transaction that is none: %v", err)
	}
}

func TestTransaction_CommitWaitsForTheBroker(t *testing.T) {
	c := harness.Start(t, patient)
	p := producerOf(t, c, transactional(neverAsked(t)))
	tx, err := p.SendHalf(t.Context(), msg("x"))
	if err != nil {
		t.Fatal(err)
	}
	c.Stop()
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var e *Error
	if _, err := tx.Commit(short); !errors.As(err, &e) || !e.Retryable {
		t.Fatalf("commit without a broker: %v", err)
	}
	committed := make(chan error, 1)
	go func() {
		_, err := tx.Commit(t.Context())
		committed <- err
	}()
	c.Start()
	if err := <-committed; err != nil {
		t.Fatalf("commit over a restart: %v", err)
	}
	wantVisible(t, c, "x")
}

func TestTransaction_EndIsRepeatedWhenTheAnswerIsLost(t *testing.T) {
	s := startSite(t)
	asked := make(chan protocol.EndTransactionRequest, 10)
	s.brokerWith("a", 1, func(m *transport.Mux) {
		transport.Handle(m, func(ctx context.Context, r *protocol.EndTransactionRequest) (*protocol.EndTransactionResponse, error) {
			asked <- *r
			if len(asked) == 1 {
				<-ctx.Done() // no answer
				return nil, ctx.Err()
			}
			return &protocol.EndTransactionResponse{Queue: 3, Offset: 7, StoreMillis: 9}, nil
		})
	})
	p := newProducer(t, s, transactional(neverAsked(t)))
	r, err := p.SendInTransaction(t.Context(), msg("x"), decided(Commit, nil))
	if err != nil || r.State != Commit || r.Queue.ID != 3 || r.Offset != 7 || !r.StoreTime.Equal(time.UnixMilli(9)) {
		t.Fatalf("got %+v, %v", r, err)
	}
	one, two := <-asked, <-asked
	if one != two || one.Decision != protocol.Commit || one.Origin != 1 || one.ID != r.MessageID.String() {
		t.Errorf("asked %+v, then %+v", one, two)
	}
}

func adminOf(t testing.TB, c *harness.Cluster) *admin.Admin {
	a, err := admin.New(t.Context(), admin.Config{NameServers: c.NameServers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func openTransactions(t testing.TB, a *admin.Admin) (open []admin.Transaction) {
	for x, err := range a.Transactions(t.Context(), "", "", admin.Target{}) {
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, x)
	}
	return open
}

func TestNewTransaction_WithoutAPlace(t *testing.T) {
	p := &Producer{}
	if _, err := p.newTransaction(Receipt{Queue: message.Queue{Topic: "t"}}); !errors.Is(err, protocol.SystemError) {
		t.Errorf("got %v", err)
	}
	good := client.Handle{Broker: "a", Held: protocol.Held{Origin: 1, Topic: "t", ID: message.MakeID(1, 2).String()}}
	if tx, err := p.newTransaction(Receipt{RecallHandle: good.String()}); err != nil || tx.Handle() != good.String() {
		t.Errorf("got %v, %v", tx, err)
	}
}
