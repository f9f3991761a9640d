// Package rmqtest runs a real rmq server inside a test process, so that programs
// with a queue are tested against what they run with: name server, broker and
// wire, over loopback, with its data on disk.
package rmqtest

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

// stopTimeout bounds the end of a broker.
const stopTimeout = 30 * time.Second

// plenty is how many bytes of the disk the broker takes for free.
const plenty = 1 << 40

// Server is a standalone server: name server and broker, as `rmq server` runs
// them. Its methods are for the goroutine of the test.
type Server struct {
	// Config is the broker's; what is changed while the server is stopped holds
	// from the next Start on.
	Config broker.Config

	t              testing.TB
	listen         string
	fabric         *fabric.Server
	stopNameServer func()
	broker         *broker.Broker // nil: stopped
}

// NewServer runs a server until the test ends, on a free port of 127.0.0.1 and in
// a temporary directory, on a disk that it takes for empty: how full the machine's
// disk is makes no test drop messages. Each change is applied to the broker's
// configuration before it starts. Topics are created when somebody first sends to
// them. Warnings go to the test's log. What fails ends the test.
func NewServer(t testing.TB, change ...func(*broker.Config)) *Server {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := &Server{t: t, listen: "127.0.0.1:0", Config: broker.Config{DataDir: t.TempDir(), Logger: logger}}
	s.Config.Store.DiskUse = func(string) (used int, free int64, err error) { return 0, plenty, nil }
	for _, f := range change {
		f(&s.Config)
	}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// Addr is what clients are given as name server, host:port. It stays the same
// through stops and starts.
func (s *Server) Addr() string { return s.listen }

// Broker is the running broker; nil while the server is stopped.
func (s *Server) Broker() *broker.Broker { return s.broker }

// Start starts a stopped server again, on the same port and directory.
func (s *Server) Start() {
	s.t.Helper()
	var err error
	if s.fabric, err = fabric.Start(fabric.Config{Name: "test", Listen: s.listen, Logger: s.Config.Logger}); err != nil {
		s.t.Fatal(err)
	}
	s.listen = s.fabric.Addr()
	s.stopNameServer = s.runNameServer()
	if s.broker, err = broker.Open(s.t.Context(), s.Config, s.fabric); err != nil {
		s.t.Fatal(err)
	}
}

// Stop drains and stops the server, as SIGTERM does; clients find nobody then.
// Stopping twice is fine.
func (s *Server) Stop() {
	s.t.Helper()
	if s.broker == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), stopTimeout)
	defer cancel()
	if err := s.broker.Close(ctx); err != nil {
		s.t.Error(err)
	}
	s.stopNameServer()
	s.fabric.Close()
	s.broker = nil
}

// Restart stops and starts the server; everything that it acknowledged is there
// again.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.Start()
}

// runNameServer returns what stops it.
func (s *Server) runNameServer() (stop func()) {
	s.t.Helper()
	conn, err := transport.Dial("", transport.Options{Name: "nameserver", InProcess: s.fabric, Logger: s.Config.Logger})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	ns := nameserver.New(nameserver.Config{Logger: s.Config.Logger}, conn)
	done := make(chan error, 1)
	go func() { done <- ns.Run(ctx) }() // stop waits for it
	select {
	case <-ns.Ready():
	case err := <-done:
		s.t.Fatal(err)
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
		conn.Close()
	}
}
