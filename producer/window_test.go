package producer

import (
	"strconv"
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
