package consumer

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// acknowledged as an invisible time says that the message is processed.
const acknowledged = 0

// settleTimeout bounds one request; a broker that hangs is asked again.
const settleTimeout = 5 * time.Second

// settler tells brokers what becomes of popped messages. What is told one broker of one
// kind (acknowledged, or the same invisible time) goes in one request at a time: the
// first goes at once, and what comes meanwhile gathers and goes next.
//
// Goroutines: one for each broker and kind that there is something to tell of. Close
// waits for all of them.
type settler struct {
	ask           asker
	group, client string
	ctx           context.Context // of the requests
	end           context.CancelFunc

	mu      sync.Mutex
	closed  bool
	waiting map[telling][]settlement // what has an entry has a goroutine
	running sync.WaitGroup
}

// asker sends an AckRequest or a ChangeInvisibleRequest to a broker.
type asker func(ctx context.Context, broker string, req protocol.Request) (*protocol.AckResponse, error)

// telling is what goes in one request.
type telling struct {
	broker    string
	invisible time.Duration
}

// settlement is one message of which the broker is to be told.
type settlement struct {
	popped *Popped
	done   func(error) // called once; must not block
}

func newSettler(ctx context.Context, group, client string, ask asker) *settler {
	s := &settler{ask: ask, group: group, client: client, waiting: map[telling][]settlement{}}
	s.ctx, s.end = context.WithCancel(ctx)
	return s
}

// start tells the message's broker, and done what came of it: nil when the broker has it
// on disk.
func (s *settler) start(invisible time.Duration, p *Popped, done func(error)) {
	key := telling{broker: p.queue.Broker, invisible: invisible}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		done(ErrClosed)
		return
	}
	list, busy := s.waiting[key]
	s.waiting[key] = append(list, settlement{popped: p, done: done})
	if !busy {
		s.running.Go(func() { s.tell(key) })
	}
	s.mu.Unlock()
}

// settle is start that waits for all of the messages. The errors are those of some of
// them; none when all is well.
func (s *settler) settle(ctx context.Context, op string, invisible time.Duration, ps ...*Popped) []error {
	type outcome struct {
		of  *Popped
		err error
	}
	outcomes := make(chan outcome, len(ps))
	for _, p := range ps {
		s.start(invisible, p, func(err error) { outcomes <- outcome{p, err} })
	}
	var errs []error
	for left := len(ps); left > 0; left-- {
		select {
		case o := <-outcomes:
			if o.err != nil {
				errs = append(errs, client.Wrap(op, o.of.queue.Topic, o.of.queue.Broker, o.err))
			}
		case <-ctx.Done():
			err := fmt.Errorf("%w: %d messages: %w", protocol.UnknownOutcome, left, ctx.Err())
			return append(errs, client.Wrap(op, "", "", err))
		}
	}
	return errs
}

// tell tells until there is nothing more to tell.
func (s *settler) tell(key telling) {
	failures := 0
	for {
		list := s.take(key)
		if list == nil {
			return
		}
		again := s.send(key, list)
		if len(again) == 0 {
			failures = 0
			continue
		}
		failures++
		pause(s.ctx, doubled(brokerRetryFirst, brokerRetryMost, failures))
		s.putBack(key, again)
	}
}

// take takes what fits a request; nil when there is nothing, and the goroutine ends.
func (s *settler) take(key telling) []settlement {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.waiting[key]
	if len(list) == 0 {
		delete(s.waiting, key)
		return nil
	}
	n := min(len(list), protocol.MaxAcks)
	s.waiting[key] = list[n:]
	return list[:n:n]
}

func (s *settler) putBack(key telling, list []settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[key] = append(list, s.waiting[key]...)
}

// send asks once. It returns those to ask for again: the broker was away, and their
// invisible time is not over.
func (s *settler) send(key telling, list []settlement) (again []settlement) {
	entries, members := gather(list)
	sent := time.Now()
	answers, err := s.request(key, entries)
	for i, of := range members {
		answer := protocol.AckedQueue{}
		if err == nil {
			answer = answers[i]
		} else {
			answer.Err = protocol.AsError(err)
		}
		for _, m := range of {
			switch {
			case answer.Err != nil && s.ctx.Err() != nil:
				m.done(ErrClosed)
			case answer.Err != nil && answer.Err.Code.Retryable() && time.Now().Before(m.popped.InvisibleUntil()):
				again = append(again, m)
			default:
				m.settled(key.invisible, sent, &answer)
			}
		}
	}
	return again
}

// settled takes the last word of the broker.
func (m settlement) settled(invisible time.Duration, sent time.Time, answer *protocol.AckedQueue) {
	var err error
	p := m.popped
	switch {
	case answer.Err != nil:
		err = answer.Err
	case slices.Contains(answer.Expired, p.offset):
		err = fmt.Errorf("%w: %w: message at offset %d of %v", protocol.Fenced, ErrHandleExpired, p.offset, p.queue)
	case invisible != acknowledged:
		p.hide(sent.Add(invisible))
	}
	m.done(err)
}

// request asks the broker and holds the answer to what was asked.
func (s *settler) request(key telling, entries []protocol.AckQueue) ([]protocol.AckedQueue, error) {
	ctx, cancel := context.WithTimeout(s.ctx, settleTimeout)
	defer cancel()
	ack := protocol.AckRequest{Group: s.group, ClientID: s.client, Queues: entries}
	var req protocol.Request = &ack
	if key.invisible != acknowledged {
		req = &protocol.ChangeInvisibleRequest{AckRequest: ack, InvisibleMillis: key.invisible.Milliseconds()}
	}
	resp, err := s.ask(ctx, key.broker, req)
	if err != nil {
		return nil, err
	}
	if len(resp.Queues) != len(entries) {
		return nil, protocol.Errorf(protocol.SystemError, "answer for %d queues, asked for %d", len(resp.Queues), len(entries))
	}
	return resp.Queues, nil
}

// gather makes the entries of a request: one for each queue and pop, with ascending
// offsets.
func gather(list []settlement) (entries []protocol.AckQueue, members [][]settlement) {
	type pop struct {
		queue message.Queue
		fence uint64
	}
	places := map[pop]int{}
	for _, m := range list {
		p := m.popped
		at, there := places[pop{p.queue, p.fence}]
		if !there {
			at = len(entries)
			places[pop{p.queue, p.fence}] = at
			entries = append(entries, protocol.AckQueue{Topic: p.queue.Topic, Queue: p.queue.ID, Fence: p.fence})
			members = append(members, nil)
		}
		entries[at].Offsets = append(entries[at].Offsets, p.offset)
		members[at] = append(members[at], m)
	}
	for i := range entries {
		slices.Sort(entries[i].Offsets)
		entries[i].Offsets = slices.Compact(entries[i].Offsets) // one message may be acknowledged twice
	}
	return entries, members
}

// close takes no more, and waits for what is under way, for as long as ctx allows.
func (s *settler) close(ctx context.Context) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	defer context.AfterFunc(ctx, s.end)()
	s.running.Wait()
	s.end()
}

// pause reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
