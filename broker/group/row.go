package group

import (
	"encoding/binary"
	"fmt"

	"github.com/rmqio/rmq/broker/payload"
)

const (
	rowGroup        = 'g'
	rowQueue        = 'q'
	rowSubscription = 's'

	queueKeyTail = 12 // topic ID and queue
)

// row names a row: the configuration of a group, its subscription, or its progress
// in a queue.
type row struct {
	group                string
	config, subscription bool
	place                place
}

func (r row) key() []byte {
	if r.config {
		return append([]byte{rowGroup}, r.group...)
	}
	if r.subscription {
		return append([]byte{rowSubscription}, r.group...)
	}
	key := append([]byte{rowQueue, byte(len(r.group))}, r.group...)
	key = binary.BigEndian.AppendUint64(key, r.place.topic)
	return binary.BigEndian.AppendUint32(key, r.place.queue)
}

func (p progress) value() []byte {
	b := binary.AppendVarint(nil, p.committed)
	b = binary.AppendUvarint(b, p.fence)
	return append(b, p.client...)
}

// Name implements view.View.
func (v *View) Name() string { return "group" }

// Changes implements view.View. It takes no lock: only the goroutine that calls
// it writes what it reads.
func (v *View) Changes(put func(key, value []byte), del func(key []byte)) {
	for r := range v.changed {
		if value := v.value(r); value != nil {
			put(r.key(), value)
		} else {
			del(r.key())
		}
	}
	clear(v.changed)
}

// value of a row, nil when it is not there.
func (v *View) value(r row) []byte {
	g, ok := v.groups[r.group]
	if !ok {
		return nil
	}
	if r.config {
		return appendConfig(nil, g.config)
	}
	if r.subscription {
		if g.subscription == nil {
			return nil
		}
		return g.subscription.value()
	}
	if p, ok := g.queues[r.place]; ok {
		return p.value()
	}
	return nil
}

// Load implements view.View. Errors: ErrRecord.
func (v *View) Load(key, value []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case len(key) > 1 && key[0] == rowGroup:
		return v.loadGroupLocked(string(key[1:]), value)
	case len(key) > 1 && key[0] == rowQueue && len(key) == 2+int(key[1])+queueKeyTail:
		return v.loadQueueLocked(key[2:], value)
	case len(key) > 1 && key[0] == rowSubscription:
		return v.loadSubscriptionLocked(string(key[1:]), value)
	default:
		return fmt.Errorf("%w: key %x", ErrRecord, key)
	}
}

func (v *View) loadGroupLocked(name string, value []byte) error {
	p := fields{payload.Of(value)}
	cfg := p.config(name)
	if len(name) > maxNameBytes || !p.Done() {
		return fmt.Errorf("%w: group %q has configuration %x", ErrRecord, name, value)
	}
	v.groups[name] = &members{config: cfg}
	return nil
}

// loadQueueLocked takes a progress; its group was loaded before, because 'g' sorts
// before 'q'.
func (v *View) loadQueueLocked(key, value []byte) error {
	name, tail := string(key[:len(key)-queueKeyTail]), key[len(key)-queueKeyTail:]
	if _, ok := v.groups[name]; !ok {
		return fmt.Errorf("%w: progress of group %q, which is not there", ErrRecord, name)
	}
	p, err := decodeProgress(value)
	if err != nil {
		return fmt.Errorf("group %q, queue %x: %w", name, tail, err)
	}
	at := place{topic: binary.BigEndian.Uint64(tail), queue: binary.BigEndian.Uint32(tail[8:])}
	v.storeLocked(name, at, p)
	return nil
}

func decodeProgress(value []byte) (progress, error) {
	committed, n := binary.Varint(value)
	if n <= 0 || committed < none {
		return progress{}, fmt.Errorf("%w: offset in %x", ErrRecord, value)
	}
	fence, m := binary.Uvarint(value[n:])
	if m <= 0 {
		return progress{}, fmt.Errorf("%w: fence in %x", ErrRecord, value)
	}
	p := progress{committed: committed, fence: fence, client: string(value[n+m:])}
	if (p.fence == 0) != (p.client == "") || p == (progress{committed: none}) {
		return progress{}, fmt.Errorf("%w: fence and client in %x", ErrRecord, value)
	}
	return p, nil
}
