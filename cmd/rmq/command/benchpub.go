package command

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
)

// pub measures sending.
func (b *benchmark) pub(ctx context.Context) error {
	body := benchBody(int(b.flags.size))
	var messages []*message.Message
	for _, name := range b.topics() {
		messages = append(messages, &message.Message{Topic: name, Tag: b.flags.tag, Body: body})
	}
	clients, err := b.openSenders(ctx, func(i int, c *sendingClient) {
		at := i * len(messages) / b.flags.clients // so that the clients begin with different topics
		c.message = func(turn) *message.Message {
			at++
			return messages[at%len(messages)]
		}
	})
	if err != nil {
		return err
	}
	b.start()
	b.send(ctx, clients)
	return closeSenders(ctx, clients, b.app.reach.timeout)
}

// sendingClient is one client that sends: a producer with its schedule and its
// tally.
type sendingClient struct {
	producer *producer.Producer
	schedule *benchSchedule
	tally    *tally
	flags    *benchFlags
	clock    func() time.Duration
	// acknowledged is told of messages that are stored.
	acknowledged func(t turn)
	stop         context.CancelFunc // ends the run

	mu sync.Mutex
	// message makes the next one.
	message func(turn) *message.Message
}

// openSenders opens a producer for each client; set completes it.
func (b *benchmark) openSenders(ctx context.Context, set func(i int, c *sendingClient)) ([]*sendingClient, error) {
	var clients []*sendingClient
	for i := range b.flags.clients {
		p, err := b.newProducer(ctx)
		if err != nil {
			return nil, errors.Join(err, closeSenders(ctx, clients, b.app.reach.timeout))
		}
		c := &sendingClient{producer: p, tally: b.tallies[i], flags: &b.flags, clock: b.clock}
		c.acknowledged = func(t turn) {
			now := c.clock()
			c.tally.done(t.n, int64(t.n)*int64(c.flags.size), t.counted, now-t.at, now)
		}
		set(i, c)
		clients = append(clients, c)
	}
	return clients, nil
}

func closeSenders(ctx context.Context, clients []*sendingClient, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	var errs []error
	for _, c := range clients {
		errs = append(errs, c.producer.Close(ctx))
	}
	return errors.Join(errs...)
}

// send has all clients send until their schedules end.
func (b *benchmark) send(ctx context.Context, clients []*sendingClient) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var watching, sending sync.WaitGroup
	watching.Go(func() { b.watch(ctx) })
	for i, c := range clients {
		c.schedule, c.stop = b.schedules[i], stop
		for range c.lanes() {
			sending.Go(func() { c.run(ctx) })
		}
	}
	sending.Wait()
	stop()
	watching.Wait()
}

// lanes is how many goroutines of a client send: one, or, when calls with
// several messages are to be under way at once, one for each call.
func (c *sendingClient) lanes() int {
	if c.flags.sync || c.flags.callsBack() {
		return 1
	}
	return max(1, c.flags.window/c.flags.batch)
}

func (c *sendingClient) run(ctx context.Context) {
	if !c.flags.sync && c.flags.callsBack() {
		c.sendAsync(ctx)
		return
	}
	for {
		t, ok := c.schedule.next(ctx, c.flags.batch)
		if !ok {
			return
		}
		// What is under way at an interruption is waited for, as a result.
		c.answered(t, c.call(context.WithoutCancel(ctx), t))
	}
}

// call sends one message, or those that go together, and waits.
func (c *sendingClient) call(ctx context.Context, t turn) error {
	ms := make([]*message.Message, t.n)
	c.mu.Lock()
	ms[0] = c.message(t)
	for i := 1; i < t.n; i++ {
		ms[i] = ms[0] // the messages of one call have one topic
	}
	c.mu.Unlock()
	var err error
	switch {
	case c.flags.verb == benchTx:
		_, err = c.producer.SendInTransaction(ctx, ms[0], commits)
	case t.n == 1:
		_, err = c.producer.Send(ctx, ms[0])
	default:
		_, err = c.producer.SendBatch(ctx, ms)
	}
	return err
}

// commits is a local transaction that has nothing to do.
func commits(context.Context) (producer.Decision, error) { return producer.Commit, nil }

// callsBack reports that a call sends one message and does not wait.
func (f *benchFlags) callsBack() bool { return f.batch == 1 && f.verb != benchTx }

func (c *sendingClient) answered(t turn, err error) {
	if err == nil {
		c.acknowledged(t)
		return
	}
	c.tally.failed(t.n, err)
	var refusal *producer.Error
	if !errors.As(err, &refusal) || !refusal.Retryable {
		c.stop() // it would fail for all others too
	}
}

// flight is a message that waits for its answer, with its callback made once.
type flight struct {
	turn turn
	done func(producer.Receipt, error)
}

// sendAsync keeps up to a window of messages under way.
func (c *sendingClient) sendAsync(ctx context.Context) {
	free := make(chan *flight, c.flags.window)
	for range c.flags.window {
		f := &flight{}
		f.done = func(_ producer.Receipt, err error) {
			c.answered(f.turn, err)
			free <- f
		}
		free <- f
	}
	sending := context.WithoutCancel(ctx)
	for {
		f := <-free // each comes back, at the latest when its send times out
		var ok bool
		if f.turn, ok = c.schedule.next(ctx, 1); !ok {
			free <- f
			break
		}
		c.producer.SendAsync(sending, c.message(f.turn), f.done)
	}
	for range c.flags.window {
		<-free
	}
}
