package store

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rmqio/rmq/message/batch"
)

// pending is a record between Append and its answer.
type pending struct {
	Committed
	done func(Committed, error) // nil: answered already
}

func (p *pending) answer(err error) {
	if p.done != nil {
		p.done(p.Committed, err)
	}
}

// tail is what was appended and is not on disk yet, and what the log must know
// of it: the next index and the queues' ends with all that is waiting.
type tail struct {
	limit int64

	mu      sync.Mutex
	next    uint64
	ends    queueEnds
	millis  int64 // of the last record; store times do not decrease
	waiting []*pending
	held    int64 // bytes of all records that are not answered
	refuse  error // why nothing can be appended now
}

// push gives the record its place in the log and queues it.
func (t *tail) push(p *pending, now time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	size := int64(len(p.Data))
	switch {
	case t.refusesLocked(p.Type):
		return t.refuse
	case t.held > 0 && t.held+size > t.limit:
		return fmt.Errorf("%w: %d bytes", ErrBusy, t.held)
	}
	t.millis = max(t.millis, now.UnixMilli())
	p.Index, p.StoreMillis = t.next, t.millis
	t.next++
	switch p.Type {
	case BatchRecord:
		end := t.ends.of(p.Queue)
		p.BaseOffset = *end
		*end += int64(p.Count)
		batch.SetStored(p.Data, p.Index, p.BaseOffset, p.StoreMillis, firstEpoch)
	case TopicDeleteRecord:
		delete(t.ends, p.Queue.Topic)
	}
	t.waiting = append(t.waiting, p)
	t.held += size
	return nil
}

// refusesLocked reports whether a record cannot be taken now. A full disk is a
// reason against messages only: other records are small, and consumers that get
// on are what makes the disk emptier.
func (t *tail) refusesLocked(kind Type) bool {
	messages := kind == BatchRecord || kind == TimerRecord || kind == HalfRecord
	return t.refuse != nil && (messages || !errors.Is(t.refuse, ErrDiskFull))
}

// take removes what one group commit may hold from the front.
func (t *tail) take() []*pending {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, size := 0, 0
	for n < len(t.waiting) && n < maxRowsPerChunk {
		size += len(t.waiting[n].Data)
		if n > 0 && size > maxCommitBytes {
			break
		}
		n++
	}
	taken := t.waiting[:n:n]
	if t.waiting = t.waiting[n:]; len(t.waiting) == 0 {
		t.waiting = nil
	}
	return taken
}

// release gives back the room that answered records took.
func (t *tail) release(bytes int64) {
	t.mu.Lock()
	t.held -= bytes
	t.mu.Unlock()
}

// pending is how many bytes wait for their answer.
func (t *tail) pending() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held
}

// stop refuses appends from now on and returns what was waiting.
func (t *tail) stop(why error) []*pending {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refuse != ErrClosed {
		t.refuse = why
	}
	waiting := t.waiting
	t.waiting = nil
	return waiting
}

// close refuses appends for good; what is waiting is still taken.
func (t *tail) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refuse = ErrClosed
}

// refuseNew refuses appends from now on, unless they are refused for another
// reason; what is waiting is still taken.
func (t *tail) refuseNew(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refuse == nil {
		t.refuse = why
	}
}

// acceptNew ends refuseNew.
func (t *tail) acceptNew(why error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if errors.Is(t.refuse, why) {
		t.refuse = nil
	}
}

// resume takes appends again, from the state that is on disk.
func (t *tail) resume(next uint64, ends queueEnds) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next, t.ends = next, ends
	if t.refuse != ErrClosed {
		t.refuse = nil
	}
}

// refusing returns why appends are refused, or nil.
func (t *tail) refusing() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refuse
}
