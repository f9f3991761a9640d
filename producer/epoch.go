package producer

import (
	"context"
	"sync"
	"sync/atomic"
)

// epochs count the sends that are not answered, so that Flush can wait for
// those that began before it, however many come after. Each Flush starts a new
// epoch.
type epochs struct {
	current atomic.Pointer[epoch]

	mu   sync.Mutex
	open []*epoch // begun before the current one and perhaps not ended
}

type epoch struct {
	count  atomic.Int64
	sealed atomic.Bool
	once   sync.Once
	ended  chan struct{} // closed when it is sealed and all its sends are answered
}

func newEpoch() *epoch { return &epoch{ended: make(chan struct{})} }

func newEpochs() *epochs {
	e := &epochs{}
	e.current.Store(newEpoch())
	return e
}

// enter counts a send in.
func (es *epochs) enter() *epoch {
	for {
		e := es.current.Load()
		e.count.Add(1)
		if es.current.Load() == e {
			return e
		}
		e.leave(1) // a Flush may have passed it already
	}
}

// leave counts n sends out.
func (e *epoch) leave(n int64) {
	if e.count.Add(-n) == 0 && e.sealed.Load() {
		e.once.Do(func() { close(e.ended) })
	}
}

// flush waits for all sends that entered before.
func (es *epochs) flush(ctx context.Context) error {
	for _, e := range es.seal() {
		select {
		case <-e.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (es *epochs) seal() []*epoch {
	es.mu.Lock()
	defer es.mu.Unlock()
	last := es.current.Swap(newEpoch())
	last.sealed.Store(true)
	if last.count.Load() == 0 {
		last.once.Do(func() { close(last.ended) })
	}
	var open []*epoch
	for _, e := range append(es.open, last) {
		select {
		case <-e.ended:
		default:
			open = append(open, e)
		}
	}
	es.open = open
	return open
}
