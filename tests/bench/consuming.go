package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

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
