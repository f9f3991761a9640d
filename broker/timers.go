package broker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/transport"
)

const (
	// timerLook is how often the clock is looked at while a message waits. A sleep
	// goes by the machine's monotonic clock, and does not end earlier when the wall
	// clock, by which messages are due, is put forward.
	timerLook = 25 * time.Millisecond
	// Limits of what is released at a time: one message at least.
	timerRoundBytes    = 8 << 20
	timerRoundMessages = 16384
	// unreadablePause is for how long a record is left alone that could not be read.
	unreadablePause = 10 * time.Second
)

// timers holds messages back until their time, and then appends them to their
// queues. Which messages wait is the view's to say; timers has only what is under
// way.
type timers struct {
	state  *state
	delays Delays
	now    func() time.Time
	logger *slog.Logger
	wake   chan struct{} // something may be due earlier than was thought

	// These are run's own.
	unreadable map[uint64]time.Time // by origin: when to try again
	failure    string               // of the last round

	mu sync.Mutex
	// marks are messages that a record was appended for, a release or a recall,
	// whose outcome is not known: nothing else is appended for them.
	marks map[timer.Place]*mark
	// doubtful are marks whose records failed on their way to the disk. They may be
	// there all the same; when the log is written again the view knows.
	doubtful []*mark
}

// mark is messages whose records are under way.
type mark struct {
	places []timer.Place
	known  chan struct{} // closed when their outcome is known
}

func newTimers(s *state, cfg Config) *timers {
	return &timers{
		state: s, delays: cfg.Delays, now: cfg.Now, logger: cfg.Logger, wake: make(chan struct{}, 1),
		unreadable: map[uint64]time.Time{}, marks: map[timer.Place]*mark{},
	}
}

func (t *timers) register(client, admin *transport.Mux) {
	transport.Handle(client, t.recall)
	transport.Handle(admin, t.listDelayed)
}

// hold stores the messages of a batch where no consumer sees them. With an error
// nothing was done.
func (t *timers) hold(p *parcel) error {
	millis, err := t.delays.resolve(p.bytes, t.now())
	if err != nil {
		return err
	}
	r := store.Record{Type: store.TimerRecord, Queue: p.queue, Count: uint32(p.Count), Data: timer.Encode(millis, p.bytes)}
	return refusal(t.state.log.Append(r, func(c store.Committed, err error) {
		if err == nil {
			t.state.meters.Held(r.Queue.Topic, p.Count)
		}
		p.done(heldBack(c, err))
		t.poke()
	}))
}

// poke has run look at what is due.
func (t *timers) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// run releases messages at their time until ctx ends.
func (t *timers) run(ctx context.Context) {
	sleep := time.NewTimer(0)
	defer sleep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-sleep.C:
		}
		for ctx.Err() == nil && t.round() {
		}
		sleep.Reset(t.untilNext())
	}
}

// untilNext is how long run sleeps if nothing wakes it.
func (t *timers) untilNext() time.Duration {
	next, ok := t.state.timers.Next()
	if !ok {
		return time.Hour
	}
	if until := time.UnixMilli(next).Sub(t.now()); until > 0 {
		return min(until, timerLook)
	}
	return timerLook // what is due now could not be released
}

// round releases messages that are due, and reports whether there may be more
// that can be released at once.
func (t *timers) round() (more bool) {
	if !t.settled() {
		return false
	}
	due := t.pick()
	if len(due) == 0 {
		return false
	}
	moved := t.read(due)
	err := t.release(due)
	text := ""
	if err != nil && !errors.Is(err, store.ErrBusy) {
		text = err.Error()
	}
	if text != t.failure && text != "" {
		t.logger.Error("release delayed messages", "err", text)
	}
	t.failure = text
	return err == nil && !moved
}

// dueRecord is the messages of one timer record that are due.
type dueRecord struct {
	mark
	pending   timer.Pending // the first of them
	positions []int
	releases  []store.Record
}

// pick marks messages that are due.
func (t *timers) pick() (due []*dueRecord) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	records, messages, bytes := map[uint64]*dueRecord{}, 0, 0
	t.state.timers.From(timer.Key{Millis: timer.Earliest}, func(p *timer.Pending) bool {
		switch {
		case p.Millis > now.UnixMilli():
			return false
		case t.marks[p.Place()] != nil, now.Before(t.unreadable[p.Origin]):
			return true
		}
		d := records[p.Origin]
		if d == nil {
			if bytes += int(p.Bytes); len(due) > 0 && bytes > timerRoundBytes {
				return false
			}
			d = &dueRecord{mark: mark{known: make(chan struct{})}, pending: *p}
			records[p.Origin], due = d, append(due, d)
		}
		d.places, d.positions = append(d.places, p.Place()), append(d.positions, int(p.Position))
		t.marks[p.Place()] = &d.mark
		messages++
		return messages < timerRoundMessages
	})
	return due
}

// read reads the records and makes releases of them. It reports whether a record
// was carried forward meanwhile.
func (t *timers) read(due []*dueRecord) (moved bool) {
	inLog := slices.SortedFunc(slices.Values(due), func(a, b *dueRecord) int { return cmp.Compare(a.pending.At, b.pending.At) })
	indexes := make([]uint64, len(inLog))
	for i, d := range inLog {
		indexes[i] = d.pending.At
	}
	i := 0
	t.state.log.Records(indexes, func(r store.Committed, err error) bool {
		d := inLog[i]
		i++
		if err == nil {
			d.releases, err = t.releasesOf(d, r)
		}
		switch {
		case errors.Is(err, store.ErrOutOfRange):
			moved = true
		case err != nil:
			t.setUnreadable(d.pending.Origin, err)
		default:
			delete(t.unreadable, d.pending.Origin)
		}
		return true
	})
	return moved
}

func (t *timers) setUnreadable(origin uint64, err error) {
	if _, known := t.unreadable[origin]; !known {
		t.logger.Error("delayed messages cannot be read", "record", origin, "err", err)
	}
	t.unreadable[origin] = t.now().Add(unreadablePause)
}

// release appends what was read, waits until its outcome is known, or that it
// will not be for a while, and takes the marks away.
func (t *timers) release(due []*dueRecord) (err error) {
	type outcome struct {
		of  *dueRecord
		err error
	}
	started, done := 0, make(chan outcome, timerRoundMessages)
	for _, d := range due {
		for _, r := range d.releases {
			if err == nil {
				err = t.state.log.Append(r, func(c store.Committed, err error) {
					if err == nil {
						t.state.meters.Released(c.Queue.Topic, int(c.Count))
					}
					done <- outcome{d, err}
				})
			}
			if err == nil {
				started++
			}
		}
	}
	failed := map[*dueRecord]bool{}
	for range started {
		if o := <-done; o.err != nil {
			failed[o.of], err = true, o.err
		}
	}
	for _, d := range due {
		t.finish(&d.mark, failed[d])
	}
	return err
}

// claim marks a message that waits and is not marked. Otherwise it returns the
// mark that there is, or neither when the message does not wait.
func (t *timers) claim(at timer.Place) (own, other *mark) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.marks[at]; m != nil {
		return nil, m
	}
	if _, ok := t.state.timers.Lookup(at); !ok {
		return nil, nil
	}
	own = &mark{places: []timer.Place{at}, known: make(chan struct{})}
	t.marks[at] = own
	return own, nil
}

// finish takes a mark away, now or, if what was appended failed, once the log is
// written again.
func (t *timers) finish(m *mark, doubtful bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if doubtful {
		t.doubtful = append(t.doubtful, m)
		t.poke()
		return
	}
	t.unmarkLocked(m)
}

func (t *timers) unmarkLocked(m *mark) {
	for _, at := range m.places {
		delete(t.marks, at)
	}
	close(m.known)
}

// settled takes the doubtful marks away if the log is written: then what it has
// of their records is applied. Until then nothing can be appended at all.
func (t *timers) settled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.doubtful) == 0 {
		return true
	}
	refusing := t.state.log.Status().Refusing
	for _, e := range []error{store.ErrPoisoned, store.ErrNoSpace, store.ErrClosed} {
		if errors.Is(refusing, e) {
			return false
		}
	}
	for _, m := range t.doubtful {
		t.unmarkLocked(m)
	}
	t.doubtful = nil
	return true
}
