package producer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// trail is what interceptors saw, in order.
type trail struct {
	mu   sync.Mutex
	seen []string
}

func (r *trail) add(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, fmt.Sprintf(format, args...))
}

func (r *trail) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.seen, " ")
}

// marking adds its name to the body of a copy and tells of the end.
func (r *trail) marking(name string) Interceptor {
	return func(_ context.Context, m *message.Message) (*message.Message, func(Receipt, error), error) {
		r.add("%s(%s)", name, m.Body)
		x := *m
		x.Body = append(slices.Clone(m.Body), name...)
		return &x, func(got Receipt, err error) { r.add("%s:%d:%v", name, got.Offset, protocol.CodeOf(err) == 0) }, nil
	}
}

// watching looks on.
func (r *trail) watching(context.Context, *message.Message) (*message.Message, func(Receipt, error), error) {
	r.add("watch")
	return nil, nil, nil
}

func TestInterceptors_InEveryMode(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	group := func(body string) []*message.Message { return []*message.Message{msg(body), msg(body)} }
	for _, tc := range []struct {
		mode string
		send func(p *Producer) error
		want string
		n    int
	}{
		{"sync", func(p *Producer) error { _, err := p.Send(t.Context(), msg("x")); return err },
			"A(x) watch B(xA) B:%[1]d:true A:%[1]d:true", 1},
		{"async", func(p *Producer) error {
			errs := make(chan error, 1)
			p.SendAsync(t.Context(), msg("x"), func(_ Receipt, err error) { errs <- err })
			return <-errs
		}, "A(x) watch B(xA) B:%[1]d:true A:%[1]d:true", 1},
		{"oneway", func(p *Producer) error { return p.SendOneway(t.Context(), msg("x")) },
			"A(x) watch B(xA) B:%[1]d:true A:%[1]d:true", 1},
		{"batch", func(p *Producer) error { _, err := p.SendBatch(t.Context(), group("x")); return err },
			"A(x) watch B(xA) A(x) watch B(xA) B:%[1]d:true A:%[1]d:true B:%[2]d:true A:%[2]d:true", 2},
	} {
		r := &trail{}
		p := newProducer(t, s, func(c *Config) { c.Interceptors = []Interceptor{r.marking("A"), r.watching, r.marking("B")} })
		before := len(b.in(0))
		if err := tc.send(p); err != nil {
			t.Fatalf("%s: %v", tc.mode, err)
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := strings.TrimSpace(strings.Split(fmt.Sprintf(tc.want, before, before+1), "%!(")[0]); r.String() != want {
			t.Errorf("%s: got %s, want %s", tc.mode, r, want)
		}
		for _, m := range b.in(0)[before:] {
			if string(m.Body) != "xAB" {
				t.Errorf("%s: got %s, want the message as it was changed", tc.mode, m.Body)
			}
		}
		if got := len(b.in(0)) - before; got != tc.n {
			t.Errorf("%s: got %d messages, want %d", tc.mode, got, tc.n)
		}
	}
}

func refusing(err error) Interceptor {
	return func(context.Context, *message.Message) (*message.Message, func(Receipt, error), error) {
		return nil, nil, err
	}
}

func TestInterceptors_Refuse(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	why := errors.New("not on Sundays")
	own := protocol.Errorf(protocol.NoPermission, "not you")
	for _, tc := range []struct {
		err  error
		code protocol.ErrorCode
	}{{why, protocol.IllegalMessage}, {own, protocol.NoPermission}} {
		r := &trail{}
		p := newProducer(t, s, func(c *Config) {
			c.Interceptors = []Interceptor{r.marking("A"), refusing(tc.err), r.marking("never")}
		})
		check := func(mode string, err error, trace string) {
			t.Helper()
			var e *Error
			if !errors.Is(err, ErrRefused) || !errors.Is(err, tc.err) || !errors.As(err, &e) || e.Code != tc.code || e.Retryable || e.Topic != "t" {
				t.Errorf("%s: got %v, want a refusal with %v, not retryable", mode, err, tc.code)
			}
			if r.String() != trace {
				t.Errorf("%s: got %s, want %s", mode, r, trace)
			}
			r.seen = nil
		}
		_, err := p.Send(t.Context(), msg("x"))
		check("sync", err, "A(x) A:0:false")
		calls := 0
		p.SendAsync(t.Context(), msg("x"), func(_ Receipt, err error) { calls++; check("async", err, "A(x) A:0:false") })
		if calls != 1 {
			t.Errorf("got %d callbacks, want 1 before SendAsync returns", calls)
		}
		check("oneway", p.SendOneway(t.Context(), msg("x")), "A(x) A:0:false")
		_, err = p.SendBatch(t.Context(), []*message.Message{msg("x"), msg("y")})
		check("batch", err, "A(x) A:0:false")
	}
	if n := len(b.bodies(-1)); n != 0 {
		t.Errorf("got %d messages at the broker, want none", n)
	}
}

// A batch of which one message is refused sends none, and tells of all.
func TestInterceptors_RefuseOneOfABatch(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	r := &trail{}
	p := newProducer(t, s, func(c *Config) {
		c.Interceptors = []Interceptor{r.marking("A"), func(_ context.Context, m *message.Message) (*message.Message, func(Receipt, error), error) {
			if string(m.Body) == "badA" {
				return nil, nil, errors.New("bad")
			}
			return nil, nil, nil
		}}
	})
	_, err := p.SendBatch(t.Context(), []*message.Message{msg("good"), msg("bad"), msg("never")})
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "message 1 of 3") || len(b.bodies(-1)) != 0 {
		t.Errorf("got %v and %d messages, want message 1 to be refused and none to be sent", err, len(b.bodies(-1)))
	}
	if want := "A(good) A(bad) A:0:false A:0:false"; r.String() != want {
		t.Errorf("got %s, want %s", r, want)
	}
	r.seen = nil
	if _, err := p.SendBatch(t.Context(), []*message.Message{msg("x"), nil}); !errors.Is(err, ErrIllegalMessage) || r.String() != "A(x) A:0:false" {
		t.Errorf("with a nil message: got %v, %s", err, r)
	}
}

// What interceptors make is held to the rules, and they hear of failures.
func TestInterceptors_AreChecked(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	r := &trail{}
	spoil := func(_ context.Context, m *message.Message) (*message.Message, func(Receipt, error), error) {
		x := *m
		x.Keys = []string{"a b"}
		return &x, nil, nil
	}
	p := newProducer(t, s, func(c *Config) { c.Interceptors = []Interceptor{r.marking("A"), spoil} })
	if _, err := p.Send(t.Context(), msg("x")); !errors.Is(err, ErrIllegalMessage) || errors.Is(err, ErrRefused) {
		t.Errorf("got %v, want the message to be illegal", err)
	}
	if _, err := p.SendBatch(t.Context(), []*message.Message{msg("y")}); !errors.Is(err, ErrIllegalMessage) {
		t.Errorf("got %v, want the message to be illegal", err)
	}
	if _, err := p.Send(t.Context(), nil); !errors.Is(err, ErrIllegalMessage) {
		t.Errorf("got %v for no message at all", err)
	}
	if want := "A(x) A:0:false A(y) A:0:false"; r.String() != want || len(b.bodies(-1)) != 0 {
		t.Errorf("got %s and %v, want %s and nothing", r, b.bodies(-1), want)
	}
}

func TestInterceptors_HearOfFailures(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	r := &trail{}
	var log bytes.Buffer
	p := newProducer(t, s, func(c *Config) {
		c.Interceptors = []Interceptor{r.marking("A")}
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	b.setScript(firstN(1<<30, protocol.Errorf(protocol.InvalidArgument, "scripted")))
	_, err := p.Send(t.Context(), msg("x"))
	if err := p.Flush(t.Context()); err != nil { // until the interceptor was told, too
		t.Fatal(err)
	}
	errs := make(chan error, 1)
	p.SendAsync(t.Context(), msg("y"), func(_ Receipt, err error) { errs <- err })
	if !errors.Is(err, ErrInvalidArgument) || !errors.Is(<-errs, ErrInvalidArgument) {
		t.Errorf("got %v, want %v", err, ErrInvalidArgument)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := p.SendOneway(t.Context(), msg("z")); err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := "A(x) A:0:false A(y) A:0:false A(z) A:0:false"; r.String() != want {
		t.Errorf("got %s, want %s", r, want)
	}
	if got := strings.Count(log.String(), "sent one way is not stored"); got != 1 {
		t.Errorf("got %d warnings of lost messages, want that of the one sent one way: %s", got, log.String())
	}
	if used := p.budget.used.Load(); used != 0 {
		t.Errorf("got %d bytes in use at the end", used)
	}
}

// Neither a callback nor who is told of an end may be in the way of a Send in it.
func TestInterceptors_MaySend(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	var p *Producer
	nested := true
	p = newProducer(t, s, func(c *Config) {
		c.Interceptors = []Interceptor{func(context.Context, *message.Message) (*message.Message, func(Receipt, error), error) {
			if !nested {
				return nil, func(Receipt, error) {}, nil
			}
			nested = false
			return nil, func(Receipt, error) {
				if _, err := p.Send(t.Context(), msg("from the interceptor")); err != nil {
					t.Error(err)
				}
			}, nil
		}}
	})
	if _, err := p.Send(t.Context(), msg("first")); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	p.SendAsync(t.Context(), msg("async"), func(Receipt, error) {
		defer close(done)
		if _, err := p.Send(t.Context(), msg("from the callback")); err != nil {
			t.Error(err)
		}
	})
	<-done
	if got := len(b.bodies(0)); got != 4 {
		t.Errorf("got %d messages, want 4", got)
	}
}

func TestInterceptors_KeepTransactionsLegal(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	r := &trail{}
	p := newProducer(t, s, func(c *Config) {
		c.TransactionTopics = []string{"t"}
		c.Checker = func(context.Context, *message.Stored) Decision { return Unknown }
		c.Interceptors = []Interceptor{r.marking("A"), func(_ context.Context, m *message.Message) (*message.Message, func(Receipt, error), error) {
			x := *m
			x.Group = "g"
			return &x, nil, nil
		}}
	})
	if _, err := p.SendHalf(t.Context(), msg("x")); !errors.Is(err, ErrIllegalMessage) || len(b.bodies(-1)) != 0 {
		t.Errorf("got %v and %d messages, want a half message with a group to be refused", err, len(b.bodies(-1)))
	}
	if want := "A(x) A:0:false"; r.String() != want {
		t.Errorf("got %s, want %s", r, want)
	}
}

func TestInterceptors_NilIsAFault(t *testing.T) {
	_, err := New(t.Context(), Config{NameServers: []string{"127.0.0.1:1"}, Interceptors: []Interceptor{nil}, Compression: 9, CompressOver: -1})
	for _, part := range []string{"interceptor", "compression 9", "over -1"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want it to name %q", err, part)
		}
	}
}
