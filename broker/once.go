package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/broker/dedup"
	"github.com/rmqio/rmq/broker/sequence"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// once sees to it that a batch that comes again is not stored again. What is
// committed it knows from two views; what is appended and not committed it keeps
// itself, so that a batch that comes meanwhile waits for the first one's outcome.
//
// One mutex is held from the judgement on a batch to its place in the log, so
// that flights are in the order of the log.
type once struct {
	sequences *sequence.View
	keys      *dedup.View
	now       func() time.Time

	mu    sync.Mutex
	first *flight // appended and not applied, in the order of the log
	last  *flight
	lines map[sequence.Key]*line
	keyed map[dedup.Key]*flight
}

// line is what of one producer is on its way to one queue.
type line struct {
	flights []*flight
	ahead   *sequence.Track // the committed track and the flights; nil: not made yet
}

// traits are what makes a batch recognisable.
type traits struct {
	sequence batch.Sequence
	count    int
	pair     sequence.Key
	key      dedup.Key // Text empty: the batch has none
}

func (c *traits) numbered() bool { return c.sequence.Producer != 0 }

// flight is a batch between its place in the log and its application.
type flight struct {
	traits
	once   *once
	done   func(protocol.SendResult)
	legs   atomic.Int32 // of two: the append has returned, the outcome is there
	result protocol.SendResult

	// Guarded by once.mu.
	line       *line // nil: the batch has no numbers
	next, prev *flight
	gone       bool // out of once
	landed     bool // result is known
	waiting    []companion
}

// companion is a batch that came again, offset messages into the flight.
type companion struct {
	offset int64
	done   func(protocol.SendResult)
}

func newOnce(sequences *sequence.View, keys *dedup.View, now func() time.Time) *once {
	return &once{
		sequences: sequences, keys: keys, now: now,
		lines: map[sequence.Key]*line{}, keyed: map[dedup.Key]*flight{},
	}
}

// take has a batch put into the log, unless it is there or on its way; then the
// batch's sender is told the first one's outcome. With an error nothing was done.
func (o *once) take(p *parcel, put func(*parcel) error) error {
	if p.Sequence.Producer == 0 && p.Uses.Any&batch.UsesDedupKey == 0 {
		return put(p)
	}
	f := &flight{once: o, done: p.done}
	if err := f.traits.set(p); err != nil {
		return err
	}
	o.mu.Lock()
	at, answer, err := o.judgeLocked(f)
	switch {
	case err != nil:
	case at != nil && !at.landed:
		at.waiting = append(at.waiting, companion{at.offsetOf(&f.traits), p.done})
	case at != nil:
		answer = at.again(at.offsetOf(&f.traits))
	case answer == nil:
		return o.flyLocked(f, p, put) // unlocks
	}
	o.mu.Unlock()
	if answer != nil {
		answer.Duplicate = true
		p.done(*answer)
	}
	return err
}

// set takes them from a batch, and holds one with a deduplication key to the rules
// of those.
func (c *traits) set(p *parcel) (err error) {
	c.sequence, c.count, c.pair = p.Sequence, p.Count, sequence.KeyOf(&p.Header, p.queue)
	if p.Uses.Any&batch.UsesDedupKey == 0 {
		return nil
	}
	switch {
	case p.Purpose != batch.ToQueue:
		return protocol.Errorf(protocol.IllegalMessage,
			"a message with a deduplication key cannot be delayed or part of a transaction: its key is taken when it is stored in its queue")
	case p.Count != 1:
		return protocol.Errorf(protocol.IllegalMessage, "a message with a deduplication key is alone in its batch; this one has %d", p.Count)
	}
	c.key, err = dedupKey(p.queue.Topic, p.bytes)
	return err
}

func dedupKey(topic uint64, b []byte) (k dedup.Key, err error) {
	err = batch.EachExtra(b, func(_ int, m *message.Message) { k = dedup.Key{Topic: topic, Text: m.DedupKey} })
	return k, err
}

// judgeLocked finds the flight that has the batch, or the answer when it is
// stored; neither and no error: it is new, and has its line if there is one.
func (o *once) judgeLocked(c *flight) (*flight, *protocol.SendResult, error) {
	if c.key.Text != "" {
		if f := o.keyed[c.key]; f != nil {
			return f, nil, nil
		}
		if at, ok := o.keys.Find(c.key, o.now()); ok {
			return nil, &protocol.SendResult{BaseOffset: at.Offset, StoreMillis: at.Millis, Queue: int(at.Queue)}, nil
		}
	}
	if c.numbered() {
		if f, answer, err := o.judgeNumbersLocked(c); f != nil || answer != nil || err != nil {
			return f, answer, err
		}
	}
	return nil, nil, o.admitLocked(c)
}

func (o *once) judgeNumbersLocked(c *flight) (*flight, *protocol.SendResult, error) {
	c.line = o.lines[c.pair]
	l := c.line
	if l == nil {
		return c.committed(o.sequences.Judge(c.pair, &c.sequence, c.count))
	}
	for _, f := range l.flights {
		if f.contains(&c.traits) {
			return f, nil, nil
		}
	}
	if l.ahead == nil {
		l.ahead = o.sequences.Track(c.pair)
		for _, f := range l.flights {
			l.ahead.Take(&f.sequence, f.count, sequence.Place{Base: -1})
		}
	}
	return c.committed(l.ahead.Judge(&c.sequence, c.count))
}

func (c *traits) committed(at sequence.Place, known bool, err error) (*flight, *protocol.SendResult, error) {
	if err != nil || !known {
		return nil, nil, err
	}
	r := &protocol.SendResult{BaseOffset: at.Base, StoreMillis: at.Millis, Queue: int(c.pair.Queue.Queue)}
	if at.Base < 0 {
		r.Index = at.Index
	}
	return nil, r, nil
}

func (o *once) admitLocked(c *flight) error {
	if c.key.Text != "" {
		if err := o.keys.Admit(len(o.keyed), o.now()); err != nil {
			return err
		}
	}
	if c.numbered() && c.line == nil {
		return o.sequences.Admit(c.pair, len(o.lines), o.now())
	}
	return nil
}

// flyLocked has a new batch put into the log, and unlocks.
func (o *once) flyLocked(f *flight, p *parcel, put func(*parcel) error) error {
	p.done = f.arrive
	if err := put(p); err != nil {
		o.mu.Unlock()
		p.done = f.done
		return err
	}
	o.enterLocked(f)
	o.mu.Unlock()
	f.leg()
	return nil
}

func (o *once) enterLocked(f *flight) {
	if f.prev = o.last; f.prev != nil {
		f.prev.next = f
	} else {
		o.first = f
	}
	o.last = f
	if f.key.Text != "" {
		o.keyed[f.key] = f
	}
	if !f.numbered() {
		return
	}
	if f.line == nil {
		f.line = &line{}
		o.lines[f.pair] = f.line
	}
	f.line.flights = append(f.line.flights, f)
	if f.line.ahead != nil {
		f.line.ahead.Take(&f.sequence, f.count, sequence.Place{Base: -1})
	}
}

// leaveLocked forgets a flight that is applied or lost.
func (o *once) leaveLocked(f *flight) {
	if f.gone {
		return
	}
	f.gone = true
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		o.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		o.last = f.prev
	}
	if f.key.Text != "" {
		delete(o.keyed, f.key)
	}
	if f.numbered() {
		f.line.drop(f)
		if len(f.line.flights) == 0 {
			delete(o.lines, f.pair)
		}
	}
}

func (l *line) drop(f *flight) {
	rest := l.flights[:0]
	for _, other := range l.flights {
		if other != f {
			rest = append(rest, other)
		}
	}
	clear(l.flights[len(rest):])
	l.flights, l.ahead = rest, nil
}

func (f *flight) contains(c *traits) bool {
	return f.sequence.Incarnation == c.sequence.Incarnation && f.sequence.First <= c.sequence.First &&
		c.sequence.First+uint64(c.count) <= f.sequence.First+uint64(f.count)
}

// offsetOf is the place of a batch in the flight that contains it; one that has
// nothing but the key in common has the flight's only message.
func (f *flight) offsetOf(c *traits) int64 {
	if !f.contains(c) || !f.numbered() {
		return 0
	}
	return int64(c.sequence.First - f.sequence.First)
}

// arrive takes the outcome of the append. It may come before the append returns,
// from the goroutine that appends and holds the mutex: then it waits for that.
func (f *flight) arrive(r protocol.SendResult) {
	f.result = r
	f.leg()
}

func (f *flight) leg() {
	if f.legs.Add(1) == 2 {
		f.once.land(f)
	}
}

// land tells the outcome to all who wait for it. A batch that is stored stays
// here until it is applied, which it is already unless the log answers early.
func (o *once) land(f *flight) {
	o.mu.Lock()
	f.landed = true
	waiting := f.waiting
	f.waiting = nil
	if f.result.Err != nil {
		o.leaveLocked(f)
	}
	o.mu.Unlock()
	f.done(f.result)
	for _, w := range waiting {
		w.done(*f.again(w.offset))
	}
}

// again is the outcome for a batch that came again, a number of messages into
// the flight.
func (f *flight) again(offset int64) *protocol.SendResult {
	r := f.result
	if r.Err != nil {
		return &r
	}
	if r.BaseOffset < 0 {
		offset = -offset
	}
	r.BaseOffset += offset
	r.Duplicate, r.Queue = true, int(f.pair.Queue.Queue)
	return &r
}

// applied is called when a record that may have been a flight is in the views.
// What was appended before it and is not applied was lost when the disk failed.
func (o *once) applied(pair sequence.Key, s *batch.Sequence, key dedup.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f := o.findLocked(pair, s, key)
	for f != nil {
		before := f.prev
		o.leaveLocked(f)
		f = before
	}
}

func (o *once) findLocked(pair sequence.Key, s *batch.Sequence, key dedup.Key) *flight {
	if key.Text != "" {
		if f := o.keyed[key]; f != nil {
			return f
		}
	}
	if l := o.lines[pair]; l != nil {
		for _, f := range l.flights {
			if f.sequence.Incarnation == s.Incarnation && f.sequence.First == s.First {
				return f
			}
		}
	}
	return nil
}

// drop forgets what was appended and was answered early, when the log can not
// write it any more. What is not answered is told so one by one.
func (o *once) drop() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for f := o.first; f != nil; {
		next := f.next
		if f.landed {
			o.leaveLocked(f)
		}
		f = next
	}
}
