package consumer

import (
	"errors"
	"sync"

	"github.com/rmqio/rmq/transport/protocol"
)

// barred are the brokers where consuming is switched off for the group. Its zero
// value is ready for use, by any goroutine.
type barred struct {
	mu      sync.Mutex
	brokers map[string]bool
}

// set reports whether that is news.
func (b *barred) set(broker string, off bool) (news bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.brokers[broker] == off {
		return false
	}
	if b.brokers == nil {
		b.brokers = map[string]bool{}
	}
	b.brokers[broker] = off
	return true
}

// permitted takes how a broker answered when it was asked for the group's queues, and
// tells when consuming has been switched off there, and when it is on again: brokers
// have members ask at once. What was taken from the broker before is processed all
// the same.
func (e *engine) permitted(broker string, err error) {
	off := errors.Is(err, protocol.NoPermission)
	if err != nil && !off || !e.barred.set(broker, off) {
		return
	}
	if !off {
		e.log.Info("consuming is switched on again", "group", e.group, "broker", broker)
		return
	}
	e.log.Warn("consuming is switched off for the group, waiting until it is on again", "group", e.group, "broker", broker)
	if e.onFault != nil {
		e.onFault(err)
	}
}
