package consumer

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/transport/protocol"
)

// Bounds of a Receive, and the default of SimpleConfig.
const (
	// MaxReceive is the most messages that one Receive returns.
	MaxReceive = protocol.MaxPopCount
	// MinInvisible and MaxInvisible bound the invisible time of a message.
	MinInvisible = protocol.MinInvisibleMillis * time.Millisecond
	MaxInvisible = protocol.MaxInvisibleMillis * time.Millisecond
	// DefaultInvisible is the invisible time of messages that Run hands out. It is
	// how long a message of a consumer that was killed waits for another.
	DefaultInvisible = 30 * time.Second
)

// SimpleConfig is what a Simple needs. Zero values mean the defaults; one way to the
// name servers, Group and one subscription are required.
type SimpleConfig struct {
	// NameServers to MeterProvider are those of Config; the span of a handler is a child
	// of the one in the context of Run.
	NameServers        []string
	ConfigFile         string
	LookupEnv          func(string) (string, bool)
	NameServerEndpoint string
	EndpointInterval   time.Duration
	ClientID           string
	Logger             *slog.Logger
	TracerProvider     trace.TracerProvider
	MeterProvider      metric.MeterProvider

	// Group and Subscriptions are those of Config.
	Group         string
	Subscriptions []Subscription
	// From is where a queue begins that the group has never consumed.
	From StartPosition

	// The rest is for Run.

	// Concurrency is how many handlers run at once: DefaultConcurrency, at most
	// MaxConcurrency.
	Concurrency int
	// Invisible is the invisible time of a message, MinInvisible to MaxInvisible. It
	// is renewed at half time while the handler runs.
	Invisible time.Duration
	// ConsumeTimeout ends the context of a handler that runs for longer, and the
	// renewals of its message, which goes to another then; negative: never.
	ConsumeTimeout time.Duration
	// ShutdownTimeout is how long the end of Run waits for handlers; then their
	// contexts end.
	ShutdownTimeout time.Duration
	// OnError is told of what Receive returns as errors. It must not block. It may be
	// nil.
	OnError func(error)
}

func (cfg *SimpleConfig) settings() (settings, error) {
	setDefault(&cfg.Concurrency, DefaultConcurrency)
	setDefault(&cfg.Invisible, DefaultInvisible)
	setDefault(&cfg.ConsumeTimeout, DefaultConsumeTimeout)
	setDefault(&cfg.ShutdownTimeout, DefaultShutdownTimeout)
	s := settings{
		client: client.Config{
			NameServers: cfg.NameServers, ConfigFile: cfg.ConfigFile, LookupEnv: cfg.LookupEnv,
			NameServerEndpoint: cfg.NameServerEndpoint, EndpointInterval: cfg.EndpointInterval,
			ClientID: cfg.ClientID, Logger: cfg.Logger,
		},
		group: cfg.Group, topics: topicsOf(cfg.Subscriptions), from: cfg.From, log: cfg.Logger,
		tracerProvider: cfg.TracerProvider, meterProvider: cfg.MeterProvider,
	}
	filters, err := filtersOf(cfg.Subscriptions)
	s.filters, err = filters, errors.Join(s.validate(true), err, cfg.validateRun())
	s.readRetries()
	return s, err
}

func (cfg *SimpleConfig) validateRun() error {
	var errs []error
	if cfg.Concurrency < 1 || cfg.Concurrency > MaxConcurrency {
		errs = append(errs, fmt.Errorf("%w: concurrency %d; 1 to %d are allowed", ErrIllegalConfig, cfg.Concurrency, MaxConcurrency))
	}
	if err := checkInvisible(cfg.Invisible); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrIllegalConfig, err))
	}
	return errors.Join(append(errs, notNegative("shutdown timeout", cfg.ShutdownTimeout))...)
}

func checkReceive(max int, invisible time.Duration) error {
	if max < 1 || max > MaxReceive {
		return protocol.Errorf(protocol.InvalidArgument, "%d messages; 1 to %d are allowed", max, MaxReceive)
	}
	return checkInvisible(invisible)
}

func checkInvisible(d time.Duration) error {
	if d < MinInvisible || d > MaxInvisible {
		return protocol.Errorf(protocol.InvalidArgument, "invisible time of %v; %v to %v are allowed", d, MinInvisible, MaxInvisible)
	}
	return nil
}
