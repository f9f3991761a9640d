package group

import (
	"encoding/binary"
	"math"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Defaults and limits of retries.
const (
	// DefaultRetryMax is RocketMQ's: 16 deliveries after the first.
	DefaultRetryMax = 16
	// MaxRetryMax is the most that a group may have.
	MaxRetryMax = 1_000_000
)

// RetryMax is how often a message of a group is delivered again before it is a dead
// letter.
func RetryMax(cfg protocol.GroupConfig) int {
	if cfg.RetryMax == 0 {
		return DefaultRetryMax
	}
	return max(cfg.RetryMax, 0)
}

func validateRetry(cfg protocol.GroupConfig) error {
	p, longest := cfg.RetryPolicy, message.MaxDelay.Milliseconds()
	fault := func(format string, args ...any) error {
		return protocol.Errorf(protocol.InvalidArgument, format, args...)
	}
	switch {
	case cfg.RetryMax < protocol.NoRetry || cfg.RetryMax > MaxRetryMax:
		return fault("at most %d retries; %d (none) to %d are allowed", cfg.RetryMax, protocol.NoRetry, MaxRetryMax)
	case p.Kind != "" && p.Kind != protocol.RetryTable && p.Kind != protocol.RetryExponential:
		return fault("retry policy %.20q; %q and %q are known", p.Kind, protocol.RetryTable, protocol.RetryExponential)
	case p.Kind != protocol.RetryExponential && (p.FirstMillis != 0 || p.MaxMillis != 0):
		return fault("a first and a longest delay belong to the retry policy %q", protocol.RetryExponential)
	case p.FirstMillis < 0 || p.FirstMillis > longest || p.MaxMillis < 0 || p.MaxMillis > longest:
		return fault("retry policy from %d to %d ms; 0 (the default) to %d are allowed", p.FirstMillis, p.MaxMillis, longest)
	}
	if first, most := p.Bounds(); first > most {
		return fault("retry policy from %v to %v", first, most)
	}
	return nil
}

// Numbers of kinds of policies in records and rows.
const (
	policyNone        = 0
	policyTable       = 1
	policyExponential = 2
)

func hasRetry(cfg protocol.GroupConfig) bool {
	return cfg.RetryMax != 0 || cfg.RetryPolicy != protocol.RetryPolicy{}
}

// appendConfig appends the flags and, if they say so, what is said of retries.
func appendConfig(b []byte, cfg protocol.GroupConfig) []byte {
	b = append(b, encodeFlags(cfg))
	if !hasRetry(cfg) {
		return b
	}
	kind := byte(policyNone)
	switch cfg.RetryPolicy.Kind {
	case protocol.RetryTable:
		kind = policyTable
	case protocol.RetryExponential:
		kind = policyExponential
	}
	b = append(binary.AppendUvarint(b, uint64(cfg.RetryMax-protocol.NoRetry)), kind)
	b = binary.AppendUvarint(b, uint64(cfg.RetryPolicy.FirstMillis))
	return binary.AppendUvarint(b, uint64(cfg.RetryPolicy.MaxMillis))
}

// config takes what appendConfig wrote.
func (p *fields) config(name string) protocol.GroupConfig {
	flags := p.Byte(knownFlags)
	cfg := decodeConfig(name, flags)
	if flags&flagRetry == 0 {
		return cfg
	}
	cfg.RetryMax = int(p.Number(MaxRetryMax-protocol.NoRetry)) + protocol.NoRetry
	switch p.Byte(policyExponential) {
	case policyTable:
		cfg.RetryPolicy.Kind = protocol.RetryTable
	case policyExponential:
		cfg.RetryPolicy.Kind = protocol.RetryExponential
	}
	cfg.RetryPolicy.FirstMillis, cfg.RetryPolicy.MaxMillis = int64(p.Number(math.MaxInt64)), int64(p.Number(math.MaxInt64))
	if !hasRetry(cfg) {
		p.Fail() // nobody writes it
	}
	return cfg
}
