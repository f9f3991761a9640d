package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
)

// The ways to consume a topic.
const (
	wayPlain   = "plain" // pull without a group: nothing is committed
	wayPull    = "pull"
	wayPush    = "push"
	wayOrderly = "orderly"
	wayPop     = "pop"
)

// One message in rareOf has the tag rareTag.
const (
	rareOf  = 100
	rareTag = "rare"
)

// usefulRate is the figure of messages with the tag.
const usefulRate = "useful messages/s"

// ways reads the same messages in all ways.
func (b *bench) ways() scenario {
	const size = 1024
	f := &filled{b: b, size: size, count: max(b.cfg.bytes/4/size, 1)}
	work := "consume from memory, 1 KiB, "
	return scenario{
		name: "ways to consume", prepare: f.fillRMQ,
		sides: []side{
			{"pull without a group", f.way(wayPlain, "")}, {"pull", f.way(wayPull, "")}, {"push", f.way(wayPush, "")},
			{"orderly push", f.way(wayOrderly, "")}, {"pop with acks", f.way(wayPop, "")}, {"pull by a tag of 1 %", f.way(wayPull, rareTag)},
		},
		rows: []row{
			{number: "14", work: work + "pull in a group", a: rate(1), b: rate(0)},
			{number: "14a", work: work + "push", a: rate(2), b: rate(0)},
			{number: "14b", work: work + "orderly push", a: rate(3), b: rate(0)},
			{number: "14c", work: work + "pop", a: rate(4), b: rate(0)},
			{number: "14d", work: work + "pull by a tag that 1 % have", a: pick{5, usefulRate}, b: pick{0, usefulRate}, must: 5},
		},
	}
}

// fillRMQ starts a server and puts the messages into it.
func (f *filled) fillRMQ(ctx context.Context) (done func() error, err error) {
	dir, err := f.b.freshDir()
	if err != nil {
		return nil, err
	}
	if f.rmq, err = f.b.startRMQ(ctx, dir); err != nil {
		return nil, err
	}
	s := rmqAsync(f.size)
	s.Rare = true
	if err := f.b.put(ctx, f.rmq, s, f.count); err != nil {
		return nil, errors.Join(err, f.rmq.discard())
	}
	return f.rmq.discard, nil
}

// way reads most of what is there, or of what has a tag.
func (f *filled) way(way, tag string) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		f.groups++
		s := spec{Role: "rmq-way", Way: way, Tag: tag, Group: fmt.Sprintf("g%d", f.groups), Size: f.size, Addr: f.rmq.listen, FromFirst: true}
		s.Count, s.Time = max(f.count*8/10, 1), f.b.cfg.time
		useful := 1.0 / rareOf
		if tag != "" {
			s.Count, useful = max(s.Count/rareOf, 1), 1
		}
		o, err := f.b.load(ctx, s)
		m := s.rates(o)
		m[usefulRate] = useful * m[perSecond]
		return m, err
	}
}

// rare are as many messages as one of has the tag, and that one.
func (s spec) rare() []*message.Message {
	body, ms := s.body(), make([]*message.Message, rareOf)
	for i := range ms {
		ms[i] = &message.Message{Topic: topic, Body: body}
	}
	ms[0].Tag = rareTag
	return ms
}

// consumeWay reads the topic in one of the ways.
func consumeWay(ctx context.Context, s spec) (o outcome, err error) {
	var received atomic.Int64
	read := func(ctx context.Context) error { return s.pullAll(ctx, &received) }
	switch s.Way {
	case wayPush, wayOrderly:
		read = func(ctx context.Context) error { return s.pushAll(ctx, &received) }
	case wayPop:
		read = func(ctx context.Context) error { return s.popAll(ctx, &received) }
	}
	return s.measured(ctx, received.Load, read)
}

func (s spec) subscriptions() []consumer.Subscription {
	return []consumer.Subscription{{Topic: topic, Tag: s.Tag}}
}

func (s spec) pullAll(ctx context.Context, received *atomic.Int64) error {
	cfg := consumer.PullConfig{NameServers: []string{s.Addr}, Group: s.Group, Subscriptions: s.subscriptions(), From: consumer.Earliest()}
	if s.Way == wayPlain {
		cfg.Group = ""
	}
	c, err := consumer.NewPull(ctx, cfg)
	if err != nil {
		return err
	}
	return errors.Join(poll(ctx, c, received), c.Close(context.WithoutCancel(ctx)))
}

func (s spec) pushAll(ctx context.Context, received *atomic.Int64) error {
	c, err := consumer.NewPush(ctx, consumer.Config{
		NameServers: []string{s.Addr}, Group: s.Group, Subscriptions: s.subscriptions(), From: consumer.Earliest(), Ordered: s.Way == wayOrderly,
	}, func(context.Context, *consumer.Delivery) error {
		received.Add(1)
		return nil
	})
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

func (s spec) popAll(ctx context.Context, received *atomic.Int64) error {
	c, err := consumer.NewSimple(ctx, consumer.SimpleConfig{NameServers: []string{s.Addr}, Group: s.Group, Subscriptions: s.subscriptions(), From: consumer.Earliest()})
	if err != nil {
		return err
	}
	leaving := context.WithoutCancel(ctx)
	for ctx.Err() == nil && err == nil {
		var ps []*consumer.Popped
		if ps, err = c.Receive(ctx, consumer.MaxReceive, time.Minute); err == nil {
			err = c.Ack(leaving, ps...)
			received.Add(int64(len(ps)))
		}
	}
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, c.Close(leaving))
}
