package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/nameserver"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/fabric"
)

// drainTimeout bounds the waiting for running requests when a server stops.
const drainTimeout = 8 * time.Second

func (a *app) serverCommand() *cobra.Command {
	var checkConfig bool
	c := &cobra.Command{
		Use: "server [all|nameserver|broker]", Short: "Run a server: everything in one process, or one role of a cluster",
		Long: `Run a server: everything in one process (all, the default), or one role of a cluster.

  rmq server                                      everything, on 127.0.0.1:9876
  rmq server nameserver                           a name server, on 127.0.0.1:9876
  rmq server broker --namesrv 127.0.0.1:9876      a broker, on 127.0.0.1:10911

Settings come from flags, else the environment (RMQ_BROKER_STORE_PATH), else
the YAML file of --config, else defaults; --check-config shows all of them. Some
(broker.disk.*) have no flag.
SIGTERM or SIGINT ends it in good order: exit code 0.`,
		Args:      takes("[ROLE]"),
		ValidArgs: roles,
		RunE: func(cmd *cobra.Command, args []string) error {
			role := roleAll
			if len(args) > 0 {
				role = args[0]
			}
			if !slices.Contains(roles, role) {
				return unknownRole(role)
			}
			settings, err := a.settings(cmd, role)
			if err != nil {
				return err
			}
			cfg, err := newServerConfig(role, settings)
			if checkConfig {
				return errors.Join(printList(a, settings, settingTable()), err)
			}
			if err != nil {
				return err
			}
			return a.serve(cmd.Context(), cfg)
		},
	}
	declareKnobs(c)
	c.Flags().BoolVar(&checkConfig, "check-config", false, "print the settings and where each comes from, and start nothing")
	return c
}

func unknownRole(role string) error {
	f := usagef("unknown role %q for \"rmq server\"", role)
	f.Hint = "one of: " + strings.Join(roles, ", ")
	if near := nearest(role, roles); len(near) > 0 {
		f.Hint = "did you mean " + orList(near) + "?"
	}
	return f
}

// declareKnobs makes a flag of each knob. Their values are read as texts, and
// their defaults depend on the role.
func declareKnobs(c *cobra.Command) {
	f := c.Flags()
	f.String("data", "", "`DIR` of the broker's data (default ./rmq-data)")
	f.String("listen", "", "`HOST:PORT` for clients; port 0 is any free one (default 127.0.0.1:9876, of a lone broker 127.0.0.1:10911)")
	f.String("http", "", "`HOST:PORT` for /livez, /readyz and /metrics, or none (default 127.0.0.1:5557, of a lone name server 127.0.0.1:5558)")
	f.String("name", "", "`NAME` of the broker (default broker-a)")
	f.Int("id", 0, "`ID` of the broker; 0 is the master")
	f.String("cluster", "", "`NAME` of the cluster (default DefaultCluster)")
	f.String("flush", "", "when a message is acknowledged: sync (on disk) or async (default sync)")
	f.String("retention", "", "how long messages are kept whose topic says nothing else: a `DURATION` (72h, 7d) or forever (default 72h)")
	f.String("retention-bytes", "", "drop the oldest messages, whatever their age, when the log is larger: `BYTES` (10GiB); 0: no limit (default 0)")
	f.Bool("auto-create-topics", true, "create a topic when somebody sends to it")
	f.Int("default-queues", 8, "queues of topics that are created so")
	f.String("advertise", "", "`HOST:PORT,...` that clients are told (default: where it listens)")
	f.String("log-level", "", "debug, info, warn or error (default info)")
	f.Bool("insecure", false, "listen on addresses that others can reach, without authentication")
	complete(c, "flush", "sync", "async")
	complete(c, "retention", "24h", "72h", "7d", retentionForever)
	complete(c, "log-level", "debug", "info", "warn", "error")
}

// server is one server process: the roles that it runs and what they stand on.
type server struct {
	cfg    serverConfig
	log    *slog.Logger
	health *health
	fabric *fabric.Server
	conn   *transport.Conn // of the name server
	broker *broker.Broker

	stopNameServer context.CancelFunc
	nameServer     sync.WaitGroup
	failed         chan error // of the name server, at most one
}

// serve runs the server until ctx ends.
func (a *app) serve(ctx context.Context, cfg serverConfig) error {
	s := &server{cfg: cfg, log: a.serverLog(cfg.logLevel), health: &health{}, failed: make(chan error, 1)}
	err := s.open(ctx)
	switch {
	case err == nil:
		a.serverLog(slog.LevelInfo).Info("ready", s.readyFields()...)
		err = s.wait(ctx)
	case ctx.Err() != nil:
		err = nil // stopped before it was ready, which is no failure
	}
	return errors.Join(err, s.close(ctx))
}

// serverLog writes to stdout, as is usual for servers: JSON unless people look.
func (a *app) serverLog(level slog.Level) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if isTerminal(a.out) {
		return slog.New(slog.NewTextHandler(a.out, opts))
	}
	return slog.New(slog.NewJSONHandler(a.out, opts))
}

func (s *server) readyFields() []any {
	fields := []any{"role", s.cfg.role, "listen", s.fabric.Addr(), "http", s.health.addr(), "pid", os.Getpid(), "version", thisBuild().Version}
	if s.broker != nil {
		fields = append(fields, "cluster", s.cfg.cluster, "broker", s.cfg.name, "data", s.cfg.data)
	}
	return fields
}

// open starts everything; when it returns without an error, clients can send
// and receive.
func (s *server) open(ctx context.Context) (err error) {
	if s.cfg.insecure {
		s.log.Warn("there is no authentication: whoever reaches the server can read and delete everything")
	}
	if err := s.health.open(s.cfg.http); err != nil {
		return err
	}
	s.fabric, err = fabric.Start(fabric.Config{Name: s.cfg.fabricName(), Listen: s.cfg.listen, Logger: s.log.With("component", "fabric")})
	if err != nil {
		return err
	}
	if s.cfg.role != roleBroker {
		if err := s.openNameServer(ctx); err != nil {
			return err
		}
	}
	if s.cfg.role != roleNameServer {
		if err := s.openBroker(ctx); err != nil {
			return err
		}
	}
	s.health.set("")
	return nil
}

func (c serverConfig) fabricName() string {
	if c.role == roleNameServer {
		return "" // a random one: name servers have no names
	}
	return c.name + "." + number(c.id)
}

func (s *server) openNameServer(ctx context.Context) (err error) {
	log := s.log.With("component", "nameserver")
	s.conn, err = transport.Dial("", transport.Options{Name: "nameserver", Logger: log, InProcess: s.fabric})
	if err != nil {
		return err
	}
	n := nameserver.New(nameserver.Config{Logger: log}, s.conn)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stopNameServer = stop
	s.nameServer.Go(func() {
		if err := n.Run(running); err != nil {
			s.failed <- err
		}
	})
	select {
	case <-n.Ready():
		return nil
	case err := <-s.failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *server) openBroker(ctx context.Context) (err error) {
	s.broker, err = broker.Open(ctx, broker.Config{
		Cluster: s.cfg.cluster, Name: s.cfg.name, ID: s.cfg.id, DataDir: s.cfg.data,
		NameServers: s.cfg.nameServers, Advertise: s.cfg.advertise, Version: thisBuild().Version,
		NoAutoCreateTopics: !s.cfg.autoCreate, DefaultQueues: s.cfg.defaultQueues,
		Store: store.Options{Flush: s.cfg.flush, Watermarks: s.cfg.watermarks}, Retention: s.cfg.retention,
		Delays: s.cfg.delays, Transactions: s.cfg.transactions, Idempotence: s.cfg.idempotence, Logger: s.log.With("component", "broker"),
	}, s.fabric)
	if err != nil {
		return err
	}
	s.health.watch(func() error { return s.broker.Status().Refusing })
	metrics, err := newMetrics(s.cfg, s.broker)
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	s.health.expose(metrics)
	return nil
}

// wait returns when the server is to stop, or its name server has failed.
func (s *server) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		s.log.Info("stopping", "cause", context.Cause(ctx))
		return nil
	case err := <-s.failed:
		return err
	}
}

// close ends everything in the opposite order.
func (s *server) close(ctx context.Context) error {
	s.health.set("stopping")
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	var err error
	if s.broker != nil {
		err = s.broker.Close(ending)
	}
	if s.stopNameServer != nil {
		s.stopNameServer()
	}
	s.nameServer.Wait()
	if s.conn != nil {
		s.conn.Close()
	}
	if s.fabric != nil {
		s.fabric.Close()
	}
	return errors.Join(err, s.health.close())
}
