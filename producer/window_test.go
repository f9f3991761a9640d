package producer

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport"
)

// A producer that is faster than the broker keeps the rest to itself: what a broker
// refuses because too much is waiting was sent in vain.
func TestOutbox_BoundsWhatIsUnderWay(t *testing.T) {
	const bytes = 64 << 10
	const count = 3 * windowBytes / bytes
	s := startSite(t)
	b := s.broker("b", count)
	b.late = make(chan *transport.Request, count)
	p := newProducer(t, s, func(c *Config) { c.MaxBufferedBytes, c.NoCompression = 4*windowBytes, true })
	var acked, failed atomic.Int64
	for i := range count {
		p.SendAsync(t.Context(), &message.Message{Topic: "t", Group: strconv.Itoa(i), Body: make([]byte, bytes)}, func(_ Receipt, err error) {
			if err != nil {
				failed.Add(1)
			}
			acked.Add(1)
		})
	}
	underWay := func() (n int) {
		for _, q := range p.topics.allQueues() {
			q.mu.Lock()
			if q.flying != nil {
				n += len(q.flying.bytes)
			}
			q.mu.Unlock()
		}
		return n
	}
	eventually(t, "the window is full", func() bool { return underWay() >= windowBytes })
	for acked.Load() < count {
		if got, limit := underWay(), windowBytes+frameBytes+2*bytes; got > limit {
			t.Fatalf("%d bytes are under way, the limit is %d", got, limit)
		}
		eventually(t, "a request or the end", func() bool { return len(b.late) > 0 || acked.Load() == count })
		for len(b.late) > 0 {
			b.answer(<-b.late)
		}
	}
	if failed.Load() > 0 {
		t.Errorf("%d messages failed", failed.Load())
	}
}

func TestSendAsync_GathersWhileOneIsUnderWay(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 4)
	const n = 20000
	b.late = make(chan *transport.Request, n)
	p := newProducer(t, s, nil)
	var mu sync.Mutex
	next := map[message.Queue]int64{}
	for i := range n {
		group := fmt.Sprint("g", i%7)
		p.SendAsync(t.Context(), msgOf(group, fmt.Sprint(i)), func(r Receipt, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil || r.Offset != next[r.Queue] {
				t.Errorf("got offset %d of %v, %v; want %d", r.Offset, r.Queue, err, next[r.Queue])
			}
			next[r.Queue]++
		})
	}
	flushed := make(chan error, 1)
	go func() { flushed <- p.Flush(t.Context()) }()
	for err, done := error(nil), false; !done; { // nothing is answered before all were accepted
		select {
		case r := <-b.late:
			b.answer(r)
		case err = <-flushed:
			if done = true; err != nil {
				t.Fatal(err)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	sum := int64(0)
	for _, end := range next {
		sum += end
	}
	if sum != n {
		t.Errorf("got %d callbacks before Flush returned, want %d", sum, n)
	}
	for id := range 4 {
		last := map[string]int{}
		for _, m := range b.in(id) {
			i := 0
			if fmt.Sscan(string(m.Body), &i); i < last[m.Group] {
				t.Fatalf("queue %d: %d comes after %d", id, i, last[m.Group])
			}
			last[m.Group] = i
		}
	}
	if got := b.batches(); got > 4+n/1000 {
		t.Errorf("got %d batches for %d messages: nothing gathers", got, n)
	}
}
