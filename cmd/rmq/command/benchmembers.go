package command

import (
	"context"
	"errors"
	"time"

	"github.com/rmqio/rmq/consumer"
)

// The ways of `rmq bench sub` to consume.
const (
	benchPull    = "pull"
	benchPush    = "push"
	benchOrderly = "orderly"
	benchPop     = "pop"
)

var benchModes = []string{benchPull, benchPush, benchOrderly, benchPop}

// benchInvisible is for how long a message that was popped is nobody else's: beyond
// what a batch takes to be acknowledged.
const benchInvisible = time.Minute

// benchMember is a member of the group, in one of the ways.
type benchMember interface {
	// consume enters what comes until ctx ends.
	consume(ctx context.Context, s *arrivals, t *tally)
	// close leaves the group.
	close(ctx context.Context) error
}

// openMembers makes the members of the group, in the way of --mode. Those that pull
// have their queues when it returns; the others begin when they consume.
func (b *benchmark) openMembers(ctx context.Context, group string) (members []benchMember, err error) {
	from, err := parsePosition("--from", b.flags.from, b.app.now())
	if err != nil {
		return nil, err
	}
	if b.flags.mode == benchPull {
		consumers, err := b.openConsumers(ctx, group)
		for _, c := range consumers {
			members = append(members, pullMember{c})
		}
		return members, err
	}
	f := subFlags{group: group, tag: b.flags.tag, topics: []string{b.flags.topic}}
	for range b.flags.clients {
		if b.flags.mode != benchPop {
			members = append(members, pushMember{b.pushConfig(f, from)})
			continue
		}
		c, err := b.app.newSimple(ctx, f, from)
		if err != nil {
			return nil, errors.Join(err, closeMembers(ctx, members, b.app.reach.timeout))
		}
		members = append(members, popMember{c})
	}
	return members, nil
}

// closeMembers leaves the group with all of them.
func closeMembers(ctx context.Context, members []benchMember, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	var errs []error
	for _, m := range members {
		errs = append(errs, m.close(ctx))
	}
	return errors.Join(errs...)
}

type pullMember struct{ consumer *consumer.Pull }

func (m pullMember) consume(ctx context.Context, s *arrivals, t *tally) {
	for {
		ds, err := m.consumer.Poll(ctx, s.flags.batch)
		switch {
		case ctx.Err() != nil || errors.Is(err, consumer.ErrRefused):
			return
		case err != nil:
			t.failed(1, err)
		default:
			s.came(ds, t)
		}
	}
}

func (m pullMember) close(ctx context.Context) error { return m.consumer.Close(ctx) }

type popMember struct{ consumer *consumer.Simple }

// consume acknowledges each batch before it asks for the next one.
func (m popMember) consume(ctx context.Context, s *arrivals, t *tally) {
	for {
		ps, err := m.consumer.Receive(ctx, min(s.flags.batch, consumer.MaxReceive), benchInvisible)
		if ctx.Err() != nil || errors.Is(err, consumer.ErrRefused) {
			return
		}
		if err == nil {
			err = m.consumer.Ack(context.WithoutCancel(ctx), ps...)
		}
		if err != nil {
			t.failed(1, err)
			continue
		}
		ds := make([]*consumer.Delivery, len(ps))
		for i, p := range ps {
			ds[i] = &p.Delivery
		}
		s.came(ds, t)
	}
}

func (m popMember) close(ctx context.Context) error { return m.consumer.Close(ctx) }

// pushMember is a push consumer, which lives while it consumes.
type pushMember struct{ cfg consumer.Config }

func (b *benchmark) pushConfig(f subFlags, from position) consumer.Config {
	return consumer.Config{
		NameServers: b.app.reach.nameServers, ConfigFile: b.app.reach.configFile,
		LookupEnv: b.app.lookupEnv, NameServerEndpoint: b.app.reach.endpoint,
		Group: f.group, From: from.startPosition(), Subscriptions: f.subscriptions(), Ordered: b.flags.mode == benchOrderly,
	}
}

func (m pushMember) consume(ctx context.Context, s *arrivals, t *tally) {
	err := m.run(ctx, s, t)
	if errors.Is(err, consumer.ErrNoNameServer) {
		m.cfg.NameServers = []string{defaultNameServer}
		err = m.run(ctx, s, t)
	}
	if err != nil {
		t.failed(1, err)
	}
}

func (m pushMember) run(ctx context.Context, s *arrivals, t *tally) error {
	c, err := consumer.NewPush(ctx, m.cfg, func(_ context.Context, d *consumer.Delivery) error {
		s.came([]*consumer.Delivery{d}, t)
		return nil
	})
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

func (m pushMember) close(context.Context) error { return nil } // it has left
