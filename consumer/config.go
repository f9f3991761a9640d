package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/internal/telemetry"
	"github.com/rmqio/rmq/message"
)

// Defaults of Config and PullConfig.
const (
	// DefaultConcurrency is RocketMQ's consumeThreadMin.
	DefaultConcurrency = 20
	// MaxConcurrency is RocketMQ's bound of consumeThreadMax.
	MaxConcurrency = 1000
	// DefaultMaxPrefetch is RocketMQ's pullThresholdForQueue.
	DefaultMaxPrefetch = 1000
	// DefaultMaxPrefetchBytes bounds a whole consumer, where RocketMQ bounds each
	// queue (100 MiB): so that memory does not depend on the number of queues.
	DefaultMaxPrefetchBytes = 64 << 20
	// DefaultCommitInterval is less than RocketMQ's 5 s: after a crash less comes again.
	DefaultCommitInterval = time.Second
	// DefaultConsumeTimeout is RocketMQ's.
	DefaultConsumeTimeout = 15 * time.Minute
	// DefaultSuspendTime is RocketMQ's (suspendCurrentQueueTimeMillis).
	DefaultSuspendTime = time.Second
	// DefaultRebalanceTimeout is how long a queue waits for its handlers.
	DefaultRebalanceTimeout = 10 * time.Second
	// DefaultShutdownTimeout is how long the end of Run waits for handlers.
	DefaultShutdownTimeout = 30 * time.Second
)

// Subscription is a topic that a consumer reads: all of it, or the messages that
// Tag or SQL lets through. At most one of these is set.
type Subscription struct {
	Topic string
	// Tag is one tag, or several: "paid || open". "*" is any, and none.
	Tag string
	// SQL is an expression over properties, as in SQL92: "amount > 100 AND
	// region IN ('eu', 'us')". Package message/filter has the language.
	SQL string
}

// Config is what a push consumer needs. Zero values mean the defaults; one way
// to the name servers, Group and one subscription are required.
type Config struct {
	// NameServers are host:port; an element may be a list, "a;b" or "a,b". It is
	// the first of the four ways to find name servers, the next three follow.
	NameServers []string
	// ConfigFile may have the property rocketmq.namesrv.addr.
	ConfigFile string
	// LookupEnv is asked for RMQ_NAMESRV, then NAMESRV_ADDR; nil: os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// NameServerEndpoint is an HTTP URL that answers with a ';' list, asked again
	// every EndpointInterval (120 s).
	NameServerEndpoint string
	EndpointInterval   time.Duration
	// ClientID is unique among all clients; empty: host@pid#random.
	ClientID string
	// Logger is silent when nil.
	Logger *slog.Logger
	// TracerProvider and MeterProvider hear of every delivery, in the words of
	// OpenTelemetry's conventions for messaging. Handlers are given the context of
	// their span: a child of the span that is in Run's context, or else of the one
	// that sent the message, to which it is linked in any case. Messages that are
	// given back, and Commit, have spans of their own; commits in the background
	// have none.
	// Nil: the global ones, which may be set later. As long as there is none,
	// nothing is spent on it.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// Group shares the queues of the topics among its members, which must all
	// have the same subscriptions: one that has others is refused (ErrRefused). A
	// group may let its members have different topics, though not different
	// filters of one topic.
	Group         string
	Subscriptions []Subscription
	// From is where a queue begins that the group has never committed.
	From StartPosition

	// Broadcast has this member read all queues, as every other member does
	// (RocketMQ's BROADCASTING); a group's members all broadcast, or none does, and
	// they have equal subscriptions. Each keeps its own offsets, by its ClientID, which
	// must be the same after each start and no other member's; empty, it is
	// HOST@GROUP. A message that fails is tried again by this member, after 1 s and
	// then up to 30 s, or SuspendTime if it keeps its place; it is dropped, and OnError told
	// (ErrDropped), with ErrReject or after MaxReconsumeTimes. A group's switch for
	// consuming holds with BrokerOffsets only, as that of the BroadcastGroup.
	Broadcast bool
	// OffsetsDir is where a broadcasting member keeps its offsets, in the file
	// CLIENT/GROUP/offsets.json, in which names are escaped as in BroadcastGroup. A member that uses the
	// same file is refused (ErrOffsetsInUse), and Run fails when it is damaged
	// (ErrOffsetsDamaged). Without the file the member begins at From. A topic that was
	// deleted and made again while the member was stopped is taken for the old one.
	// Empty: rmq/offsets in the user's folder for configuration (os.UserConfigDir).
	OffsetsDir string
	// BrokerOffsets keeps the offsets of a broadcasting member on the brokers: they are
	// those of the group BroadcastGroup(Group, ClientID).
	BrokerOffsets bool

	// Strategy shares the queues among the members, which must all have the same
	// one; nil: Averagely.
	Strategy Strategy

	// Concurrency is how many handlers run at once; see SetConcurrency.
	Concurrency int
	// BatchSize is the most messages that a BatchHandler is given at once, 1 to
	// MaxBatchSize; other handlers get one.
	BatchSize int
	// Rate bounds how many messages are handed out in a second, those that are tried
	// again included; 0: as many as the handlers take. Up to Burst may come at once;
	// 0: as many as come in 10 ms. See SetRate.
	Rate  float64
	Burst int
	// Ordered hands the messages of each queue out strictly one after another.
	// Without it that holds for the messages of one message group only.
	Ordered bool
	// ConsumeTimeout ends the context of a handler that runs for longer;
	// negative: never. The message counts as running until the handler returns.
	ConsumeTimeout time.Duration
	// SuspendTime is how long a message of a message group (with Ordered, of a queue)
	// that failed waits until it is tried again, 10 ms to 30 s.
	SuspendTime time.Duration
	// MaxReconsumeTimes is how often a message that fails is delivered again before it
	// is a dead letter; negative: never; 0: as often as the group's RetryMax says, and
	// where the message keeps its place for ever. More than RetryMax makes no
	// difference to messages without a place to keep. With Broadcast 0 is
	// DefaultBroadcastRetries for these.
	MaxReconsumeTimes int
	// MaxPrefetch bounds the messages held of each queue, up to one batch more.
	MaxPrefetch int
	// MaxPrefetchBytes bounds the bytes held of all queues, up to one batch of
	// each broker more.
	MaxPrefetchBytes int
	// CommitInterval is the time between commits; what was finished since the
	// last one comes again after a crash.
	CommitInterval time.Duration
	// RebalanceTimeout is how long a queue that goes to another member waits for
	// its running handlers; then their contexts end and it goes.
	RebalanceTimeout time.Duration
	// ShutdownTimeout is the same for the end of Run.
	ShutdownTimeout time.Duration
	// OnError is told of faults that reading of a queue waits on, such as
	// damaged data, and of ErrCompressed and ErrDropped, once for each; they are logged
	// too. It is called from the
	// consumer's goroutines and must not block. It may be nil.
	OnError func(error)
}

// PullConfig is what a pull consumer needs. Zero values mean the defaults; one
// way to the name servers is required, and with a Group one subscription.
type PullConfig struct {
	// NameServers to MeterProvider are those of Config.
	NameServers        []string
	ConfigFile         string
	LookupEnv          func(string) (string, bool)
	NameServerEndpoint string
	EndpointInterval   time.Duration
	ClientID           string
	Logger             *slog.Logger
	TracerProvider     trace.TracerProvider
	MeterProvider      metric.MeterProvider

	// Group, when set, makes the consumer a member: it reads the queues that the
	// group gives it, from where the group has committed. Without a group it
	// reads all queues, or those of Assign, and never commits.
	Group string
	// Subscriptions are the topics to read.
	Subscriptions []Subscription
	// From is where a queue begins that the group has never committed; without a
	// group, where every queue begins.
	From StartPosition
	// Broadcast, OffsetsDir and BrokerOffsets are those of Config.
	Broadcast     bool
	OffsetsDir    string
	BrokerOffsets bool
	// Strategy is that of Config.
	Strategy Strategy
	// ManualCommit leaves it to Commit to say that messages are processed.
	// Without it those that were returned are processed when the next ones are
	// asked for, and at Close.
	ManualCommit bool

	// MaxPrefetch, MaxPrefetchBytes, CommitInterval and RebalanceTimeout are
	// those of Config; a message runs from its return until it is processed.
	MaxPrefetch      int
	MaxPrefetchBytes int
	CommitInterval   time.Duration
	RebalanceTimeout time.Duration
}

// settings are what the engine needs of either configuration.
type settings struct {
	client           client.Config
	group            string // whose offsets are committed; empty: none is
	broadcast        string // the group of a broadcasting member
	offsetsDir       string // of such a one that keeps its offsets in a file
	topics           []string
	retry            string // that of topics which need not exist; empty: none
	filters          topicFilters
	from             StartPosition
	strategy         Strategy
	order            order
	maxPrefetch      int
	maxPrefetchBytes int
	commitInterval   time.Duration
	rebalanceTimeout time.Duration
	shutdownTimeout  time.Duration
	onFault          func(error) // may be nil
	log              *slog.Logger

	tracerProvider trace.TracerProvider
	meterProvider  metric.MeterProvider
	telemetry      *telemetry.Receives // since there is a client
}

func (cfg *Config) settings() (settings, error) {
	setDefault(&cfg.Concurrency, DefaultConcurrency)
	setDefault(&cfg.ConsumeTimeout, DefaultConsumeTimeout)
	setDefault(&cfg.ShutdownTimeout, DefaultShutdownTimeout)
	setDefault(&cfg.SuspendTime, DefaultSuspendTime)
	setDefault(&cfg.BatchSize, DefaultBatchSize)
	s := settings{
		client: client.Config{
			NameServers: cfg.NameServers, ConfigFile: cfg.ConfigFile, LookupEnv: cfg.LookupEnv,
			NameServerEndpoint: cfg.NameServerEndpoint, EndpointInterval: cfg.EndpointInterval,
			ClientID: cfg.ClientID, Logger: cfg.Logger,
		},
		group: cfg.Group, topics: topicsOf(cfg.Subscriptions), from: cfg.From, strategy: cfg.Strategy, order: orderGroups,
		maxPrefetch: cfg.MaxPrefetch, maxPrefetchBytes: cfg.MaxPrefetchBytes, commitInterval: cfg.CommitInterval,
		rebalanceTimeout: cfg.RebalanceTimeout, shutdownTimeout: cfg.ShutdownTimeout, onFault: cfg.OnError, log: cfg.Logger,
		tracerProvider: cfg.TracerProvider, meterProvider: cfg.MeterProvider,
	}
	if cfg.Ordered {
		s.order = orderQueue
	}
	filters, err := filtersOf(cfg.Subscriptions)
	s.filters, err = filters, errors.Join(s.validate(true), err)
	err = errors.Join(err, checkConcurrency(cfg.Concurrency))
	if cfg.SuspendTime < 10*time.Millisecond || cfg.SuspendTime > 30*time.Second {
		err = errors.Join(err, fmt.Errorf("%w: suspend time %v; 10ms to 30s are allowed", ErrIllegalConfig, cfg.SuspendTime))
	}
	err = errors.Join(err, cfg.checkBatch(), checkRate(cfg.Rate, cfg.Burst), checkBroadcast(cfg.Broadcast, cfg.OffsetsDir, cfg.BrokerOffsets),
		notNegative("shutdown timeout", s.shutdownTimeout))
	if cfg.Broadcast {
		return s, errors.Join(err, s.broadcasting(cfg.OffsetsDir, cfg.BrokerOffsets))
	}
	s.readRetries()
	return s, err
}

func (cfg *PullConfig) settings() (settings, error) {
	s := settings{
		client: client.Config{
			NameServers: cfg.NameServers, ConfigFile: cfg.ConfigFile, LookupEnv: cfg.LookupEnv,
			NameServerEndpoint: cfg.NameServerEndpoint, EndpointInterval: cfg.EndpointInterval,
			ClientID: cfg.ClientID, Logger: cfg.Logger,
		},
		group: cfg.Group, topics: topicsOf(cfg.Subscriptions), from: cfg.From, strategy: cfg.Strategy, order: orderFree,
		maxPrefetch: cfg.MaxPrefetch, maxPrefetchBytes: cfg.MaxPrefetchBytes, commitInterval: cfg.CommitInterval,
		rebalanceTimeout: cfg.RebalanceTimeout, log: cfg.Logger,
		tracerProvider: cfg.TracerProvider, meterProvider: cfg.MeterProvider,
	}
	filters, err := filtersOf(cfg.Subscriptions)
	s.filters = filters
	err = errors.Join(s.validate(cfg.Group != "" || cfg.Broadcast), err, checkBroadcast(cfg.Broadcast, cfg.OffsetsDir, cfg.BrokerOffsets))
	if cfg.Broadcast {
		err = errors.Join(err, s.broadcasting(cfg.OffsetsDir, cfg.BrokerOffsets))
	}
	return s, err
}

// validate fills in defaults and names every fault at once.
func (s *settings) validate(inGroup bool) error {
	setDefault(&s.maxPrefetch, DefaultMaxPrefetch)
	setDefault(&s.maxPrefetchBytes, DefaultMaxPrefetchBytes)
	setDefault(&s.commitInterval, DefaultCommitInterval)
	setDefault(&s.rebalanceTimeout, DefaultRebalanceTimeout)
	if s.strategy == nil {
		s.strategy = Averagely
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	errs := []error{s.client.Validate(), s.from.validate(),
		notNegative("commit interval", s.commitInterval), notNegative("rebalance timeout", s.rebalanceTimeout)}
	if inGroup {
		errs = append(errs, message.CheckGroup(s.group))
		if len(s.topics) == 0 {
			errs = append(errs, fmt.Errorf("%w: no subscription", ErrIllegalConfig))
		}
	}
	for _, t := range s.topics {
		errs = append(errs, message.CheckAnyTopic(t))
	}
	if s.maxPrefetch < 1 || s.maxPrefetchBytes < 1 {
		errs = append(errs, fmt.Errorf("%w: prefetch of %d messages and %d bytes", ErrIllegalConfig, s.maxPrefetch, s.maxPrefetchBytes))
	}
	return errors.Join(errs...)
}

// readRetries adds the topic of what the group failed to process.
func (s *settings) readRetries() {
	s.retry = message.RetryTopic(s.group)
	s.topics = append(s.topics, s.retry)
	slices.Sort(s.topics)
	s.topics = slices.Compact(s.topics)
}

// newClient makes the client and what observes its consumer.
func (s *settings) newClient(ctx context.Context) (*client.Client, error) {
	c, err := client.New(ctx, s.client)
	if err != nil {
		return nil, err
	}
	if s.telemetry, err = s.observe(c); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// topicsOf is sorted and without doubles.
func topicsOf(subscriptions []Subscription) []string {
	var topics []string
	for _, s := range subscriptions {
		topics = append(topics, s.Topic)
	}
	slices.Sort(topics)
	return slices.Compact(topics)
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func notNegative(what string, d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("%w: %s %v is negative", ErrIllegalConfig, what, d)
	}
	return nil
}
