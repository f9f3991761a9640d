//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
)

// group is two consumers of one group. Together they see every message, and each
// queue in its order: never one whose predecessor nobody has seen.
type group struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu     sync.Mutex
	seen   map[message.Queue][]sent
	again  int
	faults []error
}

func startGroup(ctx context.Context, nameServer string) (*group, error) {
	g := &group{seen: map[message.Queue][]sent{}}
	ctx, g.cancel = context.WithCancel(ctx)
	for range 2 {
		c, err := consumer.NewPush(ctx, consumer.Config{
			NameServers: []string{nameServer}, Group: "chaos", From: consumer.Earliest(), Ordered: true,
			Subscriptions: []consumer.Subscription{{Topic: loadTopic}},
			OnError:       func(err error) { g.fault(err) },
		}, func(_ context.Context, d *consumer.Delivery) error {
			g.take(d)
			return nil
		})
		if err != nil {
			g.cancel()
			return nil, err
		}
		g.running.Go(func() {
			if err := c.Run(ctx); err != nil {
				g.fault(err)
			}
		})
	}
	return g, nil
}

func (g *group) fault(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = append(g.faults, err)
}

func (g *group) take(d *consumer.Delivery) {
	m, err := parseSent(d.Body)
	g.mu.Lock()
	defer g.mu.Unlock()
	seen := g.seen[d.Queue]
	switch next := int64(len(seen)); {
	case err != nil:
		g.faults = append(g.faults, err)
	case d.QueueOffset > next:
		g.faults = append(g.faults, fmt.Errorf("%v: offset %d was delivered before %d", d.Queue, d.QueueOffset, next))
	case d.QueueOffset < next:
		g.again++
		if seen[d.QueueOffset] != m {
			g.faults = append(g.faults, fmt.Errorf("%v offset %d: got %v, and before %v", d.Queue, d.QueueOffset, m, seen[d.QueueOffset]))
		}
	default:
		g.seen[d.Queue] = append(seen, m)
	}
}

// missing is how many of the acknowledged messages nobody has seen.
func (g *group) missing(acked map[place]sent) (n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p, m := range acked {
		if seen := g.seen[p.queue]; p.offset >= int64(len(seen)) || seen[p.offset] != m {
			n++
		}
	}
	return n
}

func (g *group) stop() error {
	g.cancel()
	g.running.Wait()
	return errors.Join(g.faults[:min(len(g.faults), 5)]...)
}

// kill kills a server under load again and again, while two consumers of a group
// follow.
func kill(ctx context.Context, b *site, r *result) error {
	return crashes(ctx, b, r, filepath.Join(b.dir, "data"), func(s *rmqServer) error {
		s.stop(syscall.SIGKILL)
		return nil
	})
}

// blackout is kill with a power cut of the server's disk.
func blackout(ctx context.Context, b *site, r *result) error {
	d, err := newDisk(ctx, b, "disk", 3<<30)
	if err != nil {
		return err
	}
	return crashes(ctx, b, r, filepath.Join(d.path, "data"), func(s *rmqServer) error {
		err := errors.Join(d.cut(), pause(ctx, b.between(0, 20*time.Millisecond)))
		s.stop(syscall.SIGKILL)
		return errors.Join(err, d.restart(ctx))
	})
}

// crashes starts a server, ends it with crash while it works, and starts it
// again, in each cycle.
func crashes(ctx context.Context, b *site, r *result, data string, crash func(*rmqServer) error) error {
	s, err := startServer(ctx, b.cfg, data, "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { s.stop(syscall.SIGKILL) }()
	l, err := startLoad(ctx, s.listen, time.Minute)
	if err != nil {
		return err
	}
	g, err := startGroup(ctx, s.listen)
	if err != nil {
		return errors.Join(err, l.stop(ctx))
	}
	var outages []time.Duration
	for n := 0; err == nil && n < b.cycles && b.more(ctx); n++ {
		if err = l.awaitAcks(ctx, time.Minute, 500+b.random.IntN(6000)); err != nil {
			break
		}
		began := time.Now()
		if err = errors.Join(crash(s), s.panicked()); err != nil {
			break
		}
		next, failed := startServer(ctx, b.cfg, data, s.listen)
		if next != nil {
			s = next
		}
		if err = failed; err != nil {
			break
		}
		if err = l.awaitAcks(ctx, time.Minute, 1); err == nil {
			outages = append(outages, time.Since(began))
		}
		r.cycle(1, 0, 0)
	}
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, lastLines(s.text(), 12))
	}
	return errors.Join(err, judge(ctx, r, s, l, g, outages))
}

// judge ends the load and the group, and counts.
func judge(ctx context.Context, r *result, s *rmqServer, l *load, g *group, outages []time.Duration) error {
	err := errors.Join(l.awaitAcks(ctx, time.Minute, 100), l.stop(ctx))
	_ = until(ctx, time.Minute, "the group has seen everything", func() bool { return g.missing(l.acked) == 0 })
	if missing := g.missing(l.acked); missing > 0 {
		r.violate("the group has not seen %d of %d acknowledged messages", missing, len(l.acked))
	}
	if fault := errors.Join(g.stop(), l.untyped); fault != nil {
		r.violate("%v", fault)
	}
	lost, dropped, fault := checkStored(ctx, s.listen, l.acked)
	if fault != nil || lost+dropped > 0 {
		r.violate("%d messages that were acknowledged are lost: %v", lost+dropped, fault)
	}
	if fault := s.panicked(); fault != nil {
		r.violate("%v", fault)
	}
	r.cycle(0, int64(len(l.acked)), lost)
	r.cycles--
	slices.Sort(outages)
	if n := len(outages); n > 0 {
		r.note("from the crash to the next acknowledgement: median %d ms, at most %d ms", outages[n/2].Milliseconds(), outages[n-1].Milliseconds())
	}
	r.note("%d deliveries came again; sends that failed: %v", g.again, l.refused)
	return err
}
