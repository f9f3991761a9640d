package producer

import (
	"container/list"
	"sync"
	"sync/atomic"

	"github.com/rmqio/rmq/message"
)

// maxDoubts is how many sends with an unknown outcome a producer remembers.
const maxDoubts = 10_000

// doubts are the messages whose outcome is unknown and was told so: what is sent
// again with the same id goes to the same queue, with the number that it had, so
// that the broker knows whether it has it. The oldest is forgotten first.
type doubts struct {
	count atomic.Int64 // of known, so that nobody locks while there is none

	mu    sync.Mutex
	known map[message.ID]*list.Element // of order
	order list.List                    // of *namedDoubt, oldest first
}

// doubt is where a message may be.
type doubt struct {
	queue  *queue
	number number
}

type namedDoubt struct {
	doubt
	id message.ID
}

// enter remembers a message.
func (ds *doubts) enter(id message.ID, d doubt) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.removeLocked(id)
	if ds.known == nil {
		ds.known = map[message.ID]*list.Element{}
	}
	if len(ds.known) == maxDoubts {
		ds.removeLocked(ds.order.Front().Value.(*namedDoubt).id)
	}
	ds.known[id] = ds.order.PushBack(&namedDoubt{d, id})
	ds.count.Store(int64(len(ds.known)))
}

// find says where a message may be; false: there is no doubt.
func (ds *doubts) find(id message.ID) (doubt, bool) {
	if ds.count.Load() == 0 {
		return doubt{}, false
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	e := ds.known[id]
	if e == nil {
		return doubt{}, false
	}
	return e.Value.(*namedDoubt).doubt, true
}

// settle forgets a message that is stored.
func (ds *doubts) settle(id message.ID) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.removeLocked(id)
	ds.count.Store(int64(len(ds.known)))
}

func (ds *doubts) removeLocked(id message.ID) {
	if e := ds.known[id]; e != nil {
		ds.order.Remove(e)
		delete(ds.known, id)
	}
}
