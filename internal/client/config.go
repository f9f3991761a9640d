package client

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/rmqio/rmq/internal/client/lookup"
	"github.com/rmqio/rmq/message"
)

// DefaultEndpointInterval is RocketMQ's.
const DefaultEndpointInterval = 120 * time.Second

// ErrNoNameServer is returned when none of the four ways gives an address.
var ErrNoNameServer = lookup.ErrNone

// Config says how a client finds its name servers, and who it is. The first way
// that gives an address wins: NameServers, ConfigFile, the environment,
// NameServerEndpoint.
type Config struct {
	// NameServers are host:port; an element may be a list, "a;b" or "a,b".
	NameServers []string
	// ConfigFile may have the property rocketmq.namesrv.addr, as "key = value"
	// or as YAML.
	ConfigFile string
	// LookupEnv is asked for RMQ_NAMESRV, then NAMESRV_ADDR; nil: os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// NameServerEndpoint is an HTTP URL that answers with a ';' list. It is asked
	// again every EndpointInterval, so that addresses can change; while it
	// fails, the last list is kept.
	NameServerEndpoint string
	// EndpointInterval is DefaultEndpointInterval when zero.
	EndpointInterval time.Duration
	// ClientID is unique among all clients; empty: host@pid#random.
	ClientID string
	// Logger is silent when nil.
	Logger *slog.Logger
	// OnReply takes the replies that brokers bring, each a batch of one message. It
	// must not block; its error is what the replier gets. Nil: none are taken.
	OnReply func(batch []byte) error
}

func (cfg *Config) setDefaults() {
	if cfg.LookupEnv == nil {
		cfg.LookupEnv = os.LookupEnv
	}
	if cfg.EndpointInterval == 0 {
		cfg.EndpointInterval = DefaultEndpointInterval
	}
	if cfg.ClientID == "" {
		cfg.ClientID = newClientID()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate names every fault of the configuration at once. It reads ConfigFile
// and the environment, and asks nobody.
func (cfg Config) Validate() error {
	_, err := cfg.resolve()
	return err
}

// resolve fills in defaults, checks, and finds the way to the name servers.
func (cfg *Config) resolve() (lookup.Source, error) {
	cfg.setDefaults()
	source, err := lookup.Find(lookup.Config{
		Addrs: cfg.NameServers, File: cfg.ConfigFile, Env: cfg.LookupEnv, Endpoint: cfg.NameServerEndpoint,
	})
	var negative error
	if cfg.EndpointInterval < 0 {
		negative = fmt.Errorf("endpoint interval %v is negative", cfg.EndpointInterval)
	}
	return source, errors.Join(err, negative, message.CheckClientID(cfg.ClientID))
}

// newClientID is unique without asking anyone: two clients of one process
// differ in the random part.
func newClientID() string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	host = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '-'
		}
		return r
	}, host)
	random := make([]byte, 6)
	rand.Read(random) // crypto/rand.Read never fails
	return fmt.Sprintf("%.200s@%d#%s", host, os.Getpid(), hex.EncodeToString(random))
}
