package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/message"
)

// Pull is a consumer that the program asks for messages. Messages, MessagesToEnd
// and Poll are for one goroutine at a time; everything else is safe for
// concurrent use. Make one with NewPull and Close it.
//
// Goroutines: those of the engine. Close waits for all of them.
type Pull struct {
	cfg    PullConfig
	engine *engine
	reader *reader // nil for a member that shares queues

	stop    context.CancelFunc // ends reading
	hurry   context.CancelFunc // ends what comes after
	gone    <-chan struct{}    // closed when all is over
	running sync.WaitGroup
	lastErr error // of the engine; read after running
	closed  atomic.Bool

	mu       sync.Mutex
	returned []*item // not processed yet
}

// NewPull checks the configuration, every fault of it at once, and begins to
// read in the background, whether servers can be reached or not. Values of ctx
// are kept, its end is not.
func NewPull(ctx context.Context, cfg PullConfig) (*Pull, error) {
	s, err := cfg.settings()
	if err != nil {
		return nil, fmt.Errorf("pull consumer: %w", err)
	}
	ledger, err := s.openLedger()
	if err != nil {
		return nil, fmt.Errorf("pull consumer: %w", err)
	}
	cl, err := s.newClient(ctx)
	if err != nil {
		ledger.close()
		return nil, fmt.Errorf("pull consumer: %w", err)
	}
	life, hurry := context.WithCancel(context.WithoutCancel(ctx))
	reading, stop := context.WithCancel(life)
	p := &Pull{cfg: cfg, stop: stop, hurry: hurry, gone: life.Done(), engine: newEngine(life, s, cl, make(chan struct{}))}
	p.engine.onFault, p.engine.ledger = p.engine.buffer.report, ledger
	if s.group == "" {
		p.reader = newReader(p.engine)
	}
	p.running.Go(func() { p.run(reading, life) })
	return p, nil
}

func (p *Pull) run(reading, life context.Context) {
	defer p.hurry()
	defer p.engine.ledger.close()
	defer p.engine.client.Close()
	p.lastErr = p.engine.run(reading, life, p.placer())
	p.engine.buffer.end(cmp.Or(p.engine.refusal, ErrClosed))
}

func (p *Pull) placer() placer {
	if p.reader != nil {
		return p.reader
	}
	return newMembership(p.engine)
}

// autoCommit reports whether asking for more says that what was returned is
// processed.
func (p *Pull) autoCommit() bool { return !p.cfg.ManualCommit || p.cfg.Group == "" }

// Ready is closed when the consumer reads, for the first time, all the queues
// that it should.
func (p *Pull) Ready() <-chan struct{} { return p.engine.placed }

// Ended is closed when the consumer has ended: it was closed, or its group refuses
// it; then Poll returns ErrRefused.
func (p *Pull) Ended() <-chan struct{} { return p.gone }

// Assigned lists the queues that are read now, sorted.
func (p *Pull) Assigned() []message.Queue { return p.engine.buffer.held() }

// Assign replaces the topics, or an earlier assignment, by these queues. New
// ones begin at From; those that stay go on. ErrHasGroup in a group.
func (p *Pull) Assign(queues ...message.Queue) error {
	if p.cfg.Group != "" {
		return fmt.Errorf("assign queues in group %q: %w", p.cfg.Group, ErrHasGroup)
	}
	p.reader.assign(queues)
	return nil
}

// Messages yields one message after another and waits for the next, until ctx
// ends, the consumer is closed, or the loop is left. ErrRefused is the last. Another
// error tells that a queue
// cannot be read for now, with protocol.Damaged or protocol.NoPermission for
// example; the other queues go on, and that one is tried again. Queues take
// turns, those whose next message has a higher priority first; within each,
// messages come in the order of their offsets.
func (p *Pull) Messages(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		for {
			d, err := p.one(ctx)
			if ended(ctx, err) || !yield(d, err) || errors.Is(err, ErrRefused) {
				return
			}
		}
	}
}

func (p *Pull) one(ctx context.Context) (*Delivery, error) {
	ds, err := p.Poll(ctx, 1)
	if err != nil {
		return nil, err
	}
	return ds[0], nil
}

// ended reports whether an iteration is over.
func ended(ctx context.Context, err error) bool {
	return errors.Is(err, ErrClosed) || err != nil && ctx.Err() != nil
}

// Poll waits until there is a message and returns up to max, at least one, that
// are there: as many of one queue as it has, of equal priority, then of the next.
// Without ManualCommit, those returned before count as processed now. The errors
// are those of Messages, ctx's, and ErrClosed.
func (p *Pull) Poll(ctx context.Context, max int) ([]*Delivery, error) {
	return p.poll(ctx, max, func() bool { return false })
}

// poll is Poll that returns nothing as soon as done holds.
func (p *Pull) poll(ctx context.Context, max int, done func() bool) ([]*Delivery, error) {
	x := p.engine.telemetry.Receive(ctx)
	ds, err := p.await(ctx, max, done)
	received(ctx, x, ds, err)
	return ds, err
}

func (p *Pull) await(ctx context.Context, max int, done func() bool) ([]*Delivery, error) {
	if p.autoCommit() {
		p.processed()
	}
	b := p.engine.buffer
	for !done() {
		if err := b.fault(); err != nil {
			return nil, err
		}
		ds, err := p.takeSome(max)
		if len(ds) > 0 || err != nil {
			return ds, err
		}
		if err := b.await(ctx, time.Time{}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// takeSome takes what is there.
func (p *Pull) takeSome(most int) ([]*Delivery, error) {
	items, err := p.engine.buffer.takeReady(max(most, 1))
	if len(items) == 0 {
		return nil, err
	}
	ds := make([]*Delivery, len(items))
	for i, it := range items {
		ds[i] = p.engine.open(it)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.returned) == 0 {
		p.returned = items
	} else {
		p.returned = append(p.returned, items...)
	}
	return ds, nil
}

// processed finishes what was returned.
func (p *Pull) processed() {
	p.mu.Lock()
	items := p.returned
	p.returned = nil
	p.mu.Unlock()
	p.engine.buffer.finish(items...)
}

// Commit says that all messages returned so far are processed, and waits until
// the group's offsets are on the brokers' disks. Without a group it only frees
// the messages.
func (p *Pull) Commit(ctx context.Context) error {
	p.processed()
	if p.cfg.Group == "" {
		return nil
	}
	ctx, x := p.engine.telemetry.Settle(ctx, commitOperation)
	b := p.engine.buffer
	err := p.engine.commit(ctx, b.uncommitted(b.held()...))
	x.End(failureOf(err))
	return err
}

// Seek goes on reading a queue from another position. Messages of it that were
// returned and not processed are forgotten. In a group that moves this reader
// only: a commit never goes back, which is what resetting a group is for. With
// Broadcast and offsets in a file it moves what is kept there too.
func (p *Pull) Seek(ctx context.Context, queue message.Queue, to StartPosition) error {
	if err := to.validate(); err != nil {
		return err
	}
	at, err := p.engine.startsAt(ctx, queue.Broker, map[message.Queue]StartPosition{queue: to})
	if err != nil {
		return err
	}
	if !p.engine.buffer.restart(queue, at[queue]) {
		return fmt.Errorf("seek in %v: %w", queue, ErrNotAssigned)
	}
	return nil
}

// Pause stops reading queues and returning their messages until Resume.
// ErrNotAssigned when one of them is not read; the others are paused. A queue
// that goes to another member and comes back is not paused any more.
func (p *Pull) Pause(queues ...message.Queue) error { return p.pause(true, queues) }

// Resume ends Pause.
func (p *Pull) Resume(queues ...message.Queue) error { return p.pause(false, queues) }

func (p *Pull) pause(paused bool, queues []message.Queue) error {
	if !p.engine.buffer.pause(paused, queues) {
		return fmt.Errorf("pause or resume %v: %w", queues, ErrNotAssigned)
	}
	return nil
}

// Close ends reading. Without ManualCommit, what was returned counts as
// processed; it is committed, and the group is left, for as long as ctx allows.
// The error is that of the commit or the leave. Messages and Poll end; a second
// Close does nothing.
func (p *Pull) Close(ctx context.Context) error {
	if p.closed.Swap(true) {
		return nil
	}
	if p.autoCommit() {
		p.processed()
	}
	defer context.AfterFunc(ctx, p.hurry)()
	p.stop()
	p.running.Wait()
	p.hurry()
	return p.lastErr
}
