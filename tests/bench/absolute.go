package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rmqio/rmq/admin"
)

// absolute measures the figures that are compared with nothing.
func (b *bench) absolute(ctx context.Context) error {
	return errors.Join(b.fresh(ctx), b.idleQueues(ctx), b.allocations(ctx), b.killed(ctx), b.limits(ctx))
}

// fresh is a server that has done nothing yet.
func (b *bench) fresh(ctx context.Context) (err error) {
	dir, err := b.freshDir()
	if err != nil {
		return err
	}
	p, err := b.startRMQ(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	b.enter("fresh server, resident memory", float64(p.status("VmRSS"))/(1<<20), "MiB", 100, 0)
	b.enter("fresh server, disk", float64(diskUse(dir))/(1<<20), "MiB", 64, 0)
	if b.peakRSS > 0 {
		b.enter("server at saturation, highest resident memory of the run", float64(b.peakRSS)/(1<<20), "MiB", 1024, 0)
	}
	return nil
}

// diskUse is what the files of a directory take on the disk.
func diskUse(dir string) (n int64) {
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone since
		}
		if info, err := e.Info(); err == nil {
			if s, ok := info.Sys().(*syscall.Stat_t); ok {
				n += s.Blocks * 512
			}
		}
		return nil
	})
	return n
}

// idleQueues compares the heap before and after topics are created.
func (b *bench) idleQueues(ctx context.Context) (err error) {
	const queues = 4
	dir, err := b.freshDir()
	if err != nil {
		return err
	}
	p, err := b.hostRMQ(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	before, err := p.memory()
	if err != nil {
		return err
	}
	topics := max(b.cfg.topics/5, 1)
	if err := createTopics(ctx, p.listen, topics, queues); err != nil {
		return err
	}
	after, err := p.memory()
	if err != nil {
		return err
	}
	n := float64(topics * queues)
	b.enter(fmt.Sprintf("heap of an idle queue (%d topics x %d)", topics, queues), (float64(after.Heap)-float64(before.Heap))/n, "bytes", 1024, 300)
	b.enter("goroutines that they add", float64(after.Goroutines-before.Goroutines), "", 0, 0)
	return nil
}

func createTopics(ctx context.Context, addr string, topics, queues int) error {
	a, err := admin.New(ctx, admin.Config{NameServers: []string{addr}})
	if err != nil {
		return err
	}
	defer a.Close()
	const atOnce = 64
	names := make(chan string)
	var failed fault
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for name := range names {
				_, err := a.CreateTopic(ctx, admin.TopicSpec{Name: name, ReadQueues: queues, WriteQueues: queues}, admin.Target{})
				if err != nil {
					failed.set(err)
				}
			}
		})
	}
	for i := range topics {
		names <- fmt.Sprintf("idle-%d", i)
	}
	close(names)
	wg.Wait()
	return failed.get()
}

// allocations counts what the server allocates for each message that comes in
// batches.
func (b *bench) allocations(ctx context.Context) (err error) {
	for _, size := range []int{1024, 128} {
		n, err := b.mallocs(ctx, size)
		if err != nil {
			return err
		}
		b.enter("allocations of the server for a message of "+byteText(size)+", batched", n, "", 0.5, 0)
	}
	return nil
}

func (b *bench) mallocs(ctx context.Context, size int) (n float64, err error) {
	dir, err := b.freshDir()
	if err != nil {
		return 0, err
	}
	p, err := b.hostRMQ(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.discard()) }()
	before, err := p.memory()
	if err != nil {
		return 0, err
	}
	s := b.bounded(rmqAsync(size))
	s.Addr = p.listen
	o, err := b.load(ctx, s)
	if err != nil {
		return 0, err
	}
	after, err := p.memory()
	return float64(after.Mallocs-before.Mallocs) / float64(max(o.Total, 1)), err
}

// killed fills a store, kills the server as it works, and measures how long a
// client then waits for its first acknowledgement from a new one.
func (b *bench) killed(ctx context.Context) error {
	dir, err := b.freshDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	p, err := b.startRMQ(ctx, dir)
	if err != nil {
		return err
	}
	if err := b.put(ctx, p, rmqAsync(1024), max(b.cfg.recover/1024, 1)); err != nil {
		return errors.Join(err, p.kill())
	}
	if err := b.killBusy(ctx, p); err != nil {
		return err
	}
	begun := time.Now()
	if p, err = b.startRMQ(ctx, dir); err != nil {
		return err
	}
	started := time.Since(begun)
	err = b.put(ctx, p, spec{Role: "rmq-sync", Size: 1024, Clients: 1}, 1)
	first := time.Since(begun)
	name := fmt.Sprintf("after SIGKILL with %.2f GiB in the store", float64(segmentFiles(dir))/(1<<30))
	b.enter("ready "+name, started.Seconds(), "s", 0, 0)
	b.enter("first acknowledgement "+name+", with the start of a client", first.Seconds(), "s", 2, 0)
	return errors.Join(err, p.discard())
}

// killBusy kills a server while a client sends to it.
func (b *bench) killBusy(ctx context.Context, p *process) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := rmqAsync(1024)
	s.Addr, s.Time = p.listen, time.Hour
	cmd, err := b.child(ctx, s)
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	timer := time.NewTimer(b.cfg.time)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	err = p.kill()
	cancel()
	cmd.Wait() // it was killed too
	return err
}

// limits are what the disk, bbolt and NATS do alone: medians.
func (b *bench) limits(ctx context.Context) error {
	f, err := b.onDisk(spec{Role: "sync-probe", Size: probeBytes})(ctx)
	if err != nil {
		return err
	}
	for _, mode := range []string{"overwrite", "append"} {
		b.enter(fmt.Sprintf("limit: fdatasync after %s of 4 KiB, p50", mode), f[mode+"P50"], "ms", 0, 0)
		b.enter(fmt.Sprintf("limit: fdatasync after %s of 4 KiB, p99", mode), f[mode+"P99"], "ms", 0, 0)
	}
	for _, size := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20} {
		for _, l := range []struct {
			name    string
			measure func(context.Context) (sample, error)
		}{
			{"append and fdatasync of ", b.onDisk(spec{Role: "sync-rate", Size: size})},
			{"overwrite and fdatasync of ", b.onDisk(spec{Role: "sync-rate", Size: size, Shared: true})},
			{"bbolt commits of chunks of ", b.onDisk(spec{Role: "chunks", Size: size})},
			{"NATS echo of frames of ", b.onEcho(spec{Role: "echo", Size: size, Window: echoWindow})},
		} {
			if err := b.limit(ctx, l.name+byteText(size), l.measure); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) limit(ctx context.Context, name string, measure func(context.Context) (sample, error)) error {
	const times = 3
	var values []float64
	for range min(times, b.cfg.pairs) {
		m, err := b.undisturbed(ctx, side{name, measure})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		values = append(values, m[bytesRate]/1e6)
	}
	b.enter("limit: "+name, spreadOf(values).Median, "MB/s", 0, 0)
	return nil
}
