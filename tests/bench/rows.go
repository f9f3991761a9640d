package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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
		b.consume(1024, 1.5, 2.5), b.consume(128, 4, 8), b.consumeCold(), b.produceWhileConsumed(),
		b.storeAlone(), b.manyTopics(), b.bytesWritten(1024, 1.4, 1.15), b.bytesWritten(128, 2.2, 1.7), b.endToEnd(),
	}
}

var rate = func(side int) pick { return pick{side, perSecond} }

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
		},
		rows: []row{
			{number: "5", work: "one synchronous producer, 1 KiB", a: rate(0), b: rate(1), must: 0.7, aim: 1},
			{number: "5a", work: "one synchronous producer, 1 KiB", a: rate(0), b: rate(2)},
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
		},
		rows: []row{
			{number: "6", work: "64 synchronous producers, 128 B", a: rate(0), b: rate(1), must: 8, aim: 16},
			{number: "6a", work: "64 callers of one producer, 128 B", a: rate(2), b: rate(1)},
			{number: "6b", work: "64 synchronous producers, 128 B", a: rate(0), b: rate(3)},
		},
	}
}

// filled are servers with the same messages, which are read again and again.
type filled struct {
	b      *bench
	size   int
	count  int64
	rmq    *process
	js     *process
	groups int
}

func (b *bench) consume(size int, must, aim float64) scenario {
	share := int64(4) // of the bytes that a measurement may send
	if size < 1024 {
		share = 8
	}
	f := &filled{b: b, size: size, count: max(b.cfg.bytes/share/int64(size), 1)}
	work := fmt.Sprintf("consume from memory, %s, offsets committed", byteText(size))
	return scenario{
		name: "consume " + byteText(size), prepare: f.fill,
		sides: []side{
			{"rmq", func(ctx context.Context) (sample, error) {
				f.groups++
				return f.read(ctx, f.rmq, spec{Role: "rmq-consume", Group: fmt.Sprintf("g%d", f.groups)})
			}},
			{"JetStream fetch without acks", f.natsReader("js-fetch", false)},
			{"JetStream fetch with acks", f.natsReader("js-fetch", true)},
			{"JetStream Consume without acks", f.natsReader("js-consume", false)},
		},
		rows: []row{
			{number: "7", work: work, a: rate(0), b: rate(1), must: must, aim: aim},
			{number: "7a", work: work, a: rate(0), b: rate(2)},
			{number: "7b", work: work, a: rate(0), b: rate(3)},
		},
	}
}

func byteText(size int) string {
	if size >= 1024 {
		return strconv.Itoa(size/1024) + " KiB"
	}
	return strconv.Itoa(size) + " B"
}

// fill starts both servers and puts the messages into them.
func (f *filled) fill(ctx context.Context) (done func() error, err error) {
	done = func() error {
		var errs []error
		for _, p := range []*process{f.rmq, f.js} {
			if p != nil {
				errs = append(errs, p.discard())
			}
		}
		return errors.Join(errs...)
	}
	dirs := [2]string{}
	for i := range dirs {
		if dirs[i], err = f.b.freshDir(); err != nil {
			return done, err
		}
	}
	if f.rmq, err = f.b.startRMQ(ctx, dirs[0]); err == nil {
		err = f.b.put(ctx, f.rmq, rmqAsync(f.size), f.count)
	}
	if err == nil {
		f.js, err = f.b.startJetStream(ctx, dirs[1], false)
	}
	if err == nil {
		err = f.b.put(ctx, f.js, natsFast(f.size), f.count)
	}
	if err != nil {
		return nil, errors.Join(err, done())
	}
	return done, nil
}

// put sends so many messages at least.
func (b *bench) put(ctx context.Context, p *process, s spec, count int64) error {
	s.Addr, s.Count, s.Time = p.listen, count, time.Hour
	_, err := b.load(ctx, s)
	return err
}

// read consumes most of what is there; what the clients take in before the first
// look is not counted.
func (f *filled) read(ctx context.Context, p *process, s spec) (sample, error) {
	s.Size, s.Addr, s.FromFirst = f.size, p.listen, true
	s.Count, s.Time = max(f.count*8/10, 1), f.b.cfg.time
	o, err := f.b.load(ctx, s)
	return s.rates(o), err
}

func (f *filled) natsReader(role string, ack bool) func(context.Context) (sample, error) {
	return func(ctx context.Context) (sample, error) {
		return f.read(ctx, f.js, spec{Role: role, Batch: fetchBatch, Ack: ack})
	}
}

// coldStore is a store on disk that is read by a server, or plainly.
type coldStore struct {
	b      *bench
	dir    string
	count  int64
	groups int
}

func (b *bench) consumeCold() scenario {
	c := &coldStore{b: b, count: max(b.cfg.cold/1024, 1)}
	return scenario{
		name: "consume from disk", prepare: c.fill,
		sides: []side{{"rmq", c.consume}, {"sequential read of the same files", c.read}},
		rows: []row{{
			number: "8", work: fmt.Sprintf("consume %s bytes from disk, page cache dropped", figure(float64(b.cfg.cold))),
			a: bytesOf(0), b: bytesOf(1), must: 0.4, aim: 0.7,
		}},
	}
}

func (c *coldStore) fill(ctx context.Context) (done func() error, err error) {
	if c.dir, err = c.b.freshDir(); err != nil {
		return nil, err
	}
	done = func() error { return os.RemoveAll(c.dir) }
	p, err := c.b.startRMQ(ctx, c.dir)
	if err == nil {
		err = errors.Join(c.b.put(ctx, p, rmqAsync(1024), c.count), p.stop())
	}
	return done, err
}

// logDir is where rmq server keeps the segments.
func (c *coldStore) logDir() (string, error) {
	files, err := filepath.Glob(filepath.Join(c.dir, "*", "*.seg"))
	if err != nil || len(files) == 0 {
		return "", errors.Join(err, fmt.Errorf("no segments in %s", c.dir))
	}
	return filepath.Dir(files[0]), nil
}

func (c *coldStore) consume(ctx context.Context) (m sample, err error) {
	dir, err := c.logDir()
	if err == nil {
		err = evict(dir)
	}
	if err != nil {
		return nil, err
	}
	p, err := c.b.startRMQ(ctx, c.dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	c.groups++
	s := spec{Role: "rmq-consume", Size: 1024, Addr: p.listen, Group: fmt.Sprintf("g%d", c.groups), FromFirst: true, Count: max(c.count*9/10, 1), Time: patience}
	o, err := c.b.load(ctx, s)
	m = s.rates(o)
	m["read from disk"] = float64(procField(fmt.Sprintf("/proc/%d/io", p.cmd.Process.Pid), "read_bytes"))
	return m, err
}

func (c *coldStore) read(ctx context.Context) (sample, error) {
	dir, err := c.logDir()
	if err == nil {
		err = evict(dir)
	}
	if err != nil {
		return nil, err
	}
	s := spec{Role: "read", Dir: dir, Size: 1, Time: patience}
	o, err := c.b.load(ctx, s)
	return s.rates(o), err
}

const readingGroups = 4

func (b *bench) produceWhileConsumed() scenario {
	return scenario{
		name: "produce while 4 groups consume",
		sides: []side{
			{"rmq, 4 groups consume", b.whileConsumed},
			{"produce alone", b.onRMQ(rmqAsync(1024))},
		},
		rows: []row{
			{number: "9", work: "produce 1 KiB while 4 groups consume", a: rate(0), b: rate(1), must: 0.5, aim: 0.75},
			{number: "9a", work: "what each of the 4 groups consumes", against: "what is produced meanwhile", a: pick{0, "consumed/s by each group"}, b: rate(0)},
		},
	}
}

func (b *bench) whileConsumed(ctx context.Context) (m sample, err error) {
	dir, err := b.freshDir()
	if err != nil {
		return nil, err
	}
	p, err := b.startRMQ(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	s := b.bounded(spec{Role: "rmq-consume", Addr: p.listen, Groups: readingGroups, Group: "g", Latest: true, FromFirst: true})
	s.Count, s.Time = 0, s.Time+s.Warmup
	cmd, err := b.child(ctx, s)
	if err != nil {
		return nil, err
	}
	reader, err := b.start(ctx, "consumers", cmd)
	if err != nil {
		return nil, err
	}
	defer reader.kill()
	if m, err = b.onServer(ctx, p, rmqAsync(1024)); err != nil {
		return nil, err
	}
	o, err := reader.result(s)
	m["consumed/s by each group"] = o.rate() / readingGroups
	return m, err
}

func (b *bench) storeAlone() scenario {
	var chunk float64
	store := b.onDisk(spec{Role: "store", Size: 1024, Window: storeWindow})
	return scenario{
		name: "the store alone",
		sides: []side{
			{"the store", func(ctx context.Context) (sample, error) {
				m, err := store(ctx)
				chunk = m["chunkBytes"]
				return m, err
			}},
			{"bbolt commits of chunks of the same size", func(ctx context.Context) (sample, error) {
				return b.onDisk(spec{Role: "chunks", Size: max(int(chunk), 4<<10)})(ctx)
			}},
		},
		rows: []row{{number: "10", work: "the store alone, batches of 1 KiB", a: bytesOf(0), b: bytesOf(1), must: 0.75, aim: 0.9}},
	}
}

func (b *bench) manyTopics() scenario {
	many := rmqAsync(1024)
	many.Topics = b.cfg.topics
	return scenario{
		name: "many topics",
		sides: []side{
			{"rmq, many topics", b.onRMQ(many, "--default-queues", "4")},
			{"rmq, one topic", b.onRMQ(rmqAsync(1024), "--default-queues", "4")},
		},
		rows: []row{{number: "11", work: fmt.Sprintf("produce 1 KiB to %d topics x 4 queues, uniform", b.cfg.topics), a: rate(0), b: rate(1), must: 0.85, aim: 0.97}},
	}
}

// bytesWritten compares what the server sends to the disk with the bodies.
func (b *bench) bytesWritten(size int, must, aim float64) scenario {
	work := "bytes written by commits, " + byteText(size) + " at saturation"
	return scenario{
		name:  "bytes written, " + byteText(size),
		sides: []side{{"rmq", b.writing(size)}},
		rows: []row{
			{number: "12", work: work, against: "payload", a: pick{0, "bytes by commits"}, b: pick{0, "payload bytes"}, must: must, aim: aim, lower: true},
			{number: "12a", work: "zeroing of new segments, " + byteText(size), against: "payload", a: pick{0, "bytes by zeroing"}, b: pick{0, "payload bytes"}, lower: true},
		},
	}
}

func (b *bench) writing(size int) func(context.Context) (sample, error) {
	return func(ctx context.Context) (m sample, err error) {
		dir, err := b.freshDir()
		if err != nil {
			return nil, err
		}
		p, err := b.startRMQ(ctx, dir)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.discard()) }()
		written, zeroed := p.written(), segmentFiles(dir)
		s := b.bounded(rmqAsync(size))
		s.Addr = p.listen
		o, err := b.load(ctx, s)
		if err != nil {
			return nil, err
		}
		zeroed = segmentFiles(dir) - zeroed // a segment is written once as a whole
		written = p.written() - written
		m = s.rates(o)
		m["bytes by zeroing"], m["bytes by commits"] = float64(zeroed), float64(written-zeroed)
		m["payload bytes"] = float64(o.Total) * float64(size)
		return m, nil
	}
}

// segmentFiles is the size of all segments under a directory, also of those that
// are being made.
func segmentFiles(dir string) (n int64) {
	filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !strings.Contains(e.Name(), ".seg") {
			return nil // gone since, or something else
		}
		if info, err := e.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}

// endToEnd compares latencies with what two disk syncs allow: bounds that are
// made of f, one fdatasync, measured next to them.
func (b *bench) endToEnd() scenario {
	return scenario{
		name:  "end to end at half load",
		sides: []side{{"rmq", b.halfLoad}, {"f, one fdatasync", b.syncBounds}},
		rows: []row{
			{number: "13", work: "end to end at half load, 1 KiB, p50", against: "2.5 x 2f + 1 ms", a: pick{0, "p50 ms"}, b: pick{1, "p50 must"}, must: 1, lower: true},
			{number: "13", work: "end to end at half load, 1 KiB, p99", against: "4 x 2f + 3 ms", a: pick{0, "p99 ms"}, b: pick{1, "p99 must"}, must: 1, lower: true},
			{number: "13a", work: "end to end at half load, 1 KiB, p50 (the aim)", against: "1.6 x 2f + 0.5 ms", a: pick{0, "p50 ms"}, b: pick{1, "p50 aim"}, aim: 1, lower: true},
		},
	}
}

// halfLoad runs `rmq bench e2e` at half of what row 1 reached.
func (b *bench) halfLoad(ctx context.Context) (m sample, err error) {
	if b.best == 0 {
		if _, err := b.keepingBest(1024, b.onRMQ(rmqAsync(1024)))(ctx); err != nil {
			return nil, err
		}
	}
	dir, err := b.freshDir()
	if err != nil {
		return nil, err
	}
	p, err := b.startRMQ(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	out, err := exec.CommandContext(ctx, b.cfg.rmq, "bench", "e2e", "-n", p.listen, "-o", "json", "--size", "1024",
		"--rate", strconv.Itoa(int(b.best/2)), "--duration", b.cfg.time.String(), "--warmup", b.cfg.warmup.String()).Output()
	if err != nil {
		return nil, fmt.Errorf("rmq bench: %w", err)
	}
	var r struct {
		MessagesPerSecond float64
		LatencyMillis     struct{ P50, P99 float64 }
		Rate              struct{ Held bool }
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return nil, err
	}
	m = sample{perSecond: r.MessagesPerSecond, "p50 ms": r.LatencyMillis.P50, "p99 ms": r.LatencyMillis.P99, "rate held": 1}
	if !r.Rate.Held {
		m["rate held"] = 0
	}
	return m, nil
}

func (b *bench) syncBounds(ctx context.Context) (sample, error) {
	m, err := b.onDisk(spec{Role: "sync-probe", Size: probeBytes})(ctx)
	f := m["overwriteP50"]
	return sample{"f ms": f, "p50 must": 2.5*2*f + 1, "p99 must": 4*2*f + 3, "p50 aim": 1.6*2*f + 0.5}, err
}
