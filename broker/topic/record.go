package topic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/payload"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// ErrRecord is returned for the payload of a record, or for a row, that this
// build cannot read.
var ErrRecord = errors.New("illegible topic record")

const (
	recordVersion = 1
	maxNameBytes  = 255
	maxTypeBytes  = 255
	maxPerm       = 255

	flagKeepUntilConsumed = 1
)

// EncodePut is the payload of a record that creates the topic, or changes it
// when there is one of this name. The configuration must be valid: a payload
// that cannot be decoded would stop every reader of the log.
func EncodePut(cfg protocol.TopicConfig) []byte {
	b := EncodeDelete(cfg.Name)
	b = binary.AppendUvarint(b, uint64(cfg.ReadQueues))
	b = binary.AppendUvarint(b, uint64(cfg.WriteQueues))
	b = binary.AppendUvarint(b, uint64(cfg.Perm))
	b = binary.AppendVarint(b, cfg.RetentionMillis)
	var flags byte
	if cfg.KeepUntilConsumed {
		flags |= flagKeepUntilConsumed
	}
	b = binary.AppendUvarint(append(b, flags), uint64(len(cfg.Type)))
	b = append(b, cfg.Type...)
	b = binary.AppendUvarint(b, uint64(cfg.Quota.MessagesPerSecond))
	return binary.AppendUvarint(b, uint64(cfg.Quota.BytesPerSecond))
}

// EncodeDelete is the payload of a record that deletes the topic.
func EncodeDelete(name string) []byte {
	b := binary.AppendUvarint([]byte{recordVersion}, uint64(len(name)))
	return append(b, name...)
}

// DecodePut reads what EncodePut wrote. Errors: ErrRecord.
func DecodePut(data []byte) (protocol.TopicConfig, error) {
	name, rest, err := decodeName(data)
	if err != nil {
		return protocol.TopicConfig{}, err
	}
	r := payload.Of(rest)
	rate := func() int64 { return int64(r.Number(math.MaxInt64)) }
	cfg := protocol.TopicConfig{
		Name:            name,
		ReadQueues:      int(r.Number(math.MaxInt32)),
		WriteQueues:     int(r.Number(math.MaxInt32)),
		Perm:            message.Perm(r.Number(maxPerm)),
		RetentionMillis: r.Signed(math.MinInt64),

		KeepUntilConsumed: r.Byte(flagKeepUntilConsumed) == flagKeepUntilConsumed,
		Type:              message.Kind(r.Text(0, maxTypeBytes)),
		Quota:             protocol.Rates{MessagesPerSecond: rate(), BytesPerSecond: rate()},
	}
	if !r.Done() {
		return protocol.TopicConfig{}, fmt.Errorf("%w: put of %q: %x is cut, too long or beyond a limit", ErrRecord, name, rest)
	}
	return cfg, nil
}

// DecodeDelete reads what EncodeDelete wrote. Errors: ErrRecord.
func DecodeDelete(data []byte) (name string, err error) {
	name, rest, err := decodeName(data)
	if err != nil {
		return "", err
	}
	if len(rest) != 0 {
		return "", fmt.Errorf("%w: delete of %q: %d bytes too many", ErrRecord, name, len(rest))
	}
	return name, nil
}

func decodeName(data []byte) (name string, rest []byte, err error) {
	if len(data) == 0 || data[0] != recordVersion {
		return "", nil, fmt.Errorf("%w: it does not begin with version %d", ErrRecord, recordVersion)
	}
	size, n := binary.Uvarint(data[1:])
	if n <= 0 {
		return "", nil, fmt.Errorf("%w: the length of the name is cut", ErrRecord)
	}
	rest = data[1+n:]
	if size == 0 || size > maxNameBytes || size > uint64(len(rest)) {
		return "", nil, fmt.Errorf("%w: a name of %d bytes", ErrRecord, size)
	}
	return string(rest[:size]), rest[size:], nil
}
