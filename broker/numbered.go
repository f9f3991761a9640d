package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/rmqio/rmq/broker/dedup"
	"github.com/rmqio/rmq/broker/sequence"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/broker/transaction"
	"github.com/rmqio/rmq/message/batch"
)

// Idempotence says what a broker remembers of what it has, so that it knows what
// comes again. Zero values mean the defaults. It should stay as it is for the life
// of a data directory.
type Idempotence struct {
	// ProducerExpiry is for how long of the log's time a producer that sends nothing
	// to a queue is remembered there; default 24 h, at least sequence.Grace.
	ProducerExpiry time.Duration
	// MaxProducers bounds the pairs of a producer and a queue that are remembered;
	// default 500,000.
	MaxProducers int
	// DedupWindow is for how long of the log's time a deduplication key is
	// remembered; default 24 h.
	DedupWindow time.Duration
	// MaxDedupKeys bounds the keys that are remembered; default 1,000,000.
	MaxDedupKeys int
}

func (i Idempotence) withDefaults() (Idempotence, error) {
	i.ProducerExpiry = orDefault(i.ProducerExpiry, sequence.DefaultExpiry)
	i.MaxProducers = orDefault(i.MaxProducers, sequence.DefaultLimit)
	i.DedupWindow = orDefault(i.DedupWindow, dedup.DefaultWindow)
	i.MaxDedupKeys = orDefault(i.MaxDedupKeys, dedup.DefaultLimit)
	var errs []error
	if i.ProducerExpiry < sequence.Grace {
		errs = append(errs, fmt.Errorf("producers remembered for %v; at least %v are needed", i.ProducerExpiry, sequence.Grace))
	}
	if i.DedupWindow < time.Millisecond {
		errs = append(errs, fmt.Errorf("deduplication window of %v; at least %v are needed", i.DedupWindow, time.Millisecond))
	}
	if i.MaxProducers < 1 || i.MaxDedupKeys < 1 {
		errs = append(errs, fmt.Errorf("%d producers and %d deduplication keys remembered; at least 1 and 1 are needed", i.MaxProducers, i.MaxDedupKeys))
	}
	return i, errors.Join(errs...)
}

// applySent takes a batch that producers sent to its queue into the views.
func (s *state) applySent(r store.Committed) error {
	return s.applyNumbered(r, r.Data, r.BaseOffset)
}

// applyHeld takes a batch that is held back into the views.
func (s *state) applyHeld(r store.Committed) error {
	b, err := heldBatch(r)
	if err != nil {
		return err
	}
	return s.applyNumbered(r, b, -1)
}

func heldBatch(r store.Committed) (b []byte, err error) {
	switch r.Type {
	case store.TimerRecord:
		_, b, err = timer.Decode(r.Data)
	case store.HalfRecord:
		var h transaction.Half
		h, err = transaction.DecodeHalf(r.Data)
		b = h.Batch
	}
	return b, err
}

// applyNumbered takes a batch's numbers and key into the views.
func (s *state) applyNumbered(r store.Committed, b []byte, base int64) error {
	h, err := batch.ParseHeader(b)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, err)
	}
	pair, key := sequence.KeyOf(&h, r.Queue), dedup.Key{}
	if h.Sequence.Producer != 0 {
		s.sequences.Apply(pair, &h.Sequence, h.Count, sequence.Place{Base: base, Index: r.Index, Millis: r.StoreMillis})
	}
	if batch.HasDedupKey(b) {
		if key, err = dedupKey(r.Queue.Topic, b); err != nil {
			return fmt.Errorf("record %d: %w", r.Index, err)
		}
		s.keys.Apply(key, dedup.Place{Queue: r.Queue.Queue, Offset: base, Index: r.Index, Millis: r.StoreMillis})
	}
	s.once.applied(pair, &h.Sequence, key)
	return s.applyCopies(r, &h, b, base)
}
