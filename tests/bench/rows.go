package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// rowAA compares a side with itself.
const rowAA = "aa"

// Windows: how many messages of one client wait for their answer.
const (
	natsWindow  = 4096 // nats.go's own default is 4,000; larger ones are not faster
	fastWindow  = 16384
	atomicBatch = 500
	fastFlow    = 500
	fetchBatch  = 500
	storeWindow = 16384
	echoWindow  = 16
	echoFrame   = 256 << 10
	probeBytes  = 4 << 10
)

// scenarios are all comparisons, A against A first.
func (b *bench) scenarios() []scenario {
	return []scenario{
		b.sameAgain(), b.produceLarge(), b.produceSmall(), b.oneCaller(), b.manyCallers(),
		b.consume(1024, 1.5, 2.5), b.consume(128, 4, 8), b.consumeCold(), b.produceWhileConsumed(), b.ways(),
		b.storeAlone(), b.manyTopics(), b.bytesWritten(1024, 1.4, 1.15), b.bytesWritten(128, 2.2, 1.7), b.endToEnd(),
	}
}

func rate(side int) pick { return pick{side, perSecond} }

func bytesOf(side int) pick { return pick{side, bytesRate} }

func rmqAsync(size int) spec { return spec{Role: "rmq-produce", Size: size} }

func natsAsync(size int) spec { return spec{Role: "js-produce", Size: size, Window: natsWindow} }

func natsAtomic(size int) spec {
	return spec{Role: "js-atomic", Size: size, Window: natsWindow, Batch: atomicBatch}
}

func natsFast(size int) spec {
	return spec{Role: "js-fast", Size: size, Window: fastWindow, Batch: fastFlow}
}

func (b *bench) sameAgain() scenario {
	return scenario{
		name: "A against A",
		sides: []side{
			{"JetStream, async", b.onJetStream(natsAsync(1024), false)},
			{"JetStream, async, again", b.onJetStream(natsAsync(1024), false)},
			{"rmq, async", b.onRMQ(rmqAsync(1024))},
			{"rmq, async, again", b.onRMQ(rmqAsync(1024))},
		},
		rows: []row{
			{number: rowAA, a: rate(0), b: rate(1)},
			{number: rowAA, a: rate(2), b: rate(3)},
		},
	}
}

// produceSides are the ways to produce from one client, by their places.
const (
	rmqSync = iota
	jsDefault
	jsAlways
	jsAtomic
	jsFast
	jsAtomicAlways
	jsFastAlways
	rmqFlushAsync
	natsEcho
	rmqSingle
	natsSingle
)

func (b *bench) produceSides(size int) []side {
	return []side{
		rmqSync:        {"rmq", b.keepingBest(size, b.onRMQ(rmqAsync(size)))},
		jsDefault:      {"JetStream async, default", b.onJetStream(natsAsync(size), false)},
		jsAlways:       {"JetStream async, always", b.onJetStream(natsAsync(size), true)},
		jsAtomic:       {"JetStream atomic batches of 500, default", b.onJetStream(natsAtomic(size), false)},
		jsFast:         {"JetStream fast batch, default", b.onJetStream(natsFast(size), false)},
		jsAtomicAlways: {"JetStream atomic batches of 500, always", b.onJetStream(natsAtomic(size), true)},
		jsFastAlways:   {"JetStream fast batch, always", b.onJetStream(natsFast(size), true)},
		rmqFlushAsync:  {"rmq with ASYNC_FLUSH", b.onRMQ(rmqAsync(size), "--flush", "async")},
		natsEcho:       {"NATS echo of frames of 256 KiB", b.onEcho(spec{Role: "echo", Size: echoFrame, Window: echoWindow})},
		rmqSingle:      {"rmq, one message a request, window 4,096", b.onRMQ(spec{Role: "rmq-single", Size: size, Window: natsWindow})},
		natsSingle:     {"NATS echo of single messages, window 4,096", b.onEcho(spec{Role: "echo", Size: size, Window: natsWindow})},
	}
}

func (b *bench) produceLarge() scenario {
	work := "produce 1 KiB, one async producer"
	return scenario{
		name: "produce 1 KiB", sides: b.produceSides(1024),
		rows: []row{
			{number: "1", work: work, a: rate(rmqSync), b: rate(jsDefault), must: 2, aim: 3},
			{number: "1a", work: work, a: rate(rmqSync), b: rate(jsAtomic)},
			{number: "1b", work: work, a: rate(rmqSync), b: rate(jsFast)},
			{number: "1c", work: work + ", ASYNC_FLUSH", a: rate(rmqFlushAsync), b: rate(jsDefault)},
			{number: "1d", work: work, a: bytesOf(rmqSync), b: bytesOf(natsEcho)},
			{number: "3", work: work, a: rate(rmqSync), b: rate(jsAlways), must: 40, aim: 100},
			{number: "3a", work: work, a: rate(rmqSync), b: rate(jsAtomicAlways)},
			{number: "3b", work: work, a: rate(rmqSync), b: rate(jsFastAlways)},
			{number: "4", work: "produce 1 KiB, one message a request, window 4,096", a: rate(rmqSingle), b: rate(jsDefault), must: 1.1, aim: 1.5},
			{number: "4a", work: "produce 1 KiB, one message a request, window 4,096", a: rate(rmqSingle), b: rate(natsSingle)},
		},
	}
}

func (b *bench) produceSmall() scenario {
	work := "produce 128 B, one async producer"
	return scenario{
		name: "produce 128 B", sides: b.produceSides(128),
		rows: []row{
			{number: "2", work: work, a: rate(rmqSync), b: rate(jsDefault), must: 8, aim: 15},
			{number: "2a", work: work, a: rate(rmqSync), b: rate(jsAtomic)},
			{number: "2b", work: work, a: rate(rmqSync), b: rate(jsFast)},
			{number: "2c", work: work + ", ASYNC_FLUSH", a: rate(rmqFlushAsync), b: rate(jsDefault)},
			{number: "3", work: work, a: rate(rmqSync), b: rate(jsAlways), must: 40, aim: 100},
			{number: "3c", work: work, a: rate(rmqSync), b: rate(jsAtomicAlways)},
			{number: "3d", work: work, a: rate(rmqSync), b: rate(jsFastAlways)},
		},
	}
}

// keepingBest remembers the rate that row 13 takes half of.
func (b *bench) keepingBest(size int, measure func(context.Context) (sample, error)) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		m, err := measure(ctx)
		if size == 1024 {
			b.best = max(b.best, m[perSecond])
		}
		return m, err
	}
}

// onEcho measures an echo against a NATS server of its own.
func (b *bench) onEcho(s spec) func(context.Context) (sample, error) {
	return func(ctx context.Context) (m sample, err error) {
		cmd, err := b.child(ctx, spec{Role: "echo-server"})
		if err != nil {
			return nil, err
		}
		p, err := b.start(ctx, "echo server", cmd)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		return b.onServer(ctx, p, s)
	}
}

func (b *bench) oneCaller() scenario {
	one := func(role string) spec { return spec{Role: role, Size: 1024, Clients: 1} }
	return scenario{
		name: "one synchronous producer, 1 KiB",
		sides: []side{
			{"rmq", b.onRMQ(one("rmq-sync"))},
			{"JetStream sync, always", b.onJetStream(one("js-sync"), true)},
			{"JetStream sync, default", b.onJetStream(one("js-sync"), false)},
			{"NATS echo", b.onEcho(one("echo-sync"))},
		},
		rows: []row{
			{number: "5", work: "one synchronous producer, 1 KiB", a: rate(0), b: rate(1), must: 0.7, aim: 1},
			{number: "5a", work: "one synchronous producer, 1 KiB", a: rate(0), b: rate(2)},
			{number: "5b", work: "one synchronous producer, 1 KiB", a: rate(0), b: rate(3)},
		},
	}
}

func (b *bench) manyCallers() scenario {
	many := func(role string) spec { return spec{Role: role, Size: 128, Clients: 64} }
	shared := spec{Role: "rmq-sync", Size: 128, Clients: 64, Shared: true}
	return scenario{
		name: "64 synchronous producers, 128 B",
		sides: []side{
			{"rmq", b.onRMQ(many("rmq-sync"))},
			{"64 on JetStream, always", b.onJetStream(many("js-sync"), true)},
			{"rmq, shared", b.onRMQ(shared)},
			{"64 on JetStream, default", b.onJetStream(many("js-sync"), false)},
			{"64 on NATS echo", b.onEcho(many("echo-sync"))},
		},
		rows: []row{
			{number: "6", work: "64 synchronous producers, 128 B", a: rate(0), b: rate(1), must: 8, aim: 16},
			{number: "6a", work: "64 callers of one producer, 128 B", a: rate(2), b: rate(1)},
			{number: "6b", work: "64 synchronous producers, 128 B", a: rate(0), b: rate(3)},
			{number: "6c", work: "64 on NATS echo, 128 B", a: rate(4), b: rate(1)},
			{number: "6d", work: "64 synchronous producers, 128 B", a: rate(0), b: rate(4)},
		},
	}
}

// manyTopics measures one server again and again: to create the topics takes
// longer than to measure.
func (b *bench) manyTopics() scenario {
	many := rmqAsync(1024)
	many.Topics = b.cfg.topics
	var p *process
	return scenario{
		name: "many topics",
		prepare: func(ctx context.Context) (done func() error, err error) {
			dir, err := b.freshDir()
			if err != nil {
				return nil, err
			}
			if p, err = b.startRMQ(ctx, dir, fourQueues()...); err != nil {
				return nil, err
			}
			begun := time.Now()
			if err := b.put(ctx, p, many, 1); err != nil {
				return nil, errors.Join(err, p.discard())
			}
			say("%d topics are created and sent to after %.1f s", b.cfg.topics, time.Since(begun).Seconds())
			return p.discard, nil
		},
		sides: []side{
			{"rmq, many topics", func(ctx context.Context) (sample, error) { return b.onServer(ctx, p, many) }},
			{"rmq, one topic", b.onRMQ(rmqAsync(1024), fourQueues()...)},
		},
		rows: []row{{number: "11", work: fmt.Sprintf("produce 1 KiB to %d topics x 4 queues, uniform", b.cfg.topics), a: rate(0), b: rate(1), must: 0.85, aim: 0.97}},
	}
}

// fourQueues are the arguments of a server whose topics have four queues.
func fourQueues() []string { return []string{"--default-queues", "4"} }
