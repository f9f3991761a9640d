package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/payload"
	"github.com/rmqio/rmq/transport/protocol"
)

// ErrRecord is returned for the payload of a record, or for a row, that this
// build cannot read.
var ErrRecord = errors.New("illegible group record")

const (
	recordVersion = 1
	maxNameBytes  = 255

	flagConsume   = 1
	flagPerMember = 2
	flagRetry     = 4
	knownFlags    = flagConsume | flagPerMember | flagRetry

	kindCommit = 0
	kindReset  = 1

	kindGrant   = 0
	kindRelease = 1

	leastOffsetBytes = 5 // topic, queue, kind, offset, fence
)

// The encoders expect what the broker has checked: group names that
// message.CheckGroup and client IDs that message.CheckClientID accept, queues and
// offsets that are not negative. A payload that cannot be decoded would stop
// every reader of the log.

// EncodePut is the payload of a record that creates a group, or changes it when
// there is one of this name.
func EncodePut(cfg protocol.GroupConfig) []byte {
	return appendConfig(EncodeDelete(cfg.Name), cfg)
}

// EncodeDelete is the payload of a record that deletes a group.
func EncodeDelete(name string) []byte {
	return payload.AppendText([]byte{recordVersion}, name)
}

// EncodeOffsets is the payload of a record that moves offsets of a group. The
// rows are applied in their order.
func EncodeOffsets(group string, offsets []Offset) []byte {
	b := payload.AppendText([]byte{recordVersion}, group)
	b = binary.AppendUvarint(b, uint64(len(offsets)))
	for _, o := range offsets {
		b = binary.AppendUvarint(b, o.TopicID)
		b = binary.AppendUvarint(b, uint64(o.Queue))
		if o.Reset {
			b = append(b, kindReset)
		} else {
			b = append(b, kindCommit)
		}
		b = binary.AppendUvarint(b, uint64(o.Offset))
		b = binary.AppendUvarint(b, o.Fence)
	}
	return b
}

// EncodeLeases is the payload of a record that grants queues to a client, or,
// when client is empty, ends their leases whoever holds them.
func EncodeLeases(group string, topicID uint64, client string, queues []int) []byte {
	kind := byte(kindGrant)
	if client == "" {
		kind = kindRelease
	}
	return encodeLeases(kind, group, topicID, client, queues)
}

// EncodeRelease is the payload of a record that ends those leases of the queues
// that client holds at the record's place in the log. Unlike EncodeLeases without
// a client it cannot hit a lease that another client was granted meanwhile.
func EncodeRelease(group string, topicID uint64, client string, queues []int) []byte {
	return encodeLeases(kindRelease, group, topicID, client, queues)
}

func encodeLeases(kind byte, group string, topicID uint64, client string, queues []int) []byte {
	b := payload.AppendText([]byte{recordVersion, kind}, group)
	b = binary.AppendUvarint(b, topicID)
	b = payload.AppendText(b, client)
	b = binary.AppendUvarint(b, uint64(len(queues)))
	for _, q := range queues {
		b = binary.AppendUvarint(b, uint64(q))
	}
	return b
}

func encodeFlags(cfg protocol.GroupConfig) (flags byte) {
	if cfg.ConsumeEnabled {
		flags |= flagConsume
	}
	if cfg.PerMemberSubscriptions {
		flags |= flagPerMember
	}
	if hasRetry(cfg) {
		flags |= flagRetry
	}
	return flags
}

// DecodePut reads what EncodePut wrote. Errors: ErrRecord.
func DecodePut(data []byte) (protocol.GroupConfig, error) {
	p := open(data)
	cfg := p.config(p.name())
	if err := p.end("put"); err != nil {
		return protocol.GroupConfig{}, err
	}
	return cfg, nil
}

func decodeConfig(name string, flags byte) protocol.GroupConfig {
	return protocol.GroupConfig{Name: name, ConsumeEnabled: flags&flagConsume != 0, PerMemberSubscriptions: flags&flagPerMember != 0}
}

// DecodeDelete reads what EncodeDelete wrote. Errors: ErrRecord.
func DecodeDelete(data []byte) (group string, err error) {
	p := open(data)
	group = p.name()
	if err := p.end("delete"); err != nil {
		return "", err
	}
	return group, nil
}

// DecodeOffsets reads what EncodeOffsets wrote. Errors: ErrRecord.
func DecodeOffsets(data []byte) (group string, offsets []Offset, err error) {
	p := open(data)
	group = p.name()
	offsets = make([]Offset, p.Count(leastOffsetBytes))
	for i := range offsets {
		o := &offsets[i]
		o.TopicID, o.Queue = p.Number(math.MaxUint64), p.queue()
		o.Reset = p.Byte(kindReset) == kindReset
		o.Offset, o.Fence = int64(p.Number(math.MaxInt64)), p.Number(math.MaxUint64)
	}
	if err := p.end("offsets"); err != nil {
		return "", nil, err
	}
	return group, offsets, nil
}

// Leases is a record that grants queues to a client or ends leases.
type Leases struct {
	Group   string
	TopicID uint64
	// Client is who gets the queues or, with Release, who loses them; then it may
	// be empty: whoever holds them.
	Client  string
	Release bool
	Queues  []int
}

// DecodeLeases reads what EncodeLeases or EncodeRelease wrote. Errors: ErrRecord.
func DecodeLeases(data []byte) (Leases, error) {
	p := open(data)
	var l Leases
	l.Release = p.Byte(kindRelease) == kindRelease
	l.Group, l.TopicID = p.name(), p.Number(math.MaxUint64)
	if l.Release {
		l.Client = p.Text(0, maxNameBytes)
	} else {
		l.Client = p.name()
	}
	l.Queues = make([]int, p.Count(1))
	for i := range l.Queues {
		l.Queues[i] = p.queue()
	}
	if err := p.end("leases"); err != nil {
		return Leases{}, err
	}
	return l, nil
}

// fields are those of a record or row of this package.
type fields struct{ payload.Reader }

// open takes the version.
func open(data []byte) *fields { return &fields{payload.Versioned(data, recordVersion)} }

func (p *fields) queue() int { return int(p.Number(math.MaxInt32)) }

func (p *fields) name() string { return p.Text(1, maxNameBytes) }

func (p *fields) end(kind string) error {
	if !p.Done() {
		return fmt.Errorf("%w: payload of %s is cut, too long or damaged", ErrRecord, kind)
	}
	return nil
}
