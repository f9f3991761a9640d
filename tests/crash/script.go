//go:build linux

package crash

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/rmqio/rmq/broker/store"
)

// How much each part of the script appends: rounds of one batch to each queue.
// Together they fill several segments.
const (
	fillRounds = 36
	moreRounds = 14
	// patience is how long the script waits for a log that refuses.
	patience = 8 * time.Second
)

// script is a fixed piece of work. Errors of the log's calls are what it is
// there to provoke: it tells them, waits until the log takes appends again, or
// opens it anew. What breaks a promise ends it with an error.
type script struct {
	dir   string
	log   *store.Log
	next  [Queues]int64
	marks []mark
}

// mark is where each queue ended before a record.
type mark struct {
	index uint64
	ends  [Queues]int64
}

func (s *script) run() error {
	for _, step := range []struct {
		phase string
		do    func() error
	}{
		{"open", s.open},
		{"append", func() error { return s.fill(fillRounds) }},
		{"retain", s.retain},
		{"append more", func() error { return s.fill(moreRounds) }},
		{"close", s.close},
		{"open again", s.open},
		{"append at last", func() error { return s.fill(moreRounds) }},
		{"close at last", s.close},
	} {
		_, _ = os.ReadFile(phasePath(s.dir, step.phase)) // for those who watch
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.phase, err)
		}
	}
	return nil
}

// open opens the log, again if calls that were made to fail are in its way.
func (s *script) open() error {
	const attempts = 20
	for n := 1; ; n++ {
		log, err := store.Open(s.dir, smallSegments())
		if err == nil {
			s.log = log
			return s.resume()
		}
		if errors.Is(err, store.ErrDamaged) || n == attempts {
			return fmt.Errorf("attempt %d: %w", n, err)
		}
		say(sayRefused, "open: "+kindOf(err))
	}
}

// resume goes on from what is committed.
func (s *script) resume() error {
	for q := range Queues {
		_, end := s.log.Bounds(queueKey(q))
		if end < s.next[q] {
			return fmt.Errorf("queue %d ends at %d, acknowledged was up to %d", q, end, s.next[q])
		}
		s.next[q] = end
	}
	if err := s.log.Status().Refusing; err != nil {
		return fmt.Errorf("the log refuses appends: %w", err)
	}
	return nil
}

func (s *script) close() error {
	if err := s.log.Close(); err != nil {
		say(sayRefused, "close: "+kindOf(err))
	}
	return nil
}

func (s *script) fill(rounds int) error {
	for i := range rounds {
		if err := s.round(i); err != nil {
			return err
		}
	}
	return nil
}

type answer struct {
	store.Committed
	err error
}

// round appends a batch to each queue and waits for the answers.
func (s *script) round(i int) error {
	s.marks = append(s.marks, mark{s.log.Status().LastIndex + 1, s.next})
	answers := make(chan answer, Queues)
	asked, sure := 0, true
	var refusal error
	for q := range Queues {
		count := 1 + (i+q)%3
		err := s.log.Append(record(q, s.next[q], count), func(c store.Committed, err error) { answers <- answer{c, err} })
		if err != nil {
			refusal = err
			continue
		}
		asked++
	}
	for range asked {
		a := <-answers
		if a.err != nil {
			refusal, sure = a.err, sure && errors.Is(a.err, store.ErrNoSpace)
			continue
		}
		q := int(a.Queue.Queue)
		if a.BaseOffset != s.next[q] {
			return fmt.Errorf("queue %d: stored at %d, want %d", q, a.BaseOffset, s.next[q])
		}
		s.next[q] += int64(a.Count)
		sayOffset(sayAck, q, s.next[q])
	}
	if refusal != nil {
		return s.outlast(refusal, sure)
	}
	return nil
}

// outlast waits until a log that refuses takes appends again; if it does not, it
// opens it anew. sure says that nothing that was refused may be stored.
func (s *script) outlast(refusal error, sure bool) error {
	if kindOf(refusal) == untyped {
		return fmt.Errorf("not a typed error: %w", refusal)
	}
	say(sayRefused, kindOf(refusal))
	wanted := s.next
	if waitFor(patience, func() bool { return s.log.Status().Refusing == nil }) {
		if err := s.resume(); err != nil {
			return err
		}
	} else {
		say(sayRefused, "for good: "+s.log.Status().Refusing.Error())
		if err := errors.Join(s.close(), s.open()); err != nil {
			return err
		}
	}
	for q := range Queues {
		if sure && s.next[q] > wanted[q] {
			return fmt.Errorf("queue %d ends at %d after %v, it should end at %d", q, s.next[q], refusal, wanted[q])
		}
	}
	return nil
}

// retain has the oldest segments dropped, up to a third of what was appended.
func (s *script) retain() error {
	keep := s.marks[len(s.marks)/3]
	for q := range Queues {
		sayOffset(sayTrim, q, keep.ends[q])
	}
	// Segments are sealed at the same time; one that could not be is not dropped.
	waitFor(time.Second, func() bool {
		dropped, err := s.log.Retain(store.Retention{MaxBytes: 1, KeepFrom: keep.index, MaxAge: forEver})
		if err != nil {
			say(sayRefused, "retain: "+kindOf(err))
		}
		return dropped > 0 || err != nil
	})
	return nil
}

func forEver(uint64) time.Duration { return math.MaxInt64 }

// waitFor waits until the condition holds and reports whether it did in time.
func waitFor(limit time.Duration, condition func() bool) bool {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			return false
		case <-tick.C:
		}
	}
	return true
}

const untyped = "untyped"

// kindOf is the sentinel behind an error, in a word or two.
func kindOf(err error) string {
	for _, e := range []error{store.ErrNoSpace, store.ErrPoisoned, store.ErrDiskFull, store.ErrBusy, store.ErrClosed, store.ErrDamaged} {
		if errors.Is(err, e) {
			return strconv.Quote(e.Error())
		}
	}
	return untyped
}
