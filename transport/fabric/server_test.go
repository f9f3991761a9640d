package fabric_test

import (
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"

	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, cfg fabric.Config) *fabric.Server {
	t.Helper()
	s, err := fabric.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// TestTakesConnections looks at what a client sees, over TCP and in process.
func TestTakesConnections(t *testing.T) {
	s := start(t, fabric.Config{Name: "ns-1", Listen: "127.0.0.1:0"})
	if _, port, err := net.SplitHostPort(s.Addr()); err != nil || port == "0" {
		t.Fatalf("addr %q, %v", s.Addr(), err)
	}
	for name, options := range map[string][]nats.Option{"tcp": nil, "in process": {nats.InProcessServer(s)}} {
		nc, err := nats.Connect("nats://"+s.Addr(), options...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if nc.MaxPayload() != protocol.MaxFrameBytes || nc.ConnectedServerName() != "ns-1" {
			t.Errorf("%s: max payload %d of %s", name, nc.MaxPayload(), nc.ConnectedServerName())
		}
		if js, err := nc.JetStream(); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if _, err := js.AccountInfo(); err == nil {
			t.Errorf("%s: JetStream is on", name)
		}
		nc.Close()
	}
}

func TestPortInUse(t *testing.T) {
	first := start(t, fabric.Config{Listen: "127.0.0.1:0"})
	log := new(lines)
	s, err := fabric.Start(fabric.Config{Listen: first.Addr(), Logger: slog.New(slog.NewTextHandler(log, nil))})
	if !errors.Is(err, fabric.ErrAddressInUse) || !strings.Contains(err.Error(), first.Addr()) {
		t.Fatalf("got %v, %v", s, err)
	}
}

func TestAddressThatCannotBeBound(t *testing.T) {
	for _, listen := range []string{"", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "127.0.0.1:-1", "192.0.2.1:0"} {
		s, err := fabric.Start(fabric.Config{Listen: listen})
		if err == nil {
			s.Close()
			t.Errorf("%q was bound", listen)
		} else if errors.Is(err, fabric.ErrAddressInUse) || !strings.Contains(err.Error(), listen) {
			t.Errorf("%q: %v", listen, err)
		}
	}
}

// TestRestartOnTheSamePort closes with a connection open.
func TestRestartOnTheSamePort(t *testing.T) {
	first := start(t, fabric.Config{Listen: "127.0.0.1:0"})
	cut := make(chan struct{})
	nc, err := nats.Connect("nats://"+first.Addr(), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(cut) }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	first.Close()
	first.Close() // twice is fine
	<-cut
	second := start(t, fabric.Config{Listen: first.Addr()})
	if second.Addr() != first.Addr() {
		t.Fatalf("%s became %s", first.Addr(), second.Addr())
	}
	if _, err := first.InProcessConn(); err == nil {
		t.Error("a closed server takes connections")
	}
}

func TestServersLogIsPassedOn(t *testing.T) {
	log := new(lines)
	start(t, fabric.Config{
		Listen: "127.0.0.1:0",
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if got := log.String(); !strings.Contains(got, "component=nats") || !strings.Contains(got, "level=DEBUG") || strings.Contains(got, "level=INFO") {
		t.Fatalf("log: %s", got)
	}
}

type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
