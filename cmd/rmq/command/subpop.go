package command

import (
	"context"
	"errors"
	"strings"

	"github.com/rmqio/rmq/consumer"
)

func (f subFlags) checkPop() error {
	switch {
	case !f.pop:
		return nil
	case f.group == "":
		return usagef("--pop: want --group too, whose members share the messages")
	case f.exitAtEnd:
		return usagef("--pop goes with no --exit-at-end, as other members take messages too; --idle-timeout ends it")
	case f.invisible < consumer.MinInvisible || f.invisible > consumer.MaxInvisible:
		return usagef("--invisible %s: want %s to %s", f.invisible, consumer.MinInvisible, consumer.MaxInvisible)
	}
	return nil
}

func (a *app) newSimple(ctx context.Context, f subFlags, from position) (*consumer.Simple, error) {
	cfg := consumer.SimpleConfig{
		NameServers: a.reach.nameServers, ConfigFile: a.reach.configFile,
		LookupEnv: a.lookupEnv, NameServerEndpoint: a.reach.endpoint,
		Group: f.group, From: from.startPosition(), Subscriptions: f.subscriptions(),
	}
	c, err := consumer.NewSimple(ctx, cfg)
	if errors.Is(err, consumer.ErrNoNameServer) {
		cfg.NameServers = []string{defaultNameServer}
		return consumer.NewSimple(ctx, cfg)
	}
	return c, err
}

func (a *app) subPop(ctx context.Context, f subFlags, from position) error {
	c, err := a.newSimple(ctx, f, from)
	if err != nil {
		return err
	}
	p := &popping{app: a, flags: f, consumer: c, out: newStream(a), line: deliveryLine{raw: f.raw}}
	return p.run(ctx)
}

// popping is one run of `rmq sub --pop`.
type popping struct {
	app      *app
	flags    subFlags
	consumer *consumer.Simple
	out      *stream
	line     deliveryLine
	printed  int
}

// run prints until an end is reached, then leaves the group.
func (p *popping) run(ctx context.Context) error {
	p.app.note("popping %s as a member of %s", strings.Join(p.flags.topics, ", "), p.flags.group)
	return leaveGroup(ctx, p.consumer.Close, errors.Join(p.receive(ctx), p.out.close()))
}

func (p *popping) receive(ctx context.Context) error {
	for p.flags.count == 0 || p.printed < p.flags.count {
		ps, err := p.poll(ctx)
		switch {
		case err == nil:
			if err := p.print(ctx, ps); err != nil {
				return err
			}
		case ctx.Err() != nil:
			return interruption(ctx)
		case errors.Is(err, errIdle):
			return p.flags.short(p.printed)
		case errors.Is(err, consumer.ErrRefused):
			return err
		default:
			p.app.note("warning: %v", err)
		}
	}
	return nil
}

// poll waits for messages, for as long as the flags allow.
func (p *popping) poll(ctx context.Context) ([]*consumer.Popped, error) {
	most := consumer.MaxReceive
	if p.flags.count > 0 {
		most = min(most, p.flags.count-p.printed)
	}
	if p.flags.idleTimeout == 0 {
		return p.consumer.Receive(ctx, most, p.flags.invisible)
	}
	waiting, cancel := context.WithTimeout(ctx, p.flags.idleTimeout)
	defer cancel()
	ps, err := p.consumer.Receive(waiting, most, p.flags.invisible)
	if errors.Is(err, context.DeadlineExceeded) && waiting.Err() != nil && ctx.Err() == nil {
		return nil, errIdle
	}
	return ps, err
}

// print writes all messages; only then they count as consumed. Those that cannot be
// written are another member's at once.
func (p *popping) print(ctx context.Context, ps []*consumer.Popped) error {
	for _, m := range ps {
		p.line.Delivery = &m.Delivery
		if err := p.out.add(&p.line); err != nil {
			return errors.Join(err, p.giveBack(ctx, ps))
		}
	}
	if err := p.out.flush(); err != nil {
		return errors.Join(err, p.giveBack(ctx, ps))
	}
	p.printed += len(ps)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), subCloseTimeout)
	defer cancel()
	if err := p.consumer.Ack(ctx, ps...); err != nil {
		p.app.note("warning: %v", err)
	}
	return nil
}

func (p *popping) giveBack(ctx context.Context, ps []*consumer.Popped) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), subCloseTimeout)
	defer cancel()
	var errs []error
	for _, m := range ps {
		errs = append(errs, m.ChangeInvisible(ctx, consumer.MinInvisible))
	}
	return errors.Join(errs...)
}
