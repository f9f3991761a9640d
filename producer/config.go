package producer

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
)

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
	// try of a message with a group or an explicit queue, which keeps its place.
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
	// NoAutoCreate leaves a topic that does not exist alone: sends to it fail
	// with ErrTopicNotFound. Otherwise it is created, if the brokers allow it.
	NoAutoCreate bool
	// Logger is silent when nil.
	Logger *slog.Logger
}

func (cfg *Config) setDefaults() {
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
	check(cfg.OnFull == Block || cfg.OnFull == Fail, "policy %d of a full buffer is unknown", cfg.OnFull)
	return errors.Join(errs...)
}

func (cfg *Config) client() client.Config {
	return client.Config{
		NameServers: cfg.NameServers, ConfigFile: cfg.ConfigFile, LookupEnv: cfg.LookupEnv,
		NameServerEndpoint: cfg.NameServerEndpoint, EndpointInterval: cfg.EndpointInterval,
		ClientID: cfg.ClientID, Logger: cfg.Logger,
	}
}
