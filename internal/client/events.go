package client

import (
	"sync"

	"github.com/rmqio/rmq/transport/protocol"
)

// events hands what brokers send unasked to those who want it.
type events struct {
	mu   sync.Mutex
	next int
	fns  map[protocol.Code]map[int]func(payload []byte)
}

func (e *events) add(code protocol.Code, fn func([]byte)) (stop func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.fns == nil {
		e.fns = map[protocol.Code]map[int]func([]byte){}
	}
	if e.fns[code] == nil {
		e.fns[code] = map[int]func([]byte){}
	}
	id := e.next
	e.next++
	e.fns[code][id] = fn
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.fns[code], id)
	}
}

// arrived is called on a connection's receiving goroutine.
func (e *events) arrived(f protocol.Frame) {
	e.mu.Lock()
	fns := make([]func([]byte), 0, len(e.fns[f.Code]))
	for _, fn := range e.fns[f.Code] {
		fns = append(fns, fn)
	}
	e.mu.Unlock()
	for _, fn := range fns {
		fn(f.Payload)
	}
}

// OnEvent has fn called for each event of a code; fn must not block, and what it
// is given is its to keep. It is called by several goroutines when several
// brokers send at once. One that cannot be read is logged. After stop has
// returned, fn may still be running once more.
func OnEvent[E any](c *Client, code protocol.Code, fn func(E)) (stop func()) {
	return c.events.add(code, func(payload []byte) {
		var e E
		if err := protocol.Unmarshal(payload, &e); err != nil {
			c.log.Warn("an event cannot be read", "code", code, "error", err)
			return
		}
		fn(e)
	})
}

// OnMembersChanged has fn called when a broker says that the members or the
// free queues of one of the client's groups changed; see OnEvent.
func (c *Client) OnMembersChanged(fn func(protocol.MembersChangedEvent)) (stop func()) {
	return OnEvent(c, protocol.MembersChanged, fn)
}
