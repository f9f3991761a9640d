package topic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// ErrRecord is returned for the payload of a record, or for a row, that this
// build cannot read.
var ErrRecord = errors.New("illegible topic record")

const (
	recordVersion = 1
	maxNameBytes  = 255
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
	if cfg.KeepUntilConsumed {
		return append(b, flagKeepUntilConsumed)
	}
	return append(b, 0)
}

// EncodeDelete is the payload of a record that deletes the topic.
func EncodeDelete(name string) []byte {
	b := binary.AppendUvarint([]byte{recordVersion}, uint64(len(name)))
	return append(b, name...)
}

// DecodePut reads what EncodePut wrote. Errors: ErrRecord.
func DecodePut(data []byte) (protocol.TopicConfig, error) {
	var cfg protocol.TopicConfig
	name, rest, err := decodeName(data)
	if err != nil {
		return cfg, err
	}
	cfg.Name = name
	var numbers [3]int
	limits := [3]uint64{math.MaxInt32, math.MaxInt32, maxPerm}
	for i := range numbers {
		v, n := binary.Uvarint(rest)
		if n <= 0 || v > limits[i] {
			return protocol.TopicConfig{}, fmt.Errorf("%w: put of %q: number %d is cut or too high", ErrRecord, name, i)
		}
		numbers[i], rest = int(v), rest[n:]
	}
	retention, n := binary.Varint(rest)
	if n <= 0 || len(rest) != n+1 || rest[n] > flagKeepUntilConsumed {
		return protocol.TopicConfig{}, fmt.Errorf("%w: put of %q: %x is not a retention and flags", ErrRecord, name, rest)
	}
	cfg.ReadQueues, cfg.WriteQueues, cfg.Perm = numbers[0], numbers[1], message.Perm(numbers[2])
	cfg.RetentionMillis, cfg.KeepUntilConsumed = retention, rest[n] == flagKeepUntilConsumed
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
