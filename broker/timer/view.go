package timer

import (
	"cmp"
	"errors"
	"fmt"
	"sync"

	"github.com/rmqio/rmq/broker/sorted"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// View is the set of messages that wait for their time. Reading methods may be
// called from any goroutine. Apply methods, DropTopic, Load and Changes belong to
// the one goroutine that applies the log.
type View struct {
	// The rows that differ from those that Changes has handed over, by origin and
	// by recall record; only the applying goroutine uses them.
	changed, changedRecalls map[uint64]struct{}

	mu       sync.RWMutex
	entries  sorted.List[entry]
	schedule sorted.List[Key]
	places   sorted.List[place]  // entries by where they stand now
	topics   map[uint64]int      // how many messages of each wait
	recalls  sorted.List[recall] // by record
	recalled map[Place]uint64
}

// place is where a record stands.
type place struct {
	at, origin uint64
}

// recall is a recall record.
type recall struct {
	index  uint64
	place  Place
	topic  uint64
	millis int64
	id     message.ID
}

// New returns an empty view.
func New() *View {
	return &View{
		changed: map[uint64]struct{}{}, changedRecalls: map[uint64]struct{}{},
		entries:  sorted.By(func(a, b entry) int { return cmp.Compare(a.origin, b.origin) }),
		schedule: sorted.By(Key.Compare),
		places:   sorted.By(func(a, b place) int { return cmp.Compare(a.at, b.at) }),
		topics:   map[uint64]int{},
		recalls:  sorted.By(func(a, b recall) int { return cmp.Compare(a.index, b.index) }),
		recalled: map[Place]uint64{},
	}
}

// Len is how many messages wait.
func (v *View) Len() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.schedule.Len()
}

// LenOf is how many messages of a topic wait.
func (v *View) LenOf(topic uint64) int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.topics[topic]
}

// Next is when the next message is due, in Unix milliseconds; false when none
// waits.
func (v *View) Next() (millis int64, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if k := v.schedule.First(); k != nil {
		return k.Millis, true
	}
	return 0, false
}

// From hands the messages that wait over in the order in which they are due, from
// the key on, while visit wants more. The view waits meanwhile: visit is quick and
// does not call it.
func (v *View) From(k Key, visit func(*Pending) (more bool)) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	v.schedule.Ascend(k, func(k *Key) bool {
		p := v.entries.Get(entry{origin: k.Origin}).pending(*k)
		return visit(&p)
	})
}

func (e *entry) pending(k Key) Pending {
	return Pending{Key: k, At: e.at, Topic: e.topic, Queue: e.queue, Bytes: e.bytes}
}

// Lookup finds a message that waits.
func (v *View) Lookup(at Place) (Pending, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	e := v.entries.Get(entry{origin: at.Origin})
	if e == nil || e.millis(at.Position) == gone {
		return Pending{}, false
	}
	return e.pending(Key{Millis: e.millis(at.Position), Origin: at.Origin, Position: int32(at.Position)}), true
}

// Recalled finds a message that was taken back within RecallMemory.
func (v *View) Recalled(at Place) (Recalled, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	index, ok := v.recalled[at]
	if !ok {
		return Recalled{}, false
	}
	r := v.recalls.Get(recall{index: index})
	return Recalled{Topic: r.topic, ID: r.id}, true
}

// RecalledID finds a message that was taken back within RecallMemory by its id: what
// it was, and the log index of the recall record. It looks at all that are
// remembered.
func (v *View) RecalledID(id message.ID) (at Place, topic, index uint64, ok bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	v.recalls.Ascend(recall{}, func(r *recall) bool {
		if ok = r.id == id; ok {
			at, topic, index = r.place, r.topic, r.index
		}
		return !ok
	})
	return at, topic, index, ok
}

// OldestAt is the log index of the oldest record that has messages that wait; 0
// when none does.
func (v *View) OldestAt() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if p := v.places.First(); p != nil {
		return p.at
	}
	return 0
}

// Located lists records that have messages that wait and stand at from or behind
// it but before the log index before, in log order, at most limit of them.
func (v *View) Located(from, before uint64, limit int) (found []store.Located) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	v.places.Ascend(place{at: from}, func(p *place) bool {
		if p.at >= before || len(found) == limit {
			return false
		}
		e := v.entries.Get(entry{origin: p.origin})
		found = append(found, store.Located{Origin: p.origin, At: p.at, Bytes: e.bytes})
		return true
	})
	return found
}

// ApplyTimer applies a record with the payload of Encode. Errors: ErrRecord;
// nothing is changed then.
func (v *View) ApplyTimer(r store.Committed) error {
	millis, _, err := Decode(r.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, err)
	}
	e := entry{origin: r.Index, at: r.Index, topic: r.Queue.Topic, queue: r.Queue.Queue, bytes: uint32(len(r.Data))}
	e.set(millis)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.addLocked(e)
	v.changed[e.origin] = struct{}{}
	return nil
}

// addLocked reports whether the entry was not there yet.
func (v *View) addLocked(e entry) bool {
	if !v.places.Insert(place{at: e.at, origin: e.origin}) || !v.entries.Insert(e) {
		return false
	}
	e.each(func(k Key) { v.schedule.Insert(k) })
	v.topics[e.topic] += e.left()
	return true
}

// ApplyCarry notes that the timer record of an origin stands at index now. One
// that nothing waits for is no error.
func (v *View) ApplyCarry(index, origin uint64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	e := v.entries.Get(entry{origin: origin})
	if e == nil {
		return nil
	}
	v.places.Remove(place{at: e.at})
	e.at = index
	v.places.Insert(place{at: index, origin: origin})
	v.changed[origin] = struct{}{}
	return nil
}

// ApplyRelease applies a batch record: the messages that it releases, if they are
// of this view, wait no more.
func (v *View) ApplyRelease(r store.Committed) error {
	h, err := batch.ParseHeader(r.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, errors.Join(ErrRecord, err))
	}
	if h.Release.Origin == 0 {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, position := range h.Release.Positions {
		v.takeLocked(Place{Origin: h.Release.Origin, Position: position})
	}
	return nil
}

// takeLocked takes a message away, and reports whether it was there, and of
// which topic.
func (v *View) takeLocked(at Place) (topic uint64, ok bool) {
	e := v.entries.Get(entry{origin: at.Origin})
	if e == nil || e.millis(at.Position) == gone {
		return 0, false
	}
	topic = e.topic
	v.schedule.Remove(Key{Millis: e.millis(at.Position), Origin: at.Origin, Position: int32(at.Position)})
	v.countLocked(topic, -1)
	if e.take(at.Position) == 0 {
		v.places.Remove(place{at: e.at})
		v.entries.Remove(*e)
	}
	v.changed[at.Origin] = struct{}{}
	return topic, true
}

func (v *View) countLocked(topic uint64, n int) {
	if v.topics[topic] += n; v.topics[topic] == 0 {
		delete(v.topics, topic)
	}
}

// ApplyRecall applies a record with the payload of EncodeRecall: the message is
// taken back if it still waits. Errors: ErrRecord; nothing is changed then.
func (v *View) ApplyRecall(r store.Committed) error {
	at, id, err := DecodeRecall(r.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	topic, ok := v.takeLocked(at)
	if ok {
		v.rememberLocked(recall{index: r.Index, place: at, topic: topic, millis: r.StoreMillis, id: id})
		v.changedRecalls[r.Index] = struct{}{}
	}
	v.forgetLocked(r.StoreMillis - RecallMemory.Milliseconds())
	return nil
}

func (v *View) rememberLocked(r recall) {
	v.recalls.Insert(r)
	v.recalled[r.place] = r.index
}

// forgetLocked forgets the recalls from before a time, and the oldest of too many.
func (v *View) forgetLocked(millis int64) {
	for v.recalls.Len() > 0 {
		oldest := *v.recalls.First()
		if oldest.millis >= millis && v.recalls.Len() <= MaxRecalls {
			return
		}
		v.recalls.Remove(oldest)
		delete(v.recalled, oldest.place)
		v.changedRecalls[oldest.index] = struct{}{}
	}
}

// DropTopic takes all messages of a topic away, when the record that deletes it
// is applied.
func (v *View) DropTopic(topic uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.topics[topic] == 0 {
		return
	}
	delete(v.topics, topic)
	v.entries.RemoveFunc(func(e *entry) bool {
		if e.topic == topic {
			v.changed[e.origin] = struct{}{}
		}
		return e.topic == topic
	})
	v.schedule.RemoveFunc(func(k *Key) bool { return v.entries.Get(entry{origin: k.Origin}) == nil })
	v.places.RemoveFunc(func(p *place) bool { return v.entries.Get(entry{origin: p.origin}) == nil })
}
