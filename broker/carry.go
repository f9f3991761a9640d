package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport/protocol"
)

// held is a view of messages that are held back: the records that it still needs
// are carried forward in the log before retention drops their segments.
type held interface {
	// OldestAt is the log index of the oldest record that is needed; 0: none.
	OldestAt() uint64
	// Located lists records that are needed and stand at from or behind it but
	// before the log index before, in log order, at most limit of them.
	Located(from, before uint64, limit int) []store.Located
	// ApplyCarry notes that the record that was first at origin stands at index
	// now. A record that is not needed any more is no error.
	ApplyCarry(index, origin uint64) error
}

// heldRecord is a record of messages that are held back, wherever it stands now.
type heldRecord struct {
	Type        store.Type // TimerRecord or HalfRecord
	Origin      uint64     // the log index that it had first
	StoreMillis int64      // when it was stored first
	Data        []byte
}

const carryVersion = 1

// openHeld reads a record of messages that are held back or a carry record with
// one in it. The data is shared.
func openHeld(r store.Committed) (heldRecord, error) {
	if r.Type != store.CarryRecord {
		return heldRecord{Type: r.Type, Origin: r.Index, StoreMillis: r.StoreMillis, Data: r.Data}, nil
	}
	if len(r.Data) < 2 || r.Data[0] != carryVersion {
		return heldRecord{}, fmt.Errorf("%w: carry record %d has %d bytes, or another version", store.ErrDamaged, r.Index, len(r.Data))
	}
	h := heldRecord{Type: store.Type(r.Data[1]), Data: r.Data[2:]}
	origin, n := binary.Uvarint(h.Data)
	stored, m := binary.Uvarint(h.Data[max(n, 0):])
	if n <= 0 || m <= 0 || stored > math.MaxInt64 || origin >= r.Index {
		return heldRecord{}, fmt.Errorf("%w: carry record %d", store.ErrDamaged, r.Index)
	}
	h.Origin, h.StoreMillis, h.Data = origin, int64(stored), h.Data[n+m:]
	return h, nil
}

// carried is the record that carries another forward.
func (h heldRecord) carried(queue store.QueueKey) store.Record {
	data := make([]byte, 2, 2+2*binary.MaxVarintLen64+len(h.Data))
	data[0], data[1] = carryVersion, byte(h.Type)
	data = binary.AppendUvarint(data, h.Origin)
	data = binary.AppendUvarint(data, uint64(h.StoreMillis))
	return store.Record{Type: store.CarryRecord, Queue: queue, Data: append(data, h.Data...)}
}

// heldBack is the result of a batch that was stored where no consumer sees it.
func heldBack(c store.Committed, err error) protocol.SendResult {
	if err != nil {
		return protocol.SendResult{Err: protocol.AsError(outcome(err))}
	}
	return protocol.SendResult{BaseOffset: -1, StoreMillis: c.StoreMillis, Index: c.Index}
}

// applyCarry is the applier of carry records.
func (s *state) applyCarry(r store.Committed) error {
	h, err := openHeld(r)
	if err != nil {
		return err
	}
	v, ok := s.held()[h.Type]
	if !ok {
		return fmt.Errorf("%w: record %d carries a record of type %d", store.ErrNewerVersion, r.Index, h.Type)
	}
	return v.ApplyCarry(r.Index, h.Origin)
}

// held are the views of messages that are held back, by the type of their
// records.
func (s *state) held() map[store.Type]held {
	return map[store.Type]held{store.TimerRecord: s.timers, store.HalfRecord: s.transactions}
}

// keepHeldFrom is the first record of the log that a view of held messages needs.
func (s *state) keepHeldFrom() uint64 {
	from := uint64(math.MaxUint64)
	for _, v := range s.held() {
		if at := v.OldestAt(); at != 0 {
			from = min(from, at)
		}
	}
	return from
}

// Limits of what is carried at a time.
const (
	carryRecords = 1024
	carryBytes   = 512 << 10
	// carryErrors is how many errors of one look are told.
	carryErrors = 3
)

// carry appends again what the views of held messages need of the log before an
// index. When it returns nil all of it is on disk behind that index. What cannot
// be read stays where it is, and so does its segment.
func (s *state) carry(ctx context.Context, before uint64) error {
	var errs []error
	for _, v := range s.held() {
		for from := uint64(1); ; {
			list := v.Located(from, before, carryRecords)
			if len(list) == 0 {
				break
			}
			n, err := s.carryList(ctx, list)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil && len(errs) < carryErrors {
				errs = append(errs, err)
			}
			from = list[n-1].At + 1
		}
	}
	return errors.Join(errs...)
}

// worthCarrying is the log index before which carrying frees at least twice as
// much as it writes.
func (s *state) worthCarrying(spares []store.Spare) (before uint64) {
	freed, from := int64(0), uint64(1)
	for _, spare := range spares {
		freed += spare.Bytes - 2*s.heldBytes(from, spare.Next)
		if from = spare.Next; freed >= 0 {
			before = from
		}
	}
	return before
}

// heldBytes is the size of the records of held messages that stand within a part
// of the log.
func (s *state) heldBytes(from, before uint64) (n int64) {
	for _, v := range s.held() {
		for at := from; ; {
			list := v.Located(at, before, carryRecords)
			if len(list) == 0 {
				break
			}
			for _, l := range list {
				n += int64(l.Bytes)
			}
			at = list[len(list)-1].At + 1
		}
	}
	return n
}

// carryList carries the first records of a list, and returns how many it has
// looked at.
func (s *state) carryList(ctx context.Context, list []store.Located) (n int, err error) {
	indexes := make([]uint64, len(list))
	for i, l := range list {
		indexes[i] = l.At
	}
	var records []store.Record
	size := 0
	s.log.Records(indexes, func(r store.Committed, e error) bool {
		n++
		var h heldRecord
		if e == nil {
			h, e = openHeld(r)
		}
		if e != nil {
			err = fmt.Errorf("carry record %d: %w", list[n-1].At, e)
			return true
		}
		records = append(records, h.carried(r.Queue))
		size += len(h.Data)
		return size < carryBytes
	})
	return n, errors.Join(err, s.appendAll(ctx, records))
}

// appendAll appends records and waits until all are on disk and applied.
func (s *state) appendAll(ctx context.Context, records []store.Record) (err error) {
	done := make(chan error, len(records))
	started := 0
	for _, r := range records {
		err = s.log.Append(r, func(_ store.Committed, err error) { done <- err })
		for errors.Is(err, store.ErrBusy) && pause(ctx, busyPause) {
			err = s.log.Append(r, func(_ store.Committed, err error) { done <- err })
		}
		if err != nil {
			break
		}
		started++
	}
	for range started {
		err = errors.Join(err, <-done)
	}
	return err
}

// pause waits, and reports whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
