//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
)

// sample is a data directory as a server left it, and what is in it.
type sample struct {
	dir       string
	content   content
	ends      map[message.Queue]int64
	committed map[message.Queue]int64 // of the group
}

const sampleMessages = 55_000 // two sealed segments and one that is written to

// damage harms copies of a data directory and starts a server on each: what is
// harmed is found or of no importance, and never served.
func damage(ctx context.Context, b *site, r *result) error {
	s := &sample{dir: filepath.Join(b.dir, "sample"), content: content{}, ends: map[message.Queue]int64{}}
	if err := s.fill(ctx, b.cfg); err != nil {
		return fmt.Errorf("sample: %w", err)
	}
	whole := filepath.Join(b.dir, "whole")
	if err := copyDir(whole, s.dir); err != nil {
		return err
	}
	if found, err := s.try(ctx, b.cfg, whole); err != nil || found {
		return fmt.Errorf("the sample itself: damage found: %v; %w", found, err)
	}
	const workers = 2
	cycles := make(chan uint64)
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for n := range cycles {
				s.cycle(ctx, b, r, n)
			}
		})
	}
	for n := 0; n < b.cycles && b.more(ctx) && !r.hopeless(); n++ {
		cycles <- uint64(n)
	}
	close(cycles)
	all.Wait()
	return ctx.Err()
}

// fill has a server write the sample, and a group consume it.
func (s *sample) fill(ctx context.Context, cfg config) error {
	server, err := startServer(ctx, cfg, s.dir, "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer server.stop(syscall.SIGTERM)
	g, err := startGroup(ctx, server.listen)
	if err != nil {
		return err
	}
	l, err := startLoad(ctx, server.listen, time.Minute)
	if err != nil {
		return errors.Join(err, g.stop())
	}
	err = errors.Join(l.awaitAcks(ctx, 2*time.Minute, sampleMessages), l.stop(ctx))
	err = errors.Join(err, until(ctx, time.Minute, "the group has seen everything", func() bool { return g.missing(l.acked) == 0 }), g.stop())
	if err != nil {
		return err
	}
	readers, err := readTopic(ctx, server.listen, nil)
	if err != nil {
		return err
	}
	for _, q := range readers {
		s.content[q.queue], s.ends[q.queue] = q.found, int64(len(q.found))
	}
	s.committed, err = committedOffsets(ctx, server.listen)
	return err
}

func committedOffsets(ctx context.Context, nameServer string) (map[message.Queue]int64, error) {
	a, err := admin.New(ctx, admin.Config{NameServers: []string{nameServer}})
	if err != nil {
		return nil, err
	}
	defer a.Close()
	lags, err := a.GroupLag(ctx, "chaos", admin.Target{})
	found := map[message.Queue]int64{}
	for _, l := range lags {
		found[message.Queue{Topic: l.Topic, Broker: l.Broker, ID: l.Queue}] = l.Committed
	}
	return found, err
}

// cycle harms one copy.
func (s *sample) cycle(ctx context.Context, b *site, r *result, n uint64) {
	random := rand.New(rand.NewPCG(b.cfg.seed, n))
	dir := filepath.Join(b.dir, fmt.Sprint("copy-", n))
	defer os.RemoveAll(dir)
	if err := copyDir(dir, s.dir); err != nil {
		r.violate("copy: %v", err)
		return
	}
	kind, what, err := inflict(random, dir)
	if err != nil {
		r.violate("%s: %v", what, err)
		return
	}
	found, err := s.try(ctx, b.cfg, dir)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		r.violate("%s: %v", what, err)
	}
	if found {
		r.find()
		r.point(kind + "\tfound")
	} else {
		r.point(kind + "\tharmless")
	}
	r.cycle(1, 0, 0)
}

// try starts a server on a directory and holds it to the sample. found says that
// the server has noticed damage.
func (s *sample) try(ctx context.Context, cfg config, dir string) (found bool, err error) {
	server, err := startServer(ctx, cfg, dir, "127.0.0.1:0")
	if server == nil {
		return false, err
	}
	defer func() {
		server.stop(syscall.SIGTERM)
		if panicked := server.panicked(); panicked != nil {
			err = errors.Join(err, panicked)
		} else if err != nil {
			err = fmt.Errorf("%w\n%s", err, lastLines(server.text(), 8))
		}
	}()
	if errors.Is(err, errNotReady) {
		if text := server.text(); !saysDamage(text) {
			return false, fmt.Errorf("refused without a reason:\n%s", text)
		}
		return true, nil
	}
	if err != nil {
		return false, err
	}
	refused, err := s.compare(ctx, server.listen)
	found = refused || saysDamage(server.text())
	if err != nil {
		return found, err
	}
	if err := s.compareOffsets(ctx, server.listen, found); err != nil {
		return found, err
	}
	return found, sendOne(ctx, server.listen, found)
}

func saysDamage(log string) bool {
	return strings.Contains(log, "damaged") || strings.Contains(log, "newer version")
}

// compare reads everything: each message is there as it was, or refused.
func (s *sample) compare(ctx context.Context, nameServer string) (refused bool, err error) {
	readers, err := readTopic(ctx, nameServer, s.ends)
	if err != nil {
		return false, err
	}
	if len(readers) != len(s.content) {
		return false, fmt.Errorf("%d queues, there were %d", len(readers), len(s.content))
	}
	for _, q := range readers {
		refused = refused || len(q.damaged) > 0
		want := s.content[q.queue]
		if q.first != 0 || len(q.found) != len(want) {
			return refused, fmt.Errorf("%v holds %d to %d, it held 0 to %d", q.queue, q.first, q.first+int64(len(q.found)), len(want))
		}
		for i, m := range q.found {
			if m.sender >= 0 && m != want[i] {
				return refused, fmt.Errorf("%v offset %d: got %v, want %v", q.queue, i, m, want[i])
			}
		}
	}
	return refused, nil
}

// compareOffsets expects the group where it was; after damage that was noticed it
// may be further back, never ahead.
func (s *sample) compareOffsets(ctx context.Context, nameServer string, noticed bool) error {
	got, err := committedOffsets(ctx, nameServer)
	if err != nil {
		if noticed {
			return nil
		}
		return err
	}
	for q, want := range s.committed {
		if got[q] > want || got[q] < want && !noticed {
			return fmt.Errorf("%v: the group is at %d, it was at %d", q, got[q], want)
		}
	}
	return nil
}

// sendOne sends a message; only a server that noticed damage may refuse it.
func sendOne(ctx context.Context, nameServer string, noticed bool) error {
	p, err := producer.New(ctx, producer.Config{NameServers: []string{nameServer}, Retries: -1})
	if err != nil {
		return err
	}
	_, err = p.Send(ctx, &message.Message{Topic: loadTopic, Body: sent{senders, 0}.body()})
	if noticed {
		err = nil
	}
	return errors.Join(err, p.Close(ctx))
}
