//go:build linux

// Package churn has members of one consumer group come and go in every way that
// processes do: they join, leave, are killed, and are frozen and woken, while the
// server is killed and started again. It records what they do and holds that to the
// promises: nothing is lost, messages of a key keep their order, a queue has one
// owner at a time, who was away too long cannot commit, and nothing comes twice
// where every leave was clean.
package churn

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/rmqio/rmq/admin"
)

// patience bounds every wait of a run.
const patience = time.Minute

// Plan is what is to happen in a run.
type Plan struct {
	Addr string // of the name server
	Seed uint64
	// For is how long members come and go; a frozen one is waited for.
	For time.Duration
	// Pause is the longest time between two events.
	Pause time.Duration
	// Most is how many members there are at most; two at least.
	Most int
	// Kill has members killed, Freeze has one at a time frozen for as long; 0: never.
	Kill   bool
	Freeze time.Duration
	// Restart, if there is one, kills the server and starts it again: once at least,
	// and not while a member is frozen for a short time, which would have its session
	// begin anew.
	Restart func() error
}

// The load of a run.
const (
	queues = 12
	keys   = 30
	rate   = 1000
	busy   = 4 * time.Millisecond
	// longFreeze is more than two sessions.
	longFreeze = 15 * time.Second
	// wakeTime is what a woken member gets to find out what happened, before it may be
	// asked to leave.
	wakeTime = 2 * time.Second
)

// churn is one run.
type churn struct {
	Plan
	history *History
	random  *rand.Rand
	members []*member // that run; the frozen ones too
	started int
}

// Run carries out a plan. All messages are handled when it returns, the members have
// left, and their processes are gone, whatever went wrong.
func Run(ctx context.Context, p Plan) (*History, error) {
	c := &churn{Plan: p, history: newHistory(), random: rand.New(rand.NewPCG(p.Seed, 1))}
	err := createTopic(ctx, p.Addr)
	if err == nil {
		err = c.run(ctx)
	}
	for _, m := range c.members {
		m.discard()
	}
	return c.history, err
}

func createTopic(ctx context.Context, addr string) error {
	a, err := admin.New(ctx, admin.Config{NameServers: []string{addr}})
	if err != nil {
		return err
	}
	defer a.Close()
	_, err = a.CreateTopic(ctx, admin.TopicSpec{Name: topic, ReadQueues: queues, WriteQueues: queues}, admin.Target{})
	return err
}

func (c *churn) run(ctx context.Context) error {
	for range (2 + c.Most) / 2 {
		if err := c.join(ctx); err != nil {
			return err
		}
	}
	for _, m := range c.members {
		if err := m.awaitReady(ctx); err != nil {
			return err
		}
	}
	s, err := startSource(ctx, c.history, c.Addr, keys, rate)
	if err != nil {
		return err
	}
	err = c.events(ctx)
	err = errors.Join(err, s.stop(context.WithoutCancel(ctx)))
	if err == nil {
		err = c.settle(ctx)
	}
	for len(c.members) > 0 && err == nil {
		err = c.leave(ctx, c.members[0])
	}
	return err
}

// events has one thing after another happen until the time is over and nobody is
// frozen.
func (c *churn) events(ctx context.Context) error {
	until := time.Now().Add(c.For)
	if c.Freeze > 0 { // first, so that there is time to wake it
		c.freeze(c.members[0])
	}
	for {
		m := c.sleeper()
		if m != nil && time.Now().After(m.wake) {
			m.thaw()
			if err := pause(ctx, wakeTime); err != nil {
				return err
			}
			m = nil
		}
		if m == nil && time.Now().After(until) {
			return c.lastRestart(ctx)
		}
		if err := pause(ctx, time.Duration(c.random.Int64N(int64(c.Pause)))); err != nil {
			return err
		}
		if err := c.event(ctx); err != nil {
			return err
		}
	}
}

// sleeper is the member that is frozen, if there is one.
func (c *churn) sleeper() *member {
	if i := slices.IndexFunc(c.members, (*member).isFrozen); i >= 0 {
		return c.members[i]
	}
	return nil
}

func (c *churn) awake() []*member {
	return slices.DeleteFunc(slices.Clone(c.members), (*member).isFrozen)
}

// event has something happen that may: at random.
func (c *churn) event(ctx context.Context) error {
	awake := c.awake()
	may := len(awake) > 2
	some := awake[c.random.IntN(len(awake))]
	switch n := c.random.IntN(10); {
	case n < 1 && c.Restart != nil && (c.sleeper() == nil || c.Freeze > longFreeze):
		return c.restart(ctx)
	case n < 3 && c.Kill && may:
		some.kill()
		c.forget(some)
		return nil
	case n < 5 && c.Freeze > 0 && may && c.sleeper() == nil:
		c.freeze(some)
		return nil
	case n < 8 && may:
		return c.leave(ctx, some)
	case len(c.members) < c.Most:
		return c.join(ctx)
	}
	return nil
}

// restart is followed by a leave at once: its last commit meets a server that the
// member is not connected to yet.
func (c *churn) restart(ctx context.Context) error {
	c.history.count(func(c *Counts) { c.Restarted++ })
	err := c.Restart()
	if awake := c.awake(); err == nil && len(awake) > 2 {
		err = c.leave(ctx, awake[c.random.IntN(len(awake))])
	}
	return err
}

// lastRestart is the first one, if there was none.
func (c *churn) lastRestart(ctx context.Context) error {
	if c.Restart == nil || c.history.counts.Restarted > 0 {
		return nil
	}
	return c.restart(ctx)
}

func (c *churn) freeze(m *member) {
	m.freeze(c.Freeze + time.Duration(c.random.Int64N(int64(time.Second))))
}

// join starts a member; every second one is waited for.
func (c *churn) join(ctx context.Context) error {
	c.started++
	m, err := startMember(ctx, c.history, fmt.Sprintf("member-%03d", c.started), c.Addr, busy)
	if err != nil {
		return err
	}
	c.members = append(c.members, m)
	if c.started%2 == 0 {
		return m.awaitReady(ctx)
	}
	return nil
}

func (c *churn) leave(ctx context.Context, m *member) error {
	c.forget(m)
	err := m.leave(ctx)
	if err != nil {
		m.discard()
	}
	return err
}

func (c *churn) forget(m *member) {
	c.members = slices.DeleteFunc(c.members, func(o *member) bool { return o == m })
}

// settle waits until everything that is stored was handled.
func (c *churn) settle(ctx context.Context) error {
	limit := time.Now().Add(patience)
	for c.history.unfinished() > 0 {
		if time.Now().After(limit) {
			c.history.fault("%d messages are not handled %v after the last one was sent", c.history.unfinished(), patience)
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// Committed is what a server says of the group's offsets, by queue.
func Committed(ctx context.Context, addr string) (map[int]int64, error) {
	a, err := admin.New(ctx, admin.Config{NameServers: []string{addr}})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	g, err := a.DescribeGroup(ctx, group, admin.Target{})
	if err != nil {
		return nil, err
	}
	committed := map[int]int64{}
	for _, q := range g.Queues {
		if q.Topic == topic {
			committed[q.Queue] = q.Committed
		}
	}
	return committed, nil
}

// pause waits, or returns ctx's error.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
