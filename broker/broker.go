// Package broker is the server that keeps queues: it takes messages into its
// log, gives them out, and keeps topics, groups, offsets and leases as views of
// the log.
//
// broker.go wires the parts together; each family of requests has a file of its
// own with a small handler type that holds only what it needs. Goroutines: one
// that ends sessions (clients.go), one that tells members of changes (notices.go),
// one that drops old messages (retention.go), one that releases delayed messages
// (timers.go), one that has producers asked for their transactions (checks.go), one
// for each name server (registration.go), one that scrubs sealed segments, and those of the log and of transport. Close
// joins them.
package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// Config of a broker. Zero values mean the defaults.
type Config struct {
	Cluster string // default DefaultCluster, as in RocketMQ
	Name    string // default broker-a
	ID      int    // 0: master
	DataDir string // required
	// NameServers are host:port. None: the name server is in this process, on
	// the broker's own NATS server.
	NameServers []string
	// Advertise are the addresses that clients are told, host:port; default: the
	// address that the NATS server listens on.
	Advertise []string
	// Version is what the status says.
	Version string
	// NoAutoCreateTopics refuses topics that nobody created.
	NoAutoCreateTopics bool
	// DefaultQueues is the number of queues of auto-created topics; default 8.
	DefaultQueues int
	// SessionTimeout ends a client's session without heartbeats; default 6 s.
	SessionTimeout time.Duration
	// Retention says how long messages are kept; Store.Watermarks, when the disk
	// is too full for that.
	Retention Retention
	// Delays says for how long messages may be held back.
	Delays Delays
	// Transactions says when producers are asked for the outcome of half messages.
	Transactions Transactions
	// Idempotence says what is remembered, so that what comes again is known.
	Idempotence Idempotence
	Store       store.Options // Apply, Answer, Dropped and Position are the broker's
	Logger      *slog.Logger
	Now         func() time.Time
}

// Fabric is the broker's embedded NATS server.
type Fabric interface {
	Addr() string // host:port
	InProcessConn() (net.Conn, error)
	Peers() map[string]string // addresses of connections by name
}

// LogDir is the folder of the log within a data directory.
const LogDir = "log"

// Limits of what is under way at once, by class; one request more is answered
// with Busy. A waiting pull counts.
var classLimits = map[protocol.Class]transport.Limits{
	protocol.ClassSend:   {Requests: 16384, Bytes: 64 << 20},
	protocol.ClassPull:   {Requests: 10000, Bytes: 64 << 20},
	protocol.ClassClient: {Requests: 4096, Bytes: 64 << 20},
	protocol.ClassAdmin:  {Requests: 256, Bytes: 64 << 20},
}

// Broker is a running broker. Its methods are safe for concurrent use.
type Broker struct {
	cfg          Config
	logger       *slog.Logger
	lock         io.Closer // of the data directory
	state        *state
	clients      *clients
	registration *registration
	retention    *retention
	topics       *topicAdmin
	timers       *timers
	transactions *transactions
	conn         *transport.Conn
	servers      map[protocol.Class]*transport.Server
	started      time.Time
	groups       *groupAdmin
	observing    metric.Registration // nil: nobody wants metrics
	closing      chan struct{}       // closed by Close
	cancel       context.CancelFunc
	goroutines   sync.WaitGroup
}

func (c Config) withDefaults() (Config, error) {
	set := func(s *string, d string) {
		if *s == "" {
			*s = d
		}
	}
	set(&c.Cluster, "DefaultCluster")
	set(&c.Name, "broker-a")
	if c.DefaultQueues == 0 {
		c.DefaultQueues = 8
	}
	if c.SessionTimeout == 0 {
		c.SessionTimeout = group.DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Store.Logger, c.Store.Now = c.Logger.With("component", "store"), c.Now
	var errs []error
	var err error
	c.Retention, err = c.Retention.withDefaults()
	errs = append(errs, err)
	c.Delays, err = c.Delays.withDefaults()
	errs = append(errs, err)
	c.Transactions, err = c.Transactions.withDefaults()
	errs = append(errs, err)
	c.Idempotence, err = c.Idempotence.withDefaults()
	errs = append(errs, err, message.CheckBroker(c.Cluster), message.CheckBroker(c.Name))
	if c.DataDir == "" {
		errs = append(errs, errors.New("no data directory"))
	}
	if c.DefaultQueues < 1 || c.DefaultQueues > 1024 {
		errs = append(errs, fmt.Errorf("%d default queues; 1 to 1024 are allowed", c.DefaultQueues))
	}
	if c.ID < 0 {
		errs = append(errs, fmt.Errorf("broker id %d is negative", c.ID))
	}
	return c, errors.Join(errs...)
}

// Open opens the data directory, recovers, registers and serves. When it
// returns, clients can send and receive. Errors: store.ErrLocked,
// store.ErrDamaged, store.ErrNewerVersion, or of the configuration.
func Open(ctx context.Context, cfg Config, fabric Fabric) (*Broker, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, err
	}
	lock, err := store.LockDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	b := &Broker{cfg: cfg, logger: cfg.Logger, lock: lock, closing: make(chan struct{}), servers: map[protocol.Class]*transport.Server{}, started: cfg.Now()}
	if err := b.open(ctx, fabric); err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	return b, nil
}

func (b *Broker) open(ctx context.Context, fabric Fabric) (err error) {
	b.conn, err = transport.Dial("", transport.Options{Name: b.cfg.Name, Logger: b.logger, InProcess: fabric})
	if err != nil {
		return err
	}
	b.cfg.Store.Answer = b.conn.Gather
	b.state, err = openState(filepath.Join(b.cfg.DataDir, LogDir), filepath.Join(b.cfg.DataDir, "views.db"), b.cfg)
	if err != nil {
		return err
	}
	b.retention = newRetention(b.state, b.cfg)
	b.retention.look(ctx)
	b.clients = newClients(b.state, b.conn, b.cfg)
	b.registration = newRegistration(b.cfg, b.addresses(fabric), b.conn, b.state)
	b.topics = &topicAdmin{state: b.state, cfg: b.cfg, registration: b.registration}
	b.timers = newTimers(b.state, b.cfg)
	b.transactions = newTransactions(b.state, b.conn, b.clients, b.topics, b.cfg)
	b.clients.joined = b.transactions.wake
	if err := b.serve(fabric); err != nil {
		return err
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	b.cancel = cancel
	b.goroutines.Go(func() { b.clients.run(running) })
	b.goroutines.Go(func() { b.clients.runNotices(running) })
	b.goroutines.Go(func() { b.retention.run(running) })
	b.goroutines.Go(func() { b.registration.run(running) })
	b.goroutines.Go(func() { b.timers.run(running) })
	b.goroutines.Go(func() { b.transactions.run(running) })
	b.goroutines.Go(func() { b.state.log.Scrub(running) })
	return b.registration.waitFirst(ctx)
}

// serve puts the handlers of each class on its subject.
func (b *Broker) serve(fabric Fabric) error {
	muxes := map[protocol.Class]*transport.Mux{}
	for class := range classLimits {
		muxes[class] = transport.NewMux()
	}
	quotas := newQuotas(b.state)
	quotas.register(muxes[protocol.ClassAdmin])
	(&sender{state: b.state, quotas: quotas, timers: b.timers, transactions: b.transactions}).register(muxes[protocol.ClassSend])
	(&puller{state: b.state, closing: b.closing}).register(muxes[protocol.ClassPull])
	b.clients.register(muxes[protocol.ClassClient])
	newReplies(b.clients, b.conn, b.closing).register(muxes[protocol.ClassClient])
	(&offsets{state: b.state}).register(muxes[protocol.ClassClient])
	b.topics.register(muxes[protocol.ClassAdmin])
	backs := newSendBacks(b.state, b.timers, b.topics, b.cfg.Now)
	backs.register(muxes[protocol.ClassClient], muxes[protocol.ClassAdmin])
	newPops(b.state, b.clients, backs, b.cfg.Now, b.closing).register(muxes[protocol.ClassPull], muxes[protocol.ClassClient])
	b.timers.register(muxes[protocol.ClassClient], muxes[protocol.ClassAdmin])
	b.transactions.register(muxes[protocol.ClassClient], muxes[protocol.ClassAdmin])
	b.groups = newGroupAdmin(b)
	b.groups.register(muxes[protocol.ClassAdmin])
	(&clientAdmin{state: b.state, clients: b.clients, now: b.cfg.Now, peers: fabric.Peers}).register(muxes[protocol.ClassAdmin])
	(&querier{state: b.state}).register(muxes[protocol.ClassAdmin])
	(&tracer{state: b.state}).register(muxes[protocol.ClassAdmin])
	(&status{state: b.state, clients: b.clients, cfg: b.cfg, started: b.started}).register(muxes[protocol.ClassAdmin])
	for class, limits := range classLimits {
		s, err := transport.Serve(b.conn, protocol.BrokerSubject(b.cfg.Name, b.cfg.ID, class), limits, muxes[class])
		if err != nil {
			return fmt.Errorf("serve %s: %w", class, err)
		}
		b.servers[class] = s
	}
	return nil
}

// addresses are what clients are told. A server that listens on all addresses
// is reachable at each of the machine's.
func (b *Broker) addresses(fabric Fabric) []string {
	if len(b.cfg.Advertise) > 0 {
		return b.cfg.Advertise
	}
	host, port, err := net.SplitHostPort(fabric.Addr())
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsUnspecified() {
		return []string{fabric.Addr()}
	}
	var found []string
	all, err := net.InterfaceAddrs()
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && err == nil && !strings.HasPrefix(n.IP.String(), "fe80:") {
			found = append(found, net.JoinHostPort(n.IP.String(), port))
		}
	}
	return found
}

// Close leaves the routes, refuses new requests with Unavailable, answers those
// under way, writes the views and closes the log. ctx bounds the waiting for
// requests. What was acknowledged is on disk before and after. Close is called
// once.
func (b *Broker) Close(ctx context.Context) error {
	var errs []error
	if b.observing != nil {
		errs = append(errs, b.observing.Unregister())
	}
	close(b.closing)
	if b.cancel != nil {
		b.cancel()
		b.goroutines.Wait()
	}
	if b.registration != nil {
		b.registration.close()
	}
	var draining sync.WaitGroup
	drained := make(chan error, len(b.servers))
	for _, s := range b.servers {
		draining.Go(func() { drained <- s.Drain(ctx) })
	}
	draining.Wait()
	close(drained)
	for err := range drained {
		errs = append(errs, err)
	}
	if b.state != nil {
		errs = append(errs, b.state.close())
	}
	if b.conn != nil {
		b.conn.Close()
	}
	return errors.Join(append(errs, b.lock.Close())...)
}

// Status is how the log is.
func (b *Broker) Status() store.Status { return b.state.log.Status() }
