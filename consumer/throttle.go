package consumer

import (
	"fmt"

	"github.com/rmqio/rmq/message"
)

// Suspend stops handing out the messages of topics, without any of all topics, until
// Resume: no handler is called for them any more, those that run may finish. The
// queues stay with this consumer; a few of their messages are held, and wait. What is
// said last of a queue holds, also when the queue comes only later, and before Run. Messages that
// failed come from a topic of their own, message.RetryTopic(group): to suspend a
// topic does not stop those of it that are delivered again, to suspend all does.
func (c *Push) Suspend(topics ...string) { c.suspend(func(s *suspension) { s.set(true, topics) }) }

// Resume ends Suspend for topics, without any for everything.
func (c *Push) Resume(topics ...string) { c.suspend(func(s *suspension) { s.set(false, topics) }) }

// SuspendQueues is Suspend for single queues; they need not be this consumer's now.
func (c *Push) SuspendQueues(queues ...message.Queue) {
	c.suspend(func(s *suspension) { s.setQueues(true, queues) })
}

// ResumeQueues ends Suspend for single queues.
func (c *Push) ResumeQueues(queues ...message.Queue) {
	c.suspend(func(s *suspension) { s.setQueues(false, queues) })
}

func (c *Push) suspend(change func(*suspension)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.suspended)
	if c.engine != nil {
		c.engine.buffer.suspend(c.suspended.clone())
		c.engine.announce()
	}
}

// SetRate replaces Rate and Burst of the configuration, at any time. Illegal values
// change nothing; the error is ErrIllegalConfig.
func (c *Push) SetRate(perSecond float64, burst int) error {
	if err := checkRate(perSecond, burst); err != nil {
		return fmt.Errorf("set rate of group %q: %w", c.cfg.Group, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.perSecond, c.burst = perSecond, burst
	if c.engine != nil {
		c.engine.buffer.setPace(perSecond, burst)
		c.engine.announce()
	}
	return nil
}

// SetConcurrency replaces Concurrency of the configuration, at any time. Handlers too
// many end when they return, and do not count meanwhile. The error is ErrIllegalConfig.
func (c *Push) SetConcurrency(n int) error {
	if err := checkConcurrency(n); err != nil {
		return fmt.Errorf("set concurrency of group %q: %w", c.cfg.Group, err)
	}
	c.crew.resize(n)
	return nil
}

func checkConcurrency(n int) error {
	if n < 1 || n > MaxConcurrency {
		return fmt.Errorf("%w: concurrency %d; 1 to %d are allowed", ErrIllegalConfig, n, MaxConcurrency)
	}
	return nil
}

// attach has the engine follow what is said of the consumer from now on.
func (c *Push) attach(e *engine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.buffer.suspend(c.suspended.clone())
	e.buffer.setPace(c.perSecond, c.burst)
	c.engine = e
}

// detach ends attach.
func (c *Push) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.engine = nil
}
