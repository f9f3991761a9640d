// Package batch is the one encoding of messages: the producer writes it, the
// broker stores it as it came, the consumer reads it. A batch holds messages of
// one queue. docs/wire.md shows every byte.
//
// The package does no I/O and keeps no state. Every decoder checks lengths
// before it allocates, and refuses what it does not understand with one of the
// sentinels below.
package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/rmqio/rmq/message"
)

// Sizes and marks of the format.
const (
	Version = 1
	// MaxBytes bounds one batch: a message with a full body and full properties fits.
	MaxBytes = message.MaxBodyBytes + 256<<10
	// MaxCount bounds the messages of one batch.
	MaxCount = 1 << 16

	magic       = 0x6271 // "qb"
	fixedBytes  = 77     // the header without the topic
	crcAt       = 36
	producersAt = 40 // from here on the checksum holds; before it only bytes 0 to 8
	// maxHeadBytes bounds what precedes a body in a message: properties at their
	// limit with a length of up to three bytes for each, an id and a time.
	maxHeadBytes = message.MaxPropertiesBytes*3 + 64 + message.MaxErrorBytes + message.MaxReservedTopicBytes + 32
)

// Errors of the decoders.
var (
	// ErrCorrupt is returned when a checksum or a length does not hold.
	ErrCorrupt = errors.New("corrupt batch")
	// ErrVersion is returned for a version or a flag that this build does not know.
	ErrVersion = errors.New("unsupported batch version")
	// ErrTooLarge is returned for a batch, a body, a head or properties above the limit.
	ErrTooLarge = errors.New("batch too large")
)

// Header is the fixed part of a batch. LogIndex to Epoch are the broker's, set
// by SetStored and outside the checksum; the other fields are the producer's.
type Header struct {
	LogIndex    uint64
	BaseOffset  int64 // queue offset of the first message
	StoreMillis int64
	Epoch       uint32

	Length     int // bytes of the whole batch
	CRC        uint32
	Queue      int
	Count      int
	BornMillis int64      // of the first message
	FirstID    message.ID // of the first message
	TagHash    uint32     // TagHash of the tag that all messages share; 0 when they differ
	Topic      string
	Purpose    Purpose
	Sequence   Sequence // zero: the producer does not number its messages
	Release    Release  // zero: no broker held the messages back
	// Uses says what the messages have. Check sets it.
	Uses   Uses
	sparse sparse
	bodyAt int // where the first message starts
}

// NextOffset is the queue offset after the last message of the batch as it was
// stored.
func (h *Header) NextOffset() int64 { return h.BaseOffset + int64(h.Span()) }

// TagHash is FNV-1a of a tag; never 0, which stands for "several tags".
func TagHash(tag string) uint32 {
	h := uint32(2166136261)
	for i := 0; i < len(tag); i++ {
		h = (h ^ uint32(tag[i])) * 16777619
	}
	return max(h, 1)
}

// ParseHeader reads the header of the batch at the start of b, which may be
// longer than the batch. It checks every length, but no checksum and no message.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < fixedBytes {
		return Header{}, fmt.Errorf("%w: %d bytes, a header has %d", ErrCorrupt, len(b), fixedBytes)
	}
	le := binary.LittleEndian
	if m := le.Uint16(b); m != magic {
		return Header{}, fmt.Errorf("%w: magic %#04x", ErrCorrupt, m)
	}
	if b[2] != Version || b[3]&^knownBatchFlags != 0 {
		return Header{}, fmt.Errorf("%w: version %d with flags %#02x; known is version %d with flags %#02x", ErrVersion, b[2], b[3], Version, knownBatchFlags)
	}
	topicLen := int(b[76])
	h := Header{
		LogIndex:    le.Uint64(b[8:]),
		BaseOffset:  int64(le.Uint64(b[16:])),
		StoreMillis: int64(le.Uint64(b[24:])),
		Epoch:       le.Uint32(b[32:]),
		Length:      int(le.Uint32(b[4:])),
		CRC:         le.Uint32(b[crcAt:]),
		Queue:       int(le.Uint32(b[40:])),
		Count:       int(le.Uint32(b[44:])),
		BornMillis:  int64(le.Uint64(b[48:])),
		FirstID:     message.MakeID(le.Uint64(b[56:]), le.Uint64(b[64:])),
		TagHash:     le.Uint32(b[72:]),
		bodyAt:      fixedBytes + topicLen,
	}
	switch {
	case h.Length > MaxBytes:
		return Header{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, h.Length, MaxBytes)
	case h.Length > len(b) || h.bodyAt > h.Length:
		return Header{}, fmt.Errorf("%w: length %d in %d bytes, messages start at %d", ErrCorrupt, h.Length, len(b), h.bodyAt)
	case h.Count < 1 || h.Count > MaxCount:
		return Header{}, fmt.Errorf("%w: %d messages; 1 to %d are allowed", ErrCorrupt, h.Count, MaxCount)
	case h.Queue < 0:
		return Header{}, fmt.Errorf("%w: queue %d", ErrCorrupt, h.Queue)
	}
	h.Topic = string(b[fixedBytes:h.bodyAt])
	return h, h.readLead(b[3], b[h.bodyAt:h.Length])
}

// Verify is ParseHeader with the checksum: what passes is what the producer sent.
func Verify(b []byte) (Header, error) {
	h, err := ParseHeader(b)
	if err == nil {
		err = h.verify(b)
	}
	if err != nil {
		return Header{}, err
	}
	return h, nil
}

func (h *Header) verify(b []byte) error {
	if got := checksum(b[:h.Length]); got != h.CRC {
		return fmt.Errorf("%w: checksum %#08x, header says %#08x", ErrCorrupt, got, h.CRC)
	}
	return nil
}

// Check is Verify that also walks the messages and holds each to the rules of
// message.Message.Validate: what a broker does with a batch from outside, so that
// every batch it stores can be decoded. It refuses a sparse batch, which only
// brokers make. It allocates nothing for a good batch.
func Check(b []byte) (Header, error) {
	h, err := ParseHeader(b)
	if err == nil {
		err = h.Check(b)
	}
	if err != nil {
		return Header{}, err
	}
	return h, nil
}

// Check is the rest of the function Check, for a header that ParseHeader has read
// from b. It sets Uses.
func (h *Header) Check(b []byte) error {
	if err := h.verify(b); err != nil {
		return err
	}
	if h.sparse.span > 0 {
		return fmt.Errorf("%w: messages are left out of the batch", message.ErrIllegalMessage)
	}
	rest := b[h.bodyAt:h.Length]
	for i := range h.Count {
		head, _, next, err := cutMessage(rest)
		var use Use
		if err == nil {
			use, err = checkHead(head)
		}
		if err != nil {
			return fmt.Errorf("message %d of %d: %w", i, h.Count, err)
		}
		h.Uses.add(i, use)
		rest = next
	}
	switch {
	case len(rest) != 0:
		return fmt.Errorf("%w: %d bytes after the last message", ErrCorrupt, len(rest))
	case (h.Uses.Any&UsesDedupKey != 0) != (b[3]&flagDedup != 0):
		return fmt.Errorf("%w: flags %#02x do not say whether there are deduplication keys", ErrCorrupt, b[3])
	case (h.Uses.Any&UsesOrigin != 0) != (b[3]&flagCopy != 0):
		return fmt.Errorf("%w: flags %#02x do not say whether there are copies", ErrCorrupt, b[3])
	}
	return nil
}

// SetStored fills in what the broker adds to a batch when it stores it.
func SetStored(b []byte, logIndex uint64, baseOffset, storeMillis int64, epoch uint32) {
	le := binary.LittleEndian
	le.PutUint64(b[8:], logIndex)
	le.PutUint64(b[16:], uint64(baseOffset))
	le.PutUint64(b[24:], uint64(storeMillis))
	le.PutUint32(b[32:], epoch)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Update(0, castagnoli, b[:8]), castagnoli, b[producersAt:])
}
