package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/rmqio/rmq/broker/pages"
)

// commit is what the writer tells the applier: a chunk that is on disk, or that
// a segment is full, or, when reached is set, just that it got this far.
type commit struct {
	segment *segment
	chunk   *chunk
	records []*pending // those of the chunk; nil when it was found at a reopening
	full    *sealJob
	reached chan struct{}
}

// retryPause is how long a log that cannot write waits before it tries again.
const retryPause = time.Second

// writer is the goroutine that turns what waits into group commits. Its fields
// are its own.
type writer struct {
	*Log
	active *segment
	next   uint64 // log index of the next record
	chain  uint32 // checksum of the last chunk
	asked  bool   // the preparer was asked for the next file
	// The last commit may not be confirmed yet, and can be: the segment is sound.
	unconfirmed bool
}

// confirmAfter is how long the log is idle before its last commit is confirmed: long
// enough that one who sends message by message does not wait for it, and short
// enough that what a disk loses in between is next to nothing.
const confirmAfter = 10 * time.Millisecond

func (w *writer) run() {
	defer close(w.committed)
	defer close(w.wanted)
	defer w.pace.end()
	if w.active == nil { // the log is for reading only
		<-w.closing
		return
	}
	idle := time.NewTimer(confirmAfter)
	for {
		records := w.tail.take()
		if len(records) > 0 {
			w.suspendIf(w.commit(records), records)
			idle.Reset(confirmAfter)
			continue
		}
		select {
		case <-w.wake:
		case <-idle.C:
			w.suspendIf(w.confirm(), nil)
			if w.unconfirmed { // it could not be, and the segment was reopened
				idle.Reset(confirmAfter)
			}
		case <-w.closing:
			// Nothing is appended once closing is closed.
			if records := w.tail.take(); len(records) > 0 {
				w.suspendIf(w.commit(records), records)
				continue
			}
			w.suspendIf(w.confirm(), nil)
			return
		}
	}
}

// suspendIf does nothing without an error. With one, the records, and those behind
// them, are lost.
func (w *writer) suspendIf(err error, records []*pending) {
	if err == nil {
		return
	}
	w.logger.Error("group commit", "err", err)
	lost := append(records, w.tail.stop(err)...)
	if w.opts.Dropped != nil {
		w.opts.Dropped()
	}
	for _, p := range lost {
		w.tail.release(int64(len(p.Data)))
		p.answer(err)
	}
	w.suspend(err)
}

// commit writes the records as one chunk and tells the applier.
func (w *writer) commit(records []*pending) error {
	c := encodeChunk(records, w.chain, w.newest.buffer)
	if err := w.makeRoom(int64(len(c.data) + len(c.index))); err != nil {
		return err
	}
	w.unconfirmed = false
	if err := w.active.commit(c); err != nil {
		return err
	}
	w.chain, w.next, w.unconfirmed = c.crc, c.next(), true
	w.pace.set(w.active.usedShare())
	w.committed <- commit{segment: w.active, chunk: c, records: records}
	return nil
}

// confirm confirms the last commit, if that is still to be done.
func (w *writer) confirm() error {
	if !w.unconfirmed {
		return nil
	}
	w.unconfirmed = false
	return w.active.confirm()
}

// makeRoom rolls over to the next segment when the chunk does not fit, and asks
// for that segment's file in time. That may take as long as the disk is full.
func (w *writer) makeRoom(bytes int64) error {
	if !w.asked && w.active.usedShare() > askShare {
		w.askForNext()
	}
	if w.active.fits(bytes) || w.next == w.active.info.First {
		return nil
	}
	if !w.asked {
		w.askForNext()
	}
	if err := w.confirm(); err != nil {
		return err
	}
	if err := w.roll(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return nil
}

func (w *writer) askForNext() {
	w.asked = true
	w.wanted <- segmentInfo{Capacity: min(2*w.active.info.Capacity, w.opts.SegmentBytes)}
}

func (w *writer) roll() error {
	w.pace.set(1)
	file := <-w.prepared
	w.asked = false
	if file.err != nil {
		return file.err
	}
	info := segmentInfo{First: w.next, Capacity: file.capacity, Chain: w.chain}
	next, err := activate(w.dir, file.path, w.manifest.storeID(), info)
	if err != nil {
		return err
	}
	err = w.manifest.update(func(m *manifest) { m.Segments = append(m.Segments, info) })
	if err != nil {
		return errors.Join(err, next.close())
	}
	next.newest = w.newest
	w.catalog.addSegment(next)
	w.committed <- commit{full: &sealJob{segment: w.active, last: w.next - 1, chain: w.chain}}
	w.logger.Info("segment opened", "path", next.path, "capacity", info.Capacity)
	w.active = next
	return nil
}

// suspend refuses appends until the log can be written again: after a failed
// write the segment is reopened and verified; when there was no room for a new
// segment, there must be now.
func (w *writer) suspend(cause error) {
	for {
		select {
		case <-w.closing:
			return
		case <-time.After(retryPause):
		}
		err := w.recover(cause)
		if err == nil {
			w.waitForApplier()
			w.tail.resume(w.next, w.catalog.copyEnds())
			w.logger.Info("log is written again")
			return
		}
		w.logger.Error("log cannot be written", "err", err)
		cause = err
	}
}

func (w *writer) recover(cause error) error {
	if errors.Is(cause, ErrNoSpace) {
		return w.makeRoom(w.active.info.Capacity)
	}
	return w.reopen()
}

// reopen verifies the active segment from its file. A chunk whose commit was
// reported as failed may be there all the same; it is then taken in.
func (w *writer) reopen() error {
	cut, err := w.active.reopen(w.next)
	if err != nil {
		return err
	}
	w.tellCut(w.active, cut)
	next, chain, err := w.active.read(pages.Newest, func(c *chunk) error {
		if c.first >= w.next {
			w.committed <- commit{segment: w.active, chunk: c.clone()}
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case next < w.next:
		return fmt.Errorf("%w: %s ends at %d, records up to %d were acknowledged", ErrDamaged, w.active.path, next-1, w.next-1)
	}
	w.next, w.chain, w.unconfirmed = next, chain, true
	return nil
}

func (w *writer) waitForApplier() {
	reached := make(chan struct{})
	w.committed <- commit{reached: reached}
	<-reached
}
