package consumer

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// popsAtOnce bounds the pops of one consumer that are under way at one broker.
const popsAtOnce = 16

// shelf is where the answers of brokers meet those who wait in Receive: messages that
// came and were not returned yet, and what is under way at which broker. It is safe for
// concurrent use and has no goroutines.
//
// A Receive wants one pop of its invisible time under way at each broker. One that it
// leaves behind, because another broker was quicker, serves the next Receive.
type shelf struct {
	mu      sync.Mutex
	ended   error // what every Receive ends with; nil: it is open
	changed chan struct{}
	kept    []*shelved
	waiting map[time.Duration]int // Receives that wait, by invisible time
	brokers map[string]*counter
	told    map[message.Queue]protocol.ErrorCode // what is wrong with queues, as told
	faults  fifo[error]
}

// shelved is a message that nobody has asked for yet.
type shelved struct {
	*Popped
	invisible time.Duration
}

// counter is how it stands with one broker.
type counter struct {
	flying   map[time.Duration]int // pops under way, by invisible time
	all      int
	failures int // of pops in a row
	pauseTo  time.Time
}

func newShelf() *shelf {
	return &shelf{
		changed: make(chan struct{}), waiting: map[time.Duration]int{}, brokers: map[string]*counter{},
		told: map[message.Queue]protocol.ErrorCode{},
	}
}

func (s *shelf) changedLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// count counts one more who waits, or, with -1, one less.
func (s *shelf) count(invisible time.Duration, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[invisible] += by; s.waiting[invisible] == 0 {
		delete(s.waiting, invisible)
	}
}

// take takes up to so many messages. Late are those whose invisible time is half over:
// they are to be given back. Changed is closed when there may be something new.
func (s *shelf) take(now time.Time, most int, invisible time.Duration) (ps, late []*Popped, changed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended != nil:
		return nil, nil, nil, s.ended
	case s.faults.len() > 0:
		return nil, nil, nil, s.faults.pop()
	}
	s.kept = slices.DeleteFunc(s.kept, func(k *shelved) bool {
		left := k.InvisibleUntil().Sub(now)
		switch {
		case left < k.invisible/2:
			late = append(late, k.Popped)
		case len(ps) < most && left <= invisible && left >= invisible/2:
			ps = append(ps, k.Popped)
		default:
			return false
		}
		return true
	})
	return ps, late, s.changed, nil
}

// begin starts a pop, unless the broker has enough of them under way, or is left alone
// until again. Start must not block.
func (s *shelf) begin(broker string, invisible time.Duration, now time.Time, start func()) (again time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.brokers[broker]
	if c == nil {
		c = &counter{flying: map[time.Duration]int{}}
		s.brokers[broker] = c
	}
	switch {
	case s.ended != nil || c.all >= popsAtOnce || c.flying[invisible] >= s.waiting[invisible]:
		return time.Time{}
	case now.Before(c.pauseTo):
		return c.pauseTo
	}
	c.flying[invisible]++
	c.all++
	start()
	return time.Time{}
}

// landed ends a pop. With a pause the broker is left alone for a time that grows with
// the failures in a row, and as long as it asks for. It returns how many there are.
func (s *shelf) landed(broker string, invisible time.Duration, failed bool, asked time.Duration, now time.Time) (failures int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.brokers[broker]
	c.all--
	if c.flying[invisible]--; c.flying[invisible] == 0 {
		delete(c.flying, invisible)
	}
	failures = c.failures
	if c.failures = 0; failed {
		failures++
		c.failures = failures
		c.pauseTo = now.Add(max(doubled(brokerRetryFirst, brokerRetryMost, failures), asked))
	}
	s.changedLocked()
	return failures
}

// put keeps messages until they are asked for. It reports false when nobody will.
func (s *shelf) put(ps []*Popped, invisible time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return false
	}
	for _, p := range ps {
		s.kept = append(s.kept, &shelved{Popped: p, invisible: invisible})
	}
	s.changedLocked()
	return true
}

// report keeps an error for the next Receive.
func (s *shelf) report(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.push(err)
	s.changedLocked()
}

// news reports whether the error of a queue is another one than before; 0: it is well.
func (s *shelf) news(q message.Queue, code protocol.ErrorCode) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told[q] == code {
		return false
	}
	if s.told[q] = code; code == 0 {
		delete(s.told, q)
	}
	return true
}

// end ends every Receive, and returns what is left. Only the first call counts.
func (s *shelf) end(err error) []*Popped {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil {
		return nil
	}
	s.ended = err
	left := make([]*Popped, len(s.kept))
	for i, k := range s.kept {
		left[i] = k.Popped
	}
	s.kept = nil
	s.changedLocked()
	return left
}

// await waits for a change, for routes, for a time if it is set, or for ctx.
func await(ctx context.Context, changed, routes <-chan struct{}, until time.Time) error {
	var timeout <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-changed:
	case <-routes:
	case <-timeout:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
