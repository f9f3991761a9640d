package transport_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestDialRefusesBadAddresses(t *testing.T) {
	for _, addr := range []string{"", "host", ":9876", "host:", "a:1,b:2", "nats://h:1"} {
		if c, err := transport.Dial(addr, transport.Options{}); !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("%q: %v, %v", addr, c, err)
		}
	}
}

func TestDialIsConnectedWhenTheServerIsUp(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	for name, o := range map[string]transport.Options{"tcp": {}, "in process": {InProcess: f}} {
		c := dial(t, f.Addr(), o)
		if !c.Connected() {
			t.Errorf("%s: not connected", name)
		}
		if err := c.WaitConnected(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.Addr() != f.Addr() || !strings.HasPrefix(c.Inbox(), "rmq.c.") {
			t.Errorf("%s: addr %s, inbox %s", name, c.Addr(), c.Inbox())
		}
	}
}

func TestWaitConnectedEndsWithItsContext(t *testing.T) {
	c := dial(t, freeAddr(t), transport.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.WaitConnected(ctx); !errors.Is(err, context.Canceled) || !errors.Is(err, protocol.Unreachable) {
		t.Fatalf("got %v", err)
	}
}

// TestReconnect restarts the server on its port: connections come back, what
// was served is served again, and subscriptions and inboxes get events again.
func TestReconnect(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	addr := f.Addr()
	connects := make(chan struct{}, 16)
	inboxed := make(chan protocol.Frame, 16)
	conn := dial(t, addr, transport.Options{
		OnConnect: func() { connects <- struct{}{} },
		OnEvent:   func(f protocol.Frame) { inboxed <- f },
	})
	r := &rig{serving: dial(t, addr, transport.Options{}), conn: conn, parked: make(chan *transport.Request, 1)}
	r.server = r.serve(t, subject, transport.Limits{})
	heard := make(chan protocol.Frame, 16)
	if _, err := conn.Subscribe(protocol.NameServerEvents, func(f protocol.Frame) { heard <- f }); err != nil {
		t.Fatal(err)
	}
	receive(t, connects)
	inbox := conn.Inbox()

	f.Close()
	eventually(t, func() bool { return !conn.Connected() && !r.serving.Connected() })
	startFabric(t, addr)
	receive(t, connects)
	if err := r.serving.WaitConnected(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.awaitServed(t, subject)
	if conn.Inbox() != inbox {
		t.Fatal("the inbox changed")
	}
	for _, subject := range []string{protocol.NameServerEvents, inbox} {
		if err := r.serving.Publish(subject, protocol.RouteChanged, &echo{Text: subject}); err != nil {
			t.Fatal(err)
		}
	}
	for _, events := range []chan protocol.Frame{heard, inboxed} {
		if got := receive(t, events); got.Code != protocol.RouteChanged || got.Kind != protocol.KindEvent {
			t.Fatalf("got %+v", got)
		}
	}
}

func TestDialBeforeTheServer(t *testing.T) {
	addr := freeAddr(t)
	connects := make(chan struct{}, 1)
	conn := dial(t, addr, transport.Options{OnConnect: func() { connects <- struct{}{} }})
	startFabric(t, addr)
	receive(t, connects)
	if err := conn.WaitConnected(t.Context()); err != nil || !conn.Connected() {
		t.Fatalf("connected %v, %v", conn.Connected(), err)
	}
}

func TestCloseWithoutServer(t *testing.T) {
	c := dial(t, freeAddr(t), transport.Options{})
	c.Close()
	if c.Connected() {
		t.Fatal("connected")
	}
}

// TestDroppedEventsAreLogged overruns a subscriber.
func TestDroppedEventsAreLogged(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	logged := new(lines)
	c := dial(t, f.Addr(), transport.Options{Logger: slog.New(slog.NewTextHandler(logged, nil))})
	release := make(chan struct{})
	if _, err := c.Subscribe("rmq.test.events", func(protocol.Frame) { <-release }); err != nil {
		t.Fatal(err)
	}
	payload := &protocol.SendRequest{Batches: make([]byte, 1<<20)}
	eventually(t, func() bool {
		if err := c.Publish("rmq.test.events", protocol.RouteChanged, payload); err != nil {
			t.Fatal(err)
		}
		return logged.contains("rmq.test.events")
	})
	close(release)
}

// lines is a log that can be searched while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) contains(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), s)
}

func TestEvents(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	heard := make(chan string, 16)
	listener := dial(t, f.Addr(), transport.Options{})
	stop, err := listener.Subscribe("rmq.test.events", func(f protocol.Frame) {
		var e echo
		if err := protocol.Unmarshal(f.Payload, &e); err != nil {
			t.Error(err)
		}
		heard <- e.Text
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two", "three"} {
		if err := listener.Publish("rmq.test.events", protocol.RouteChanged, &echo{Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"one", "two", "three"} {
		if got := receive(t, heard); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
	stop()
	stop() // twice is fine
	if err := listener.Publish("rmq.test.events", protocol.RouteChanged, &echo{Text: "late"}); err != nil {
		t.Fatal(err)
	}
	if _, err := transport.Call[echo](t.Context(), listener, "rmq.test.nobody", &echo{}); !errors.Is(err, protocol.Unreachable) {
		t.Fatal(err) // it was behind the event
	}
	if len(heard) != 0 {
		t.Fatal("an event came after stop")
	}
}

func TestTooLargeEvent(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	c := dial(t, f.Addr(), transport.Options{})
	err := c.Publish("rmq.test.events", protocol.RouteChanged, &protocol.SendRequest{Batches: make([]byte, protocol.MaxFrameBytes)})
	if !errors.Is(err, protocol.IllegalMessage) {
		t.Fatalf("got %v", err)
	}
}
