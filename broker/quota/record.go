package quota

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/rmqio/rmq/transport/protocol"
)

// ErrRecord is returned for the payload of a record, or for a row, that this
// build cannot read.
var ErrRecord = errors.New("illegible quota record")

const (
	recordVersion = 1
	maxNameBytes  = 255

	scopeGroup  = 1
	scopeClient = 2
)

func byteOf(s protocol.QuotaScope) (b byte, ok bool) {
	switch s {
	case protocol.QuotaOfGroup:
		return scopeGroup, true
	case protocol.QuotaOfClient:
		return scopeClient, true
	}
	return 0, false
}

func scopeOf(b byte) (s protocol.QuotaScope, ok bool) {
	switch b {
	case scopeGroup:
		return protocol.QuotaOfGroup, true
	case scopeClient:
		return protocol.QuotaOfClient, true
	}
	return "", false
}

// Encode is the payload of a record that sets a quota. It must pass Validate: a
// payload that cannot be decoded would stop every reader of the log.
func Encode(q protocol.QuotaConfig) []byte {
	scope, _ := byteOf(q.Scope)
	b := binary.AppendUvarint([]byte{recordVersion, scope}, uint64(len(q.Name)))
	return appendRates(append(b, q.Name...), q.Rates)
}

func appendRates(b []byte, r protocol.Rates) []byte {
	b = binary.AppendUvarint(b, uint64(r.MessagesPerSecond))
	return binary.AppendUvarint(b, uint64(r.BytesPerSecond))
}

// Decode reads what Encode wrote. Errors: ErrRecord.
func Decode(data []byte) (protocol.QuotaConfig, error) {
	if len(data) < 2 || data[0] != recordVersion {
		return protocol.QuotaConfig{}, fmt.Errorf("%w: it does not begin with version %d and a scope", ErrRecord, recordVersion)
	}
	scope, ok := scopeOf(data[1])
	if !ok {
		return protocol.QuotaConfig{}, fmt.Errorf("%w: scope %d", ErrRecord, data[1])
	}
	size, n := binary.Uvarint(data[2:])
	if n <= 0 || size > maxNameBytes || size > uint64(len(data)-2-n) {
		return protocol.QuotaConfig{}, fmt.Errorf("%w: a name of %d bytes in %x", ErrRecord, size, data)
	}
	name, rest := data[2+n:][:size], data[2+n:][size:]
	rates, err := decodeRates(rest)
	return protocol.QuotaConfig{Scope: scope, Name: string(name), Rates: rates}, err
}

func decodeRates(b []byte) (r protocol.Rates, err error) {
	messages, n := binary.Uvarint(b)
	bytes, m := uint64(0), 0
	if n > 0 {
		bytes, m = binary.Uvarint(b[n:])
	}
	if m <= 0 || n+m != len(b) || messages > math.MaxInt64 || bytes > math.MaxInt64 {
		return r, fmt.Errorf("%w: %x is not two rates", ErrRecord, b)
	}
	return protocol.Rates{MessagesPerSecond: int64(messages), BytesPerSecond: int64(bytes)}, nil
}
