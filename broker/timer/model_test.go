package timer

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/view"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// TestViewAgainstModel runs random records, flushes and restarts, each with the
// replay of the log from the position that was flushed, against plain maps.
func TestViewAgainstModel(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &model{path: filepath.Join(dir, fmt.Sprint(run, ".db")), waits: map[Place]Pending{}, recalled: map[Place]Recalled{}}
		m.open(t)
		defer func() { m.db.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"hold":      m.hold,
			"release":   m.release,
			"recall":    m.recall,
			"carry":     m.carry,
			"dropTopic": m.dropTopic,
			"flush":     m.flush,
			"restart":   m.restart,
			"":          m.check,
		})
	})
}

// model has every message by itself.
type model struct {
	path     string
	db       *view.DB
	view     *View
	log      []func(*View) error // record i+1
	places   []Place             // all that there ever were
	waits    map[Place]Pending
	recalled map[Place]Recalled
}

func (m *model) next() uint64 { return uint64(len(m.log)) + 1 }

func (m *model) append(t *rapid.T, record func(*View) error) {
	m.log = append(m.log, record)
	if err := record(m.view); err != nil {
		t.Fatalf("record %d: %v", len(m.log), err)
	}
}

func (m *model) hold(t *rapid.T) {
	index, topic := m.next(), rapid.Uint64Range(1, 3).Draw(t, "topic")
	queue := rapid.Uint32Range(0, 3).Draw(t, "queue")
	millis := rapid.SliceOfN(rapid.Int64Range(-3, 9), 1, 5).Draw(t, "millis")
	r := store.Committed{Record: store.Record{Queue: store.QueueKey{Topic: topic, Queue: queue}, Data: Encode(millis, nil)}, Index: index}
	m.append(t, func(v *View) error { return v.ApplyTimer(r) })
	for i, at := range millis {
		p := Pending{Key: Key{Millis: at, Origin: index, Position: int32(i)}, At: index, Topic: topic, Queue: queue, Bytes: uint32(len(r.Data))}
		m.places, m.waits[p.Place()] = append(m.places, p.Place()), p
	}
}

func (m *model) draw(t *rapid.T) Place {
	if len(m.places) == 0 {
		t.Skip("nothing was held yet")
	}
	return rapid.SampledFrom(m.places).Draw(t, "place")
}

// release releases messages of one origin, some of which may be gone.
func (m *model) release(t *rapid.T) {
	at := m.draw(t)
	positions := []int{at.Position}
	for p := at.Position + 1; p < 7 && rapid.Bool().Draw(t, "more"); p++ {
		positions = append(positions, p)
	}
	r := store.Committed{Record: store.Record{Type: store.BatchRecord, Data: releaseBatch(at.Origin, positions)}, Index: m.next()}
	m.append(t, func(v *View) error { return v.ApplyRelease(r) })
	for _, p := range positions {
		delete(m.waits, Place{Origin: at.Origin, Position: p})
	}
}

func releaseBatch(origin uint64, positions []int) []byte {
	b := batch.NewBuilder("", 0)
	b.Begin(&batch.Lead{Topic: "t", Release: batch.Release{Origin: origin, Positions: positions}})
	for range positions {
		b.Add(&message.Message{ID: message.MakeID(1, 1), BornTime: time.UnixMilli(0)})
	}
	return b.Finish()
}

func (m *model) recall(t *rapid.T) {
	at, id := m.draw(t), message.MakeID(m.next(), 7)
	r := store.Committed{Record: store.Record{Data: EncodeRecall(at, id)}, Index: m.next()}
	m.append(t, func(v *View) error { return v.ApplyRecall(r) })
	if p, ok := m.waits[at]; ok {
		delete(m.waits, at)
		m.recalled[at] = Recalled{Topic: p.Topic, ID: id}
	}
}

func (m *model) carry(t *rapid.T) {
	at, index := m.draw(t), m.next()
	m.append(t, func(v *View) error { return v.ApplyCarry(index, at.Origin) })
	for k, p := range m.waits {
		if k.Origin == at.Origin {
			p.At = index
			m.waits[k] = p
		}
	}
}

func (m *model) dropTopic(t *rapid.T) {
	topic := rapid.Uint64Range(1, 3).Draw(t, "topic")
	m.append(t, func(v *View) error { v.DropTopic(topic); return nil })
	maps.DeleteFunc(m.waits, func(_ Place, p Pending) bool { return p.Topic == topic })
}

func (m *model) flush(t *rapid.T) {
	if err := m.db.Flush(uint64(len(m.log))); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

func (m *model) open(t *rapid.T) {
	m.view = New()
	db, err := view.Open(m.path, m.view)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	m.db = db
	for i := db.Position(); i < uint64(len(m.log)); i++ {
		if err := m.log[i](m.view); err != nil {
			t.Fatalf("replay of record %d: %v", i+1, err)
		}
	}
}

func (m *model) restart(t *rapid.T) {
	if err := m.db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	m.open(t)
}

func (m *model) check(t *rapid.T) {
	want := slices.SortedFunc(maps.Values(m.waits), func(a, b Pending) int { return a.Compare(b.Key) })
	from := Key{Millis: rapid.Int64Range(-4, 10).Draw(t, "from")}
	m.checkFrom(t, Key{Millis: Earliest}, want)
	m.checkFrom(t, from, slices.DeleteFunc(slices.Clone(want), func(p Pending) bool { return p.Compare(from) < 0 }))
	next, ok := m.view.Next()
	if ok != (len(want) > 0) || ok && next != want[0].Millis {
		t.Fatalf("next is %d, %v; want the first of %v", next, ok, want)
	}
	topics := map[uint64]int{}
	for _, p := range want {
		topics[p.Topic]++
	}
	if m.view.Len() != len(want) || m.view.LenOf(1) != topics[1] || m.view.LenOf(2) != topics[2] {
		t.Fatalf("got %d, %d of topic 1; want %d, %v", m.view.Len(), m.view.LenOf(1), len(want), topics)
	}
	for _, at := range m.places {
		p, ok := m.view.Lookup(at)
		if w, waits := m.waits[at]; ok != waits || p != w {
			t.Fatalf("%v: got %v, %v; want %v", at, p, ok, w)
		}
		r, ok := m.view.Recalled(at)
		if w, was := m.recalled[at]; ok != was || r != w {
			t.Fatalf("%v: got recall %v, %v; want %v", at, r, ok, w)
		}
	}
	m.checkPlaces(t)
}

func (m *model) checkFrom(t *rapid.T, from Key, want []Pending) {
	limit := rapid.IntRange(1, 20).Draw(t, "limit")
	want = want[:min(limit, len(want))]
	var got []Pending
	m.view.From(from, func(p *Pending) bool { got = append(got, *p); return len(got) < limit })
	if !slices.Equal(got, want) {
		t.Fatalf("from %v: got %v, want %v", from, got, want)
	}
}

func (m *model) checkPlaces(t *rapid.T) {
	at := map[uint64]store.Located{}
	for k, p := range m.waits {
		at[p.At] = store.Located{Origin: k.Origin, At: p.At, Bytes: p.Bytes}
	}
	sorted, oldest := slices.Sorted(maps.Keys(at)), uint64(0)
	if len(sorted) > 0 {
		oldest = sorted[0]
	}
	if got := m.view.OldestAt(); got != oldest {
		t.Fatalf("the oldest record is %d, want %d", got, oldest)
	}
	from, before := rapid.Uint64Range(0, m.next()).Draw(t, "from"), rapid.Uint64Range(0, m.next()).Draw(t, "before")
	limit := rapid.IntRange(1, 5).Draw(t, "limit")
	var want []store.Located
	for _, i := range sorted {
		if i >= from && i < before && len(want) < limit {
			want = append(want, at[i])
		}
	}
	if got := m.view.Located(from, before, limit); !slices.Equal(got, want) {
		t.Fatalf("from %d before %d: got %v, want %v", from, before, got, want)
	}
}
