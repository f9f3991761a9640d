package command

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/broker/sequence"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
)

// serverConfig is a server's settings, checked.
type serverConfig struct {
	role          string
	listen        string
	http          string // empty: none
	insecure      bool
	logLevel      slog.Level
	data          string // absolute
	flush         store.FlushMode
	retention     broker.Retention
	watermarks    store.Watermarks
	delays        broker.Delays
	transactions  broker.Transactions
	idempotence   broker.Idempotence
	cluster       string
	name          string
	id            int
	advertise     []string
	autoCreate    bool
	defaultQueues int
	nameServers   []string
}

// maxRemembered bounds what a broker may be told to remember, which is in memory:
// some hundred bytes each.
const maxRemembered = 100_000_000

// newServerConfig checks all settings and names every fault.
func newServerConfig(role string, settings []setting) (serverConfig, error) {
	p := settingParser{values: make(map[string]setting, len(settings))}
	for _, s := range settings {
		p.values[s.Key] = s
	}
	c := serverConfig{role: role}
	c.insecure = p.boolean("insecure")
	c.listen = p.address("listen", c.insecure)
	if p.values["http"].Value != "none" {
		c.http = p.address("http", c.insecure)
	}
	p.check("log.level", c.logLevel.UnmarshalText([]byte(p.values["log.level"].Value)))
	if role == roleNameServer {
		return c, p.failure()
	}
	c.data = p.path("broker.store.path")
	c.flush = p.flush("broker.store.flush")
	c.retention = broker.Retention{MaxAge: p.retention("broker.retention.age"), MaxBytes: p.bytes("broker.retention.bytes", 0)}
	c.watermarks = p.watermarks()
	c.delays = broker.Delays{Levels: p.durations("broker.delay.levels"), Max: p.duration("broker.delay.max", time.Millisecond, message.MaxDelay)}
	c.transactions = broker.Transactions{
		FirstCheck:    p.duration("broker.transaction.first-check", time.Millisecond, message.MaxDelay),
		CheckInterval: p.duration("broker.transaction.check-interval", time.Millisecond, message.MaxDelay),
		MaxChecks:     p.number("broker.transaction.max-checks", 1, 1<<20),
	}
	c.idempotence = broker.Idempotence{
		ProducerExpiry: p.duration("broker.producer.expiry", sequence.Grace, message.MaxDelay),
		MaxProducers:   p.number("broker.producer.max", 1, maxRemembered),
		DedupWindow:    p.duration("broker.dedup.window", time.Second, message.MaxDelay),
		MaxDedupKeys:   p.number("broker.dedup.max-keys", 1, maxRemembered),
	}
	c.cluster = p.name("broker.cluster")
	c.name = p.name("broker.name")
	c.id = p.number("broker.id", 0, 1<<20)
	c.autoCreate = p.boolean("broker.topic.auto-create")
	c.defaultQueues = p.number("broker.topic.default-queues", 1, 1024)
	c.advertise = p.addresses("broker.advertise")
	if role == roleBroker {
		c.nameServers = p.addresses("rocketmq.namesrv.addr")
	}
	return c, p.failure()
}

// settingParser turns texts into values and gathers the faults.
type settingParser struct {
	values map[string]setting
	faults []string
}

func (p *settingParser) failure() error {
	if len(p.faults) == 0 {
		return nil
	}
	f := usagef("%s", strings.Join(p.faults, "; "))
	f.Hint = "rmq server --check-config shows where each setting comes from"
	return f
}

func (p *settingParser) fail(key, format string, args ...any) {
	s := p.values[key]
	p.faults = append(p.faults, fmt.Sprintf("%s %q (%s): "+format, append([]any{key, s.Value, s.Source}, args...)...))
}

func (p *settingParser) check(key string, err error) {
	if err != nil {
		p.fail(key, "%v", err)
	}
}

func (p *settingParser) boolean(key string) bool {
	v, err := strconv.ParseBool(p.values[key].Value)
	if err != nil {
		p.fail(key, "want true or false")
	}
	return v
}

func (p *settingParser) number(key string, least, most int) int {
	v, err := strconv.Atoi(p.values[key].Value)
	if err != nil || v < least || v > most {
		p.fail(key, "want a number from %d to %d", least, most)
	}
	return v
}

func (p *settingParser) name(key string) string {
	p.check(key, message.CheckBroker(p.values[key].Value))
	return p.values[key].Value
}

func (p *settingParser) path(key string) string {
	if p.values[key].Value == "" {
		p.fail(key, "want a directory")
	}
	abs, err := filepath.Abs(p.values[key].Value)
	p.check(key, err)
	return abs
}

func (p *settingParser) flush(key string) store.FlushMode {
	switch strings.ToLower(p.values[key].Value) {
	case "sync", "sync_flush":
		return store.SyncFlush
	case "async", "async_flush":
		return store.AsyncFlush
	}
	p.fail(key, "want sync or async")
	return ""
}

func (p *settingParser) retention(key string) time.Duration {
	d, err := parseRetention(p.values[key].Value)
	p.check(key, err)
	return d
}

func (p *settingParser) duration(key string, least, most time.Duration) time.Duration {
	d, err := time.ParseDuration(p.values[key].Value)
	if err != nil || d < least || d > most {
		p.fail(key, "want a duration from %s to %s", least, most)
	}
	return d
}

// durations are separated by spaces or commas, as in RocketMQ's messageDelayLevel.
func (p *settingParser) durations(key string) (all []time.Duration) {
	for _, text := range strings.FieldsFunc(p.values[key].Value, func(r rune) bool { return r == ' ' || r == ',' }) {
		d, err := time.ParseDuration(text)
		if err != nil || d <= 0 {
			p.fail(key, "%q is not a duration", text)
		}
		all = append(all, d)
	}
	if len(all) == 0 {
		p.fail(key, "want one duration at least")
	}
	return all
}

func (p *settingParser) bytes(key string, least byteSize) int64 {
	var n byteSize
	if err := n.Set(p.values[key].Value); err != nil || n < least {
		p.fail(key, "want a number of bytes such as 10GiB, 512MiB or 1048576, at least %d", least)
	}
	return int64(n)
}

// watermarks are percents of the disk that rise.
func (p *settingParser) watermarks() store.Watermarks {
	w := store.Watermarks{PlentyBytes: p.bytes("broker.disk.plenty", 1)}
	w.Warn = p.number("broker.disk.warn", 1, 100)
	w.Clean = p.number("broker.disk.clean", min(max(w.Warn, 1), 100), 100)
	w.Refuse = p.number("broker.disk.refuse", min(max(w.Clean, 1), 100), 100)
	return w
}

// address is where to listen. Nothing guards the server, so only this machine
// may reach it unless that was asked for.
func (p *settingParser) address(key string, insecure bool) string {
	addr := p.values[key].Value
	host, err := splitAddress(addr)
	if err != nil {
		p.fail(key, "%v", err)
		return ""
	}
	if !insecure && !loopback(host) {
		p.fail(key, "there is no authentication, so whoever reaches this address can read and delete everything; --insecure allows it")
	}
	return addr
}

func (p *settingParser) addresses(key string) []string {
	var addrs []string
	for _, addr := range strings.FieldsFunc(p.values[key].Value, func(r rune) bool { return r == ',' || r == ';' || r == ' ' }) {
		if _, err := splitAddress(addr); err != nil {
			p.fail(key, "%v", err)
			continue
		}
		addrs = append(addrs, addr)
	}
	return addrs
}

func splitAddress(addr string) (host string, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", errors.New("want HOST:PORT")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", errors.New("want a port from 0 to 65535")
	}
	return host, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
