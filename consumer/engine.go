package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/compress"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// placeInterval is RocketMQ's interval of rebalancing; events come first.
	placeInterval = 20 * time.Second
	// leaveTimeout bounds the last commit and the leave.
	leaveTimeout = 5 * time.Second
	// awayTimeout bounds how long the last commit waits for a broker to be back.
	awayTimeout = 2 * time.Second
)

// engine is what push and pull consumers share. It decides which queues are
// read, pulls them into the buffer, and commits what is finished; the fronts
// take from the buffer.
//
// Goroutines: the coordinator (run itself), one fetcher for each broker, and
// the committer. Run waits for all of them.
type engine struct {
	settings
	client *client.Client
	buffer *buffer
	wake   chan struct{} // the assignment is to be looked at; holds one
	placed chan struct{} // closed when it is complete for the first time
	starts starts
	roster *roster
	barred barred

	decoder compress.Decoder

	refusal error   // why the group does not take this consumer; read after run
	ledger  *ledger // of a broadcasting member that keeps its offsets itself, or nil

	fetchers map[string]*fetcher // the coordinator's
	fetching sync.WaitGroup
}

// placer decides which queues are read.
type placer interface {
	// place makes the buffer hold the queues that it should. It reports false
	// when that is not reached yet and it should be called again soon.
	place(ctx context.Context) bool
}

// placer is the one that the settings ask for.
func (e *engine) placer() placer {
	if e.group == "" {
		return newReader(e)
	}
	return newMembership(e)
}

// newEngine makes one that is to be run. The life of handlers is ctx's.
func newEngine(ctx context.Context, s settings, c *client.Client, placed chan struct{}) *engine {
	e := &engine{
		settings: s, client: c, wake: make(chan struct{}, 1), placed: placed,
		buffer:   newBuffer(ctx, s.order, bounds{count: s.maxPrefetch, bytes: s.maxPrefetchBytes}),
		starts:   newStarts(s.from, time.Now()),
		fetchers: map[string]*fetcher{},
		roster:   newRoster(),
	}
	e.buffer.replies, e.buffer.filters = newReplier(c), s.filters
	return e
}

// run works until ctx ends; then it drains: nothing is pulled any more, what
// runs may finish for up to the shutdown timeout, what is finished is committed,
// and the group is left. That ends early when after ends. It all ends by itself when
// the group refuses this consumer. The error is that of the last commit or the leave.
func (e *engine) run(ctx, after context.Context, p placer) error {
	if e.announcedGroup() == "" {
		e.coordinate(ctx, p)
		e.fetching.Wait()
		return nil
	}
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	e.client.OnRefused(func(r client.Refusal) { e.refused(r, refuse) })
	commits, stopCommits := context.WithCancel(after)
	defer stopCommits()
	var committer sync.WaitGroup
	committer.Go(func() { e.commitLoop(commits) })
	e.announce()
	e.coordinate(ctx, p)
	if cause := context.Cause(ctx); errors.Is(cause, ErrRefused) {
		e.refusal = cause
	}
	e.fetching.Wait()
	e.drain(after)
	stopCommits()
	committer.Wait()
	return e.leave(after)
}

// refused ends a consumer that its group does not take. One that was a member goes
// on asking: it was away, and others came meanwhile.
func (e *engine) refused(r client.Refusal, end context.CancelCauseFunc) {
	if r.Final {
		e.log.Error("the group refuses this consumer", "group", e.announcedGroup(), "error", r.Err)
		end(fmt.Errorf("%w: %w", ErrRefused, r.Err))
		return
	}
	e.log.Warn("the group refuses this consumer for now, trying again", "group", e.group, "error", r.Err)
	if e.onFault != nil {
		e.onFault(r.Err)
	}
}

// coordinate keeps the queues in place.
func (e *engine) coordinate(ctx context.Context, p placer) {
	stop := e.client.OnMembersChanged(func(ev protocol.MembersChangedEvent) {
		if ev.Group == e.group {
			signal(e.wake)
		}
	})
	defer stop()
	complete, failures := false, 0
	for ctx.Err() == nil {
		routes := e.client.RouteChanged() // taken first, so that no change is missed
		wait := placeInterval
		if p.place(ctx) {
			failures = 0
			if !complete {
				complete = true
				close(e.placed)
			}
		} else {
			failures++
			wait = doubled(placeRetryFirst, placeRetryMost, failures)
		}
		e.await(ctx, routes, wait)
	}
}

func (e *engine) await(ctx context.Context, routes <-chan struct{}, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-routes:
	case <-e.wake:
	case <-e.buffer.idled:
	case <-timer.C:
	}
}

// hold begins to read a queue. Only the coordinator calls it.
func (e *engine) hold(ctx context.Context, q message.Queue, fence uint64, start, committed int64) {
	f := e.fetchers[q.Broker]
	if f == nil {
		f = newFetcher(e, q.Broker)
		e.fetchers[q.Broker] = f
		e.fetching.Go(func() { f.run(ctx) })
	}
	e.buffer.hold(newProcessQueue(q, fence, start, committed, e.order), f.wake)
	e.log.Info("queue taken up", "topic", q.Topic, "broker", q.Broker, "queue", q.ID, "offset", start)
}

// lose lets go of a queue that the broker does not give any more.
func (e *engine) lose(q *processQueue, err error) {
	if !e.buffer.lose(q, errors.Join(ErrLeaseLost, err)) {
		return
	}
	e.forget(q.queue, err)
	e.log.Info("queue lost", "topic", q.queue.Topic, "broker", q.queue.Broker, "queue", q.queue.ID, "error", err)
	signal(e.wake)
}

// fault tells of an error that a queue waits on.
func (e *engine) fault(err error, q message.Queue) {
	e.log.Error("queue cannot be read, trying again", "topic", q.Topic, "broker", q.Broker, "queue", q.ID, "error", err)
	if e.onFault != nil {
		e.onFault(err)
	}
}

// drain waits until all that was started is finished, or the shutdown timeout
// is over: then the handlers' contexts end.
func (e *engine) drain(ctx context.Context) {
	queues := e.buffer.held()
	e.buffer.drain(queues...)
	e.log.Info("consumer stops, running handlers may finish", "group", e.announcedGroup())
	if e.shutdownTimeout == 0 {
		return
	}
	timer := time.NewTimer(e.shutdownTimeout)
	defer timer.Stop()
	for !e.buffer.idle(queues...) {
		select {
		case <-e.buffer.idled:
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		e.log.Warn("handlers still run, their messages are delivered again", "timeout", e.shutdownTimeout)
		e.buffer.abandon(ErrShutdown)
		return
	}
}

// leave commits for the last time and gives the leases back.
func (e *engine) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	commitErr := e.lastCommit(ctx)
	if commitErr != nil {
		e.log.Warn("last commit failed, finished messages are delivered again", "error", commitErr)
	}
	if e.group == "" {
		return commitErr // that the client closes says the rest
	}
	leaveErr := e.client.Leave(ctx, e.group)
	if leaveErr != nil {
		e.log.Warn("group is not left, its queues are free when the session ends", "group", e.group, "error", leaveErr)
	}
	return errors.Join(commitErr, leaveErr)
}
