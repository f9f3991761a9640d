package consumer

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/transport/protocol"
)

// pullGrace is how much longer than a pull's wait its answer may take.
const pullGrace = 5 * time.Second

// fetcher pulls from one broker. Queues of which the broker has more are spread
// over some pulls, so that one is decoded while others are answered. All others
// that have room are in one, which waits at the broker for messages. A queue that gets room, or is taken up,
// while a pull waits is pulled at once in another one beside it: pulls under
// way are always for different queues, so none is ever cancelled for the sake
// of another, and a queue waits in one at most. Queues whose pulls end together
// go on together. A queue that is lost during a pull needs nothing either: its
// part of the answer finds no taker.
//
// Goroutines: run, and one for each pull under way, which run waits for.
type fetcher struct {
	engine  *engine
	broker  string
	log     *slog.Logger
	wake    chan struct{} // a queue can be pulled; holds one
	answers chan answer
	pulls   sync.WaitGroup

	failures int // of pulls in a row
	pauseTo  time.Time
}

// answer is how a pull ended.
type answer struct {
	draft  draft
	pulled []pulled
	err    error
}

func newFetcher(e *engine, broker string) *fetcher {
	return &fetcher{
		engine: e, broker: broker, log: e.log.With("broker", broker),
		wake: make(chan struct{}, 1), answers: make(chan answer),
	}
}

// run pulls until ctx ends.
func (f *fetcher) run(ctx context.Context) {
	defer f.pulls.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if next := f.pullAll(ctx, time.Now()); !next.IsZero() {
			timer.Reset(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case a := <-f.answers:
			f.take(a)
			f.takeMore()
		case <-f.wake:
		case <-timer.C:
		}
	}
}

// takeMore takes what has arrived meanwhile, so that the queues of several
// pulls go into one.
func (f *fetcher) takeMore() {
	for {
		select {
		case a := <-f.answers:
			f.take(a)
		default:
			return
		}
	}
}

// pullAll begins pulls until no queue can be pulled. It returns when to try again
// without being asked; zero: when something happens.
func (f *fetcher) pullAll(ctx context.Context, now time.Time) (next time.Time) {
	if now.Before(f.pauseTo) {
		return f.pauseTo
	}
	for {
		d, next := f.engine.buffer.draft(f.broker, now)
		if len(d.queues) == 0 {
			return next
		}
		f.pull(ctx, d)
	}
}

func (f *fetcher) pull(ctx context.Context, d draft) {
	if f.engine.group != "" {
		d.request.Group, d.request.ClientID = f.engine.group, f.engine.client.ID()
	}
	f.pulls.Go(func() {
		a := f.call(ctx, d)
		select {
		case f.answers <- a:
		case <-ctx.Done():
		}
	})
}

func (f *fetcher) call(ctx context.Context, d draft) answer {
	ctx, cancel := context.WithTimeout(ctx, pullWait+pullGrace)
	defer cancel()
	resp, err := client.Call[protocol.PullResponse](ctx, f.engine.client, f.broker, protocol.ClassPull, &d.request)
	if err != nil {
		return answer{draft: d, err: err}
	}
	return answer{draft: d, pulled: d.decode(resp, f.broker)}
}

// take applies an answer. The queues of a failed pull keep all they have.
func (f *fetcher) take(a answer) {
	f.engine.buffer.landed(a.draft)
	if a.err != nil {
		f.failed(a.err, time.Now())
		return
	}
	if f.failures > 0 {
		f.log.Info("pulls are answered again")
		f.failures, f.pauseTo = 0, time.Time{}
	}
	for _, p := range a.pulled {
		f.takeQueue(p)
	}
}

func (f *fetcher) failed(err error, now time.Time) {
	f.failures++
	f.engine.roster.disturbed(f.broker, now)
	pause := doubled(brokerRetryFirst, brokerRetryMost, f.failures)
	var refusal *protocol.Error
	if errors.As(err, &refusal) {
		pause = max(pause, refusal.RetryAfter())
	}
	f.pauseTo = now.Add(pause)
	if f.failures == 1 {
		f.log.Warn("pull failed, consuming goes on when the broker answers", "error", err)
	}
	if errors.Is(err, protocol.UnknownMember) {
		signal(f.engine.wake)
	}
}

func (f *fetcher) takeQueue(p pulled) {
	switch {
	case p.err == nil:
		if !f.engine.buffer.admit(p) {
			f.setAside(p.queue, errors.New("answer without messages"))
		}
	case errors.Is(p.err, protocol.OffsetOutOfRange):
		f.jump(p)
	case errors.Is(p.err, protocol.Fenced), errors.Is(p.err, protocol.TopicNotFound), errors.Is(p.err, protocol.QueueNotFound):
		f.engine.lose(p.queue, p.err)
	default:
		f.setAside(p.queue, p.err)
	}
}

func (f *fetcher) jump(p pulled) {
	from, to, ok := f.engine.buffer.jump(p)
	if !ok {
		f.setAside(p.queue, p.err)
		return
	}
	f.log.Warn("offset is not in the queue, going on where it has messages",
		"topic", p.queue.queue.Topic, "queue", p.queue.queue.ID, "offset", from, "next", to)
}

// setAside tries a queue again later. It never skips what cannot be read.
func (f *fetcher) setAside(q *processQueue, err error) {
	failures := f.engine.buffer.leaveAlone(q, time.Now())
	if errors.Is(err, protocol.UnknownMember) {
		f.engine.roster.disturbed(f.broker, time.Now())
		signal(f.engine.wake)
		return
	}
	if failures == 1 {
		f.engine.fault(client.Wrap("pull", q.queue.Topic, f.broker, err), q.queue)
	}
}
