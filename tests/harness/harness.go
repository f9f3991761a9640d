// Package harness runs a real cluster inside the test process: NATS servers,
// name servers and brokers, on free loopback ports and in temporary directories.
package harness

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/nameserver"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/fabric"
)

// Timeout bounds every wait of the harness and of the tests that use it.
const Timeout = 30 * time.Second

// Cluster is a standalone server: a NATS server, a name server and a broker.
type Cluster struct {
	// NameServers is what clients are given.
	NameServers []string
	// Config of the broker; tests may change it between Stop and Start.
	Config broker.Config

	t      testing.TB
	listen string
	fabric *fabric.Server
	stopNS func()
	broker *broker.Broker
}

// Start runs a cluster until the test ends.
func Start(t testing.TB, change ...func(*broker.Config)) *Cluster {
	t.Helper()
	c := &Cluster{t: t, listen: "127.0.0.1:0", Config: broker.Config{DataDir: t.TempDir(), Logger: Logger(t)}}
	c.Config.Store.FirstSegmentBytes = 1 << 20
	for _, f := range change {
		f(&c.Config)
	}
	c.Start()
	t.Cleanup(c.Stop)
	return c
}

// Start starts a stopped cluster again, on the same port and directory.
func (c *Cluster) Start() {
	c.t.Helper()
	var err error
	if c.fabric, err = fabric.Start(fabric.Config{Name: "test", Listen: c.listen, Logger: c.Config.Logger}); err != nil {
		c.t.Fatal(err)
	}
	c.listen = c.fabric.Addr()
	c.NameServers = []string{c.listen}
	c.stopNS = RunNameServer(c.t, c.fabric, c.Config.Logger)
	if c.broker, err = broker.Open(c.t.Context(), c.Config, c.fabric); err != nil {
		c.t.Fatal(err)
	}
}

// Stop drains and stops the cluster, as SIGTERM does. Stopping twice is fine.
func (c *Cluster) Stop() {
	c.t.Helper()
	if c.broker == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), Timeout)
	defer cancel()
	if err := c.broker.Close(ctx); err != nil {
		c.t.Error(err)
	}
	c.stopNS()
	c.fabric.Close()
	c.broker = nil
}

// Restart stops and starts the cluster.
func (c *Cluster) Restart() {
	c.t.Helper()
	c.Stop()
	c.Start()
}

// Broker is the running broker.
func (c *Cluster) Broker() *broker.Broker { return c.broker }

// RunNameServer runs a name server on a NATS server and returns what stops it.
func RunNameServer(t testing.TB, f *fabric.Server, logger *slog.Logger) (stop func()) {
	t.Helper()
	conn, err := transport.Dial("", transport.Options{Name: "nameserver", InProcess: f, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ns := nameserver.New(nameserver.Config{Logger: logger}, conn)
	done := make(chan error, 1)
	go func() { done <- ns.Run(ctx) }()
	select {
	case <-ns.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		conn.Close()
	}
}

// Logger writes to the test's log what is worth a warning.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// Eventually waits until the condition holds, and fails the test when it does
// not within Timeout.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(Timeout)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", Timeout, what)
		case <-tick.C:
		}
	}
}
