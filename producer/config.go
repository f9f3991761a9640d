package producer

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/compress"
)

// maxProducerID bounds Config.ProducerID, in bytes.
const maxProducerID = 255

// Defaults of Config. Group, timeout and retries are RocketMQ's.
const (
	DefaultGroup            = "DEFAULT_PRODUCER"
	DefaultSendTimeout      = 3 * time.Second
	DefaultRetries          = 2
	DefaultMaxBatchBytes    = 256 << 10
	DefaultMaxBufferedBytes = 64 << 20
)

// OnFull says what a send does while MaxBufferedBytes are waiting.
type OnFull int

const (
	// Block waits for room, until the send's deadline.
	Block OnFull = iota
	// Fail refuses at once with ErrBufferFull.
	Fail
)

// Config says where and how a producer sends. The zero value of every field is
// usable; with all of them zero the name servers come from the environment.
type Config struct {
	// NameServers are host:port, the first of four ways to name them; an element
	// may be a list, "a;b" or "a,b".
	NameServers []string
	// ConfigFile, the second way, may have the property rocketmq.namesrv.addr.
	ConfigFile string
	// LookupEnv is asked, as the third way, for RMQ_NAMESRV, then NAMESRV_ADDR;
	// nil: os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// NameServerEndpoint, the fourth way, is an HTTP URL that answers with a ';'
	// list; it is asked again every EndpointInterval (default 120 s).
	NameServerEndpoint string
	EndpointInterval   time.Duration
	// ClientID is unique among all clients; empty: host@pid#random.
	ClientID string

	// Group is the producer group; empty: DefaultGroup.
	Group string
	// SendTimeout bounds a send with all its tries; a ctx with an earlier
	// deadline bounds it further. Zero: DefaultSendTimeout.
	SendTimeout time.Duration
	// Retries is how often a message is sent again that a broker took and failed
	// to store. Refusals that did nothing (busy, shutting down, unreachable) do
	// not count; they are repeated until the send's deadline, and so is every
	// try of a message with a group or an explicit queue, which keeps its place, and
	// of one that the broker may have, which must not go elsewhere.
	// Zero: DefaultRetries. Negative: nothing is sent again, for whatever reason,
	// but messages that must keep their place.
	Retries int
	// MaxBatchBytes bounds the batches that are gathered while one is under way;
	// a larger message travels alone. Zero: DefaultMaxBatchBytes.
	MaxBatchBytes int
	// MaxBufferedBytes bounds what waits for an answer or its callback, over all
	// queues. A single message that is larger passes when nothing else waits.
	// Zero: DefaultMaxBufferedBytes.
	MaxBufferedBytes int
	// OnFull is Block or Fail.
	OnFull OnFull
	// NoLatencyFault sends messages to brokers that were slow or failed as soon as
	// to others. Otherwise those that may go anywhere go around such brokers, for
	// 2 s after an answer that took 550 ms, up to 30 s after one that took 15 s, and
	// 10 s after a failure; or until the broker answers a probe, one every 2 s.
	NoLatencyFault bool
	// NoAutoCreate leaves a topic that does not exist alone: sends to it fail
	// with ErrTopicNotFound. Otherwise it is created, if the brokers allow it.
	NoAutoCreate bool

	// Checker answers brokers that do not know the outcome of a transaction of the
	// producer group. Brokers ask from New on, whether this producer sends anything
	// or not. Without it, transactions are refused.
	Checker Checker
	// TransactionTopics are the topics that transactions may send to; they are
	// required with a Checker, and only then.
	TransactionTopics []string
	// CheckConcurrency is how many calls of Checker may run at once. Zero:
	// DefaultCheckConcurrency.
	CheckConcurrency int

	// ProducerID names the producer across its restarts: of two with the same id the
	// one that began to send to a queue later goes on there, and the other's sends to
	// it fail with ErrFenced, so that what a run before has left under way comes in
	// no more. Empty: each run is a producer of its own.
	ProducerID string
	// NoIdempotence sends messages without numbers: one whose answer is lost is sent
	// again to any broker, and may be stored twice.
	NoIdempotence bool

	// CompressOver is the size in bytes from which on bodies are compressed, where
	// that makes them smaller. Zero: DefaultCompressOver.
	CompressOver int
	// Compression says how. message.None: DefaultCompression.
	Compression message.Compression
	// NoCompression leaves all bodies as they are.
	NoCompression bool

	// Interceptors see every message before it is sent, in this order.
	Interceptors []Interceptor
	// TracerProvider and MeterProvider hear of every send, in the words of
	// OpenTelemetry's conventions for messaging; messages carry the context of their
	// span in the properties traceparent and tracestate, unless they have these.
	// Nil: the global ones, which may be set later. As long as there is none,
	// nothing is spent on it.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider

	// Logger is silent when nil.
	Logger *slog.Logger
}

func (cfg *Config) setDefaults() {
	cfg.TransactionTopics = slices.Clone(cfg.TransactionTopics)
	if cfg.Group == "" {
		cfg.Group = DefaultGroup
	}
	if cfg.SendTimeout == 0 {
		cfg.SendTimeout = DefaultSendTimeout
	}
	if cfg.Retries == 0 {
		cfg.Retries = DefaultRetries
	}
	if cfg.MaxBatchBytes == 0 {
		cfg.MaxBatchBytes = DefaultMaxBatchBytes
	}
	if cfg.MaxBufferedBytes == 0 {
		cfg.MaxBufferedBytes = DefaultMaxBufferedBytes
	}
	if cfg.CheckConcurrency == 0 {
		cfg.CheckConcurrency = DefaultCheckConcurrency
	}
	if cfg.CompressOver == 0 {
		cfg.CompressOver = DefaultCompressOver
	}
	if cfg.Compression == message.None {
		cfg.Compression = DefaultCompression
	}
	cfg.Interceptors = slices.Clone(cfg.Interceptors)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
}

// validate names every fault at once; defaults are set.
func (cfg *Config) validate() error {
	errs := []error{cfg.client().Validate(), message.CheckGroup(cfg.Group)}
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(cfg.SendTimeout > 0, "send timeout %v is negative", cfg.SendTimeout)
	check(cfg.MaxBatchBytes >= 1<<10 && cfg.MaxBatchBytes <= message.MaxBodyBytes,
		"batches of %d bytes; %d to %d are allowed", cfg.MaxBatchBytes, 1<<10, message.MaxBodyBytes)
	check(cfg.MaxBufferedBytes >= 1<<10, "buffer of %d bytes; at least %d are needed", cfg.MaxBufferedBytes, 1<<10)
	check(cfg.CompressOver > 0, "compression of bodies over %d bytes", cfg.CompressOver)
	check(!slices.ContainsFunc(cfg.Interceptors, func(i Interceptor) bool { return i == nil }), "an interceptor is nil")
	errs = append(errs, compress.Check(cfg.Compression))
	check(cfg.OnFull == Block || cfg.OnFull == Fail, "policy %d of a full buffer is unknown", cfg.OnFull)
	check(cfg.Checker == nil || len(cfg.TransactionTopics) > 0, "a checker, and no transaction topics")
	check(cfg.Checker != nil || len(cfg.TransactionTopics) == 0, "%d transaction topics, and no checker", len(cfg.TransactionTopics))
	check(cfg.CheckConcurrency > 0, "check concurrency of %d", cfg.CheckConcurrency)
	check(len(cfg.ProducerID) <= maxProducerID, "producer id of %d bytes, the limit is %d", len(cfg.ProducerID), maxProducerID)
	check(!cfg.NoIdempotence || cfg.ProducerID == "", "a producer id, and no idempotence")
	for _, t := range cfg.TransactionTopics {
		errs = append(errs, message.CheckTopic(t))
	}
	return errors.Join(errs...)
}

func (cfg *Config) client() client.Config {
	return client.Config{
		NameServers: cfg.NameServers, ConfigFile: cfg.ConfigFile, LookupEnv: cfg.LookupEnv,
		NameServerEndpoint: cfg.NameServerEndpoint, EndpointInterval: cfg.EndpointInterval,
		ClientID: cfg.ClientID, Logger: cfg.Logger,
	}
}
