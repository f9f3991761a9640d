package transaction

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/store"
)

// TestViewAgainstModel runs random records, flushes and restarts, each with the
// replay of the log from the position that was flushed, against plain maps.
func TestViewAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{rows: map[string][]byte{}, open: map[Key]Message{}, verdicts: map[Key]Verdict{}}
		m.start(t)
		t.Repeat(map[string]func(*rapid.T){
			"half":     m.half,
			"commit":   func(t *rapid.T) { m.release(t, ours) },
			"park":     func(t *rapid.T) { m.release(t, side) },
			"rollback": m.rollback,
			"ask":      m.ask,
			"carry":    m.carry,
			"drop":     m.drop,
			"flush":    m.flush,
			"restart":  m.start,
			"pass":     func(t *rapid.T) { m.now += rapid.Int64Range(0, DecidedFor.Milliseconds()/2).Draw(t, "ms") },
			"":         m.check,
		})
	})
}

const modelDecided = 4 // as many are remembered

type model struct {
	view    *View
	watched map[Key]Message
	log     []store.Committed // record i+1
	rows    map[string][]byte // as flushed
	flushed int               // records that the rows have
	now     int64

	open     map[Key]Message
	decided  []Key // in order
	verdicts map[Key]Verdict
}

func (m *model) start(t *rapid.T) {
	m.view = New()
	m.view.decided.limit = modelDecided
	for _, key := range slices.Sorted(maps.Keys(m.rows)) {
		if err := m.view.Load([]byte(key), m.rows[key]); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range m.log[m.flushed:] {
		if err := applyTo(m.view, r); err != nil {
			t.Fatal(err)
		}
	}
	m.watched = map[Key]Message{}
	m.view.Watch(func(h Message, open bool) {
		if delete(m.watched, h.Key); open {
			m.watched[h.Key] = h
		}
	})
}

func (m *model) flush(*rapid.T) {
	m.flushed = len(m.log)
	m.view.Changes(
		func(key, value []byte) { m.rows[string(key)] = bytes.Clone(value) },
		func(key []byte) { delete(m.rows, string(key)) },
	)
}

func (m *model) next() uint64 { return uint64(len(m.log)) + 1 }

func (m *model) append(t *rapid.T, r store.Committed) {
	m.log = append(m.log, r)
	if err := applyTo(m.view, r); err != nil {
		t.Fatalf("record %d: %v", r.Index, err)
	}
}

func (m *model) half(t *rapid.T) {
	topic := rapid.SampledFrom([]uint64{ours, ours, side}).Draw(t, "topic")
	immunity := rapid.SliceOfN(rapid.Int64Range(0, 1000), 1, 3).Draw(t, "immunity")
	r := halfRecord(m.next(), topic, m.now, immunity...)
	for i, ms := range immunity {
		k := Key{Origin: r.Index, Position: i}
		m.open[k] = Message{
			Key: k, ID: id(r.Index*100 + uint64(i)), TopicID: topic, Queue: 3, Group: fmt.Sprint("g", r.Index%2),
			At: r.Index, Bytes: len(r.Data), StoreMillis: m.now, ImmunityMillis: ms,
		}
	}
	m.append(t, r)
}

// draw is a key of a record that there was, or of none.
func (m *model) draw(t *rapid.T) Key {
	return Key{Origin: rapid.Uint64Range(m.next()-min(8, m.next()), m.next()).Draw(t, "origin"), Position: rapid.IntRange(0, 3).Draw(t, "position")}
}

func (m *model) decide(k Key, queue int, offset int64) {
	h := m.open[k]
	delete(m.open, k)
	m.decided = append(m.decided, k)
	m.verdicts[k] = Verdict{Key: k, ID: h.ID, TopicID: h.TopicID, Queue: queue, Offset: offset, StoreMillis: m.now}
	for len(m.decided) > modelDecided || m.verdicts[m.decided[0]].StoreMillis < m.now-DecidedFor.Milliseconds() {
		delete(m.verdicts, m.decided[0])
		m.decided = m.decided[1:]
	}
}

func (m *model) release(t *rapid.T, topic uint64) {
	k := m.draw(t)
	positions := []int{k.Position, k.Position + 1}
	r := releaseRecord(m.next(), max(k.Origin, 1), topic, m.now, positions...)
	for i, p := range positions {
		k := Key{Origin: max(k.Origin, 1), Position: p}
		h, ok := m.open[k]
		switch {
		case ok && h.TopicID == topic:
			m.decide(k, 2, r.BaseOffset+int64(i))
		case ok:
			h.Parked = true
			m.open[k] = h
		}
	}
	m.append(t, r)
}

func (m *model) rollback(t *rapid.T) {
	k := m.draw(t)
	if _, ok := m.open[k]; ok {
		m.decide(k, 3, -1)
	}
	m.append(t, decisionRecord(m.next(), RolledBack, m.now, k))
}

func (m *model) ask(t *rapid.T) {
	var keys []Key
	for range rapid.IntRange(0, 3).Draw(t, "n") {
		k := m.draw(t)
		keys = append(keys, k)
		if h, ok := m.open[k]; ok {
			h.Checks++
			h.AskedMillis = m.now
			m.open[k] = h
		}
	}
	m.append(t, decisionRecord(m.next(), Asked, m.now, keys...))
}

func (m *model) carry(t *rapid.T) {
	origin := m.draw(t).Origin
	r := store.Committed{Record: store.Record{Type: store.CarryRecord, Queue: store.QueueKey{Topic: origin}}, Index: m.next()}
	for k, h := range m.open {
		if k.Origin == origin {
			h.At = r.Index
			m.open[k] = h
		}
	}
	m.append(t, r)
}

func (m *model) drop(t *rapid.T) {
	topic := rapid.SampledFrom([]uint64{ours, side}).Draw(t, "topic")
	maps.DeleteFunc(m.open, func(_ Key, h Message) bool { return h.TopicID == topic })
	m.append(t, store.Committed{Record: store.Record{Type: store.TopicDeleteRecord, Queue: store.QueueKey{Topic: topic}}, Index: m.next()})
}

func (m *model) check(t *rapid.T) {
	for origin := range m.next() + 1 {
		for position := range 4 {
			k := Key{Origin: origin, Position: position}
			got, ok := m.view.Open(k)
			if want, is := m.open[k]; got != want || ok != is {
				t.Fatalf("open %v: got %+v, want %+v", k, got, want)
			}
			verdict, ok := m.view.Decided(k)
			if want, is := m.verdicts[k]; verdict != want || ok != is {
				t.Fatalf("decided %v: got %+v, want %+v", k, verdict, want)
			}
		}
	}
	sameButPlace := func(a, b Message) bool { a.At = b.At; return a == b }
	if !maps.EqualFunc(m.watched, m.open, sameButPlace) || m.view.Pending() != len(m.open) {
		t.Fatalf("the watcher has %v and %d are pending, want %v", m.watched, m.view.Pending(), m.open)
	}
	keys := slices.SortedFunc(maps.Keys(m.open), Key.Compare)
	if list, more := m.view.List(Key{}, 1000, all); more || !slices.Equal(keysOf(list), keys) {
		t.Fatalf("list: got %v, want %v", keysOf(list), keys)
	}
	m.checkPlaces(t)
}

func (m *model) checkPlaces(t *rapid.T) {
	places := map[uint64]uint64{} // origin by where it stands
	for k, h := range m.open {
		places[h.At] = k.Origin
	}
	order := slices.Sorted(maps.Keys(places))
	if len(order) == 0 {
		order = []uint64{0}
	}
	if got := m.view.OldestAt(); got != order[0] {
		t.Fatalf("the oldest stands at %d, want %d", got, order[0])
	}
	from := rapid.Uint64Range(0, m.next()).Draw(t, "from")
	before := rapid.Uint64Range(0, m.next()).Draw(t, "before")
	limit := rapid.IntRange(1, 4).Draw(t, "limit")
	order = slices.DeleteFunc(order, func(at uint64) bool { return at == 0 || at < from || at >= before })
	got := m.view.Located(from, before, limit)
	if len(got) != min(limit, len(order)) {
		t.Fatalf("%d to %d: got %v, want %v", from, before, got, order)
	}
	for i, l := range got {
		if l.At != order[i] || l.Origin != places[l.At] || int(l.Bytes) != len(m.log[l.Origin-1].Data) {
			t.Fatalf("%d to %d: got %v, want %v", from, before, got, order)
		}
	}
}
