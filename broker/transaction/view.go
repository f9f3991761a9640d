package transaction

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// View is the set of half messages that are open, and of the last decisions.
// Reading methods may be called from any goroutine. Apply methods, DropTopic, Load
// and Changes belong to the one goroutine that applies the log.
type View struct {
	// changed holds the rows that differ from those that Changes has handed over;
	// only the applying goroutine uses it.
	changed map[row]struct{}
	// told is what the watcher is told when the lock is given back; the applying
	// goroutine alone uses it and watch.
	told  []event
	watch func(m Message, open bool)

	mu      sync.RWMutex
	halves  map[uint64]*half // by origin
	order   []uint64         // the origins, ascending, and some that are not in halves any more
	places  places
	open    int            // messages in halves
	topics  map[uint64]int // how many of each
	decided decided
}

// half is what came with one half record and has open messages.
type half struct {
	at, topic uint64
	millis    int64
	group     string
	queue     uint32
	bytes     uint32 // of the half record's data
	open      []open // by position
}

type open struct {
	id       message.ID
	position uint32
	checks   uint32
	immunity int64
	asked    int64
	parked   bool
}

type event struct {
	message Message
	open    bool
}

// New returns a view without half messages.
func New() *View {
	return &View{changed: map[row]struct{}{}, halves: map[uint64]*half{}, topics: map[uint64]int{}, decided: newDecided(MaxDecided), watch: func(Message, bool) {}}
}

// Watch tells of each message that is open, and from then on, on the applying
// goroutine, of each that is new, has changed, or is not open any more; where it
// stands is no change. Watch is called before anything more is applied. fn may
// read the view.
func (v *View) Watch(fn func(m Message, open bool)) {
	v.watch = fn
	for _, origin := range v.order {
		if h, ok := v.halves[origin]; ok {
			for i := range h.open {
				fn(h.message(origin, i), true)
			}
		}
	}
}

// Open returns a half message that is not decided.
func (v *View) Open(k Key) (Message, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if h, ok := v.halves[k.Origin]; ok {
		if i, ok := h.find(k.Position); ok {
			return h.message(k.Origin, i), true
		}
	}
	return Message{}, false
}

// Decided returns a decision that is remembered.
func (v *View) Decided(k Key) (Verdict, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.decided.find(k)
}

// DecidedID returns the last decision that is remembered on a message by its id. It
// looks at all of them.
func (v *View) DecidedID(id message.ID) (Verdict, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.decided.findID(id)
}

// Pending is the number of messages that are open.
func (v *View) Pending() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.open
}

// PendingOf is the number of messages of a topic that are open.
func (v *View) PendingOf(topic uint64) int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.topics[topic]
}

// List returns up to limit messages that are open and wanted, oldest first, from
// behind a key on, and whether there are more.
func (v *View) List(after Key, limit int, want func(*Message) bool) (list []Message, more bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	from, _ := slices.BinarySearch(v.order, after.Origin)
	for _, origin := range v.order[from:] {
		h, ok := v.halves[origin]
		if !ok {
			continue
		}
		for i := range h.open {
			m := h.message(origin, i)
			switch {
			case m.Compare(after) <= 0 || !want(&m):
			case len(list) == limit:
				return list, true
			default:
				list = append(list, m)
			}
		}
	}
	return list, false
}

func (h *half) find(position int) (int, bool) {
	return slices.BinarySearchFunc(h.open, position, func(o open, p int) int { return cmp.Compare(int(o.position), p) })
}

func (h *half) message(origin uint64, i int) Message {
	o := &h.open[i]
	return Message{
		Key: Key{Origin: origin, Position: int(o.position)}, ID: o.id, TopicID: h.topic, Queue: int(h.queue), Group: h.group,
		At: h.at, Bytes: int(h.bytes), StoreMillis: h.millis, ImmunityMillis: o.immunity, Checks: int(o.checks), AskedMillis: o.asked, Parked: o.parked,
	}
}

// update changes the view, and tells the watcher when the lock is given back.
func (v *View) update(change func()) {
	v.mu.Lock()
	change()
	v.mu.Unlock()
	for _, e := range v.told {
		v.watch(e.message, e.open)
	}
	v.told = v.told[:0]
}

func (v *View) tellLocked(origin uint64, h *half, i int, open bool) {
	v.told = append(v.told, event{message: h.message(origin, i), open: open})
}

// ApplyHalf applies a half record. Errors: ErrRecord; nothing is changed then.
func (v *View) ApplyHalf(r store.Committed) error {
	h, err := readHalf(r)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, err)
	}
	v.update(func() {
		v.addLocked(r.Index, h)
		v.changed[row{kind: rowHalf, number: r.Index}] = struct{}{}
		for i := range h.open {
			v.tellLocked(r.Index, h, i, true)
		}
	})
	return nil
}

func readHalf(r store.Committed) (*half, error) {
	data, err := DecodeHalf(r.Data)
	if err != nil {
		return nil, err
	}
	h := &half{
		at: r.Index, topic: r.Queue.Topic, millis: r.StoreMillis, group: data.Group, queue: r.Queue.Queue,
		bytes: uint32(len(r.Data)), open: make([]open, 0, len(data.ImmunityMillis)),
	}
	err = batch.Scan(data.Batch, func(id message.ID, _ [][]byte) {
		position := len(h.open)
		h.open = append(h.open, open{id: id, position: uint32(position), immunity: data.ImmunityMillis[position]})
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return h, nil
}

func (v *View) addLocked(origin uint64, h *half) {
	v.halves[origin] = h
	v.open += len(h.open)
	v.topics[h.topic] += len(h.open)
	v.order = append(v.order, origin)
	v.places.add(store.Located{Origin: origin, At: h.at, Bytes: h.bytes})
}

// ApplyRelease applies a batch record, which need not have a release: in their own
// topic messages are committed by it, in another one they are parked. Messages
// that are not open, and origins that are no half records, are passed over.
// Errors: ErrRecord; nothing is changed then.
func (v *View) ApplyRelease(r store.Committed) error {
	h, err := batch.ParseHeader(r.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w: %w", r.Index, ErrRecord, err)
	}
	if h.Release.Origin == 0 {
		return nil
	}
	v.update(func() {
		for i, position := range h.Release.Positions {
			v.releaseLocked(Key{Origin: h.Release.Origin, Position: position}, r, r.BaseOffset+int64(i))
		}
	})
	return nil
}

func (v *View) releaseLocked(k Key, r store.Committed, offset int64) {
	h, at, ok := v.findLocked(k)
	switch {
	case !ok:
	case h.topic == r.Queue.Topic:
		v.decideLocked(k, h, at, Verdict{Queue: int(r.Queue.Queue), Offset: offset, StoreMillis: r.StoreMillis})
	default:
		h.open[at].parked = true
		v.noteLocked(k, h, at)
	}
}

// ApplyDecision applies a decision record. Messages that are not open are passed
// over. Errors: ErrRecord; nothing is changed then.
func (v *View) ApplyDecision(r store.Committed) error {
	d, keys, err := DecodeDecision(r.Data)
	if err != nil {
		return fmt.Errorf("record %d: %w", r.Index, err)
	}
	v.update(func() {
		for _, k := range keys {
			h, at, ok := v.findLocked(k)
			switch {
			case !ok:
			case d == RolledBack:
				v.decideLocked(k, h, at, Verdict{Queue: int(h.queue), Offset: -1, StoreMillis: r.StoreMillis})
			default:
				h.open[at].checks++
				h.open[at].asked = r.StoreMillis
				v.noteLocked(k, h, at)
			}
		}
	})
	return nil
}

func (v *View) findLocked(k Key) (*half, int, bool) {
	h, ok := v.halves[k.Origin]
	if !ok {
		return nil, 0, false
	}
	i, ok := h.find(k.Position)
	return h, i, ok
}

// noteLocked follows up the change of a message that stays open.
func (v *View) noteLocked(k Key, h *half, at int) {
	v.changed[row{kind: rowHalf, number: k.Origin}] = struct{}{}
	v.tellLocked(k.Origin, h, at, true)
}

// decideLocked turns an open message into a verdict.
func (v *View) decideLocked(k Key, h *half, at int, verdict Verdict) {
	verdict.Key, verdict.ID, verdict.TopicID = k, h.open[at].id, h.topic
	for _, number := range v.decided.add(verdict) {
		v.changed[row{kind: rowDecided, number: number}] = struct{}{}
	}
	v.removeLocked(k.Origin, h, at)
}

func (v *View) removeLocked(origin uint64, h *half, at int) {
	v.tellLocked(origin, h, at, false)
	v.changed[row{kind: rowHalf, number: origin}] = struct{}{}
	v.open--
	if v.topics[h.topic]--; v.topics[h.topic] == 0 {
		delete(v.topics, h.topic)
	}
	if h.open = slices.Delete(h.open, at, at+1); len(h.open) > 0 {
		return
	}
	delete(v.halves, origin)
	v.tidyLocked()
}

// DropTopic removes the open messages of a topic, when the record that deletes it
// is applied.
func (v *View) DropTopic(topicID uint64) {
	v.update(func() {
		for origin, h := range v.halves {
			for h.topic == topicID && len(h.open) > 0 {
				v.removeLocked(origin, h, len(h.open)-1)
			}
		}
	})
}
