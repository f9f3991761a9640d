package sequence

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func keyOf(producer, queue int) Key {
	return Key{Producer: uint64(producer), Queue: store.QueueKey{Topic: uint64(1 + queue/10), Queue: uint32(queue % 10)}}
}

// change is a record that a view applies.
type change struct {
	key    Key
	run    uint64
	first  int
	millis int64
	drop   uint64 // instead of all: a topic that is deleted
}

func apply(v *View, c change, index uint64) {
	if c.drop != 0 {
		v.DropTopic(c.drop)
		return
	}
	s := &batch.Sequence{Producer: c.key.Producer, Incarnation: c.run, First: uint64(c.first)}
	v.Apply(c.key, s, 2, Place{Base: int64(index) * 2, Index: index, Millis: c.millis})
}

// table keeps the rows that a view hands over.
type table map[string]string

func (tb table) take(v *View) {
	v.Changes(func(key, value []byte) { tb[string(key)] = string(value) }, func(key []byte) { delete(tb, string(key)) })
}

func (tb table) load(t interface{ Fatal(...any) }, cfg Config) *View {
	v := New(cfg)
	for _, key := range slices.Sorted(maps.Keys(tb)) {
		if err := v.Load([]byte(key), []byte(tb[key])); err != nil {
			t.Fatal(err)
		}
	}
	return v
}

func knows(v *View, k Key, run uint64, first int) bool {
	_, known, _ := v.Judge(k, &batch.Sequence{Producer: k.Producer, Incarnation: run, First: uint64(first)}, 2)
	return known
}

func TestView_ForgetsByTheTimeOfTheLog(t *testing.T) {
	v := New(Config{Expiry: time.Hour})
	hour := time.Hour.Milliseconds()
	apply(v, change{key: keyOf(1, 0), run: 1, millis: 1000}, 1)
	apply(v, change{key: keyOf(2, 0), run: 1, millis: 2000}, 2)
	apply(v, change{key: keyOf(1, 0), run: 1, first: 2, millis: 3000}, 3) // active again
	apply(v, change{key: keyOf(3, 0), run: 1, millis: 2000 + hour - 1}, 4)
	if v.Count() != 3 {
		t.Fatalf("got %d tracks a millisecond before the time, want 3", v.Count())
	}
	apply(v, change{key: keyOf(3, 0), run: 1, first: 2, millis: 2000 + hour}, 5)
	if v.Count() != 2 || knows(v, keyOf(2, 0), 1, 0) || !knows(v, keyOf(1, 0), 1, 0) || !knows(v, keyOf(3, 0), 1, 0) {
		t.Fatalf("got %d tracks, or the wrong ones", v.Count())
	}
}

// The one that was idle for longest goes, also when the order was loaded.
func TestView_ForgetsTheLongestIdle(t *testing.T) {
	cfg := Config{Limit: 3}
	for _, reload := range []bool{false, true} {
		v, rows := New(cfg), table{}
		for i, producer := range []int{5, 4, 3, 5} {
			apply(v, change{key: keyOf(producer, 0), run: 1, first: 2 * i, millis: 9}, uint64(1+i))
		}
		if reload {
			rows.take(v)
			v = rows.load(t, cfg)
		}
		apply(v, change{key: keyOf(1, 0), run: 1, millis: 9}, 5)
		if v.Count() != 3 || v.Track(keyOf(4, 0)).incarnation != 0 || !knows(v, keyOf(5, 0), 1, 6) || !knows(v, keyOf(3, 0), 1, 4) {
			t.Errorf("reload %v: got %d tracks, or the wrong one is gone", reload, v.Count())
		}
		rows.take(v)
		if len(rows) != 3 {
			t.Errorf("reload %v: got %d rows, want 3", reload, len(rows))
		}
	}
}

func TestView_AdmitsNobodyAtTheCostOfTheActive(t *testing.T) {
	v := New(Config{Limit: 3})
	grace := Grace.Milliseconds()
	for i := range 3 {
		apply(v, change{key: keyOf(i+1, 0), run: 1, millis: int64(i) * 1000}, uint64(1+i))
	}
	for _, tc := range []struct {
		name   string
		key    Key
		others int
		millis int64
		busy   bool
	}{
		{"a known one", keyOf(1, 0), 0, 0, false},
		{"the oldest is active", keyOf(9, 0), 0, grace - 1, true},
		{"the oldest is idle", keyOf(9, 0), 0, grace, false},
		{"for two, of which one is active", keyOf(9, 0), 1, grace + 999, true},
		{"for two, both idle", keyOf(9, 0), 1, grace + 1000, false},
		{"for more than there are", keyOf(9, 0), 3, 9 * grace, true},
	} {
		err := v.Admit(tc.key, tc.others, time.UnixMilli(tc.millis))
		if errors.Is(err, protocol.Busy) != tc.busy || (err == nil) == tc.busy {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
	big := New(Config{Limit: 1})
	for i := range 2 * maxLook {
		big.limit = i + 1
		apply(big, change{key: keyOf(i+1, 0), run: 1}, uint64(1+i))
	}
	if err := big.Admit(keyOf(9999, 0), maxLook, time.UnixMilli(9*grace)); !errors.Is(err, protocol.Busy) {
		t.Errorf("with more on the way than are looked at: got %v", err)
	}
	if err := big.Admit(keyOf(9999, 0), maxLook-1, time.UnixMilli(9*grace)); err != nil {
		t.Errorf("with as many on the way as are looked at: got %v", err)
	}
}

func TestView_DropTopic(t *testing.T) {
	v, rows := New(Config{}), table{}
	for i := range 20 {
		apply(v, change{key: keyOf(1, i), run: 1, millis: 9}, uint64(1+i))
	}
	rows.take(v)
	v.DropTopic(1)
	rows.take(v)
	if v.Count() != 10 || len(rows) != 10 || knows(v, keyOf(1, 9), 1, 0) || !knows(v, keyOf(1, 10), 1, 0) {
		t.Errorf("got %d tracks and %d rows, want those of the other topic", v.Count(), len(rows))
	}
}

// What a view is does not depend on when its rows were written, nor on when it
// was loaded from them.
func TestView_ReplayedFromEveryPosition(t *testing.T) {
	cfg := Config{Expiry: time.Minute, Limit: 6}
	rapid.Check(t, func(t *rapid.T) {
		var changes []change
		millis := int64(0)
		for range rapid.IntRange(1, 40).Draw(t, "changes") {
			millis += rapid.SampledFrom([]int64{0, 1, 9000, 30000}).Draw(t, "pause")
			c := change{
				key: keyOf(rapid.IntRange(1, 3).Draw(t, "producer"), rapid.SampledFrom([]int{1, 2, 11}).Draw(t, "queue")),
				run: uint64(rapid.IntRange(1, 3).Draw(t, "run")), first: rapid.IntRange(0, 30).Draw(t, "first"), millis: millis,
			}
			if rapid.IntRange(0, 19).Draw(t, "drop") == 0 {
				c = change{drop: c.key.Queue.Topic}
			}
			changes = append(changes, c)
		}
		whole, at := New(cfg), make([]table, len(changes)+1)
		at[0] = table{}
		for i, c := range changes {
			apply(whole, c, uint64(i+1))
			at[i+1] = maps.Clone(at[i])
			at[i+1].take(whole)
		}
		want := at[len(changes)]
		for from := range at {
			v, rows := at[from].load(t, cfg), maps.Clone(at[from])
			for i := from; i < len(changes); i++ {
				apply(v, changes[i], uint64(i+1))
			}
			if rows.take(v); !maps.Equal(rows, want) {
				t.Fatalf("from %d: got %d rows, want %d, or others", from, len(rows), len(want))
			}
		}
	})
}

func TestView_LoadRefusesWhatMakesNoSense(t *testing.T) {
	e := entry{index: 300, millis: 400}
	for i := range 3 {
		e.Take(step{run: uint64(1 + i/2), first: 10 * i}.sequence(), 2, Place{Base: 5, Index: 6, Millis: 7})
	}
	key, value := keyOf(1, 2).bytes(), e.value()
	if err := New(Config{}).Load(key, value); err != nil {
		t.Fatal(err)
	}
	bad := func(name string, key, value []byte) {
		t.Helper()
		if err := New(Config{}).Load(key, value); !errors.Is(err, ErrRow) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	bad("short key", key[1:], value)
	bad("long key", append(key, 0), value)
	bad("more than a value", key, append(slices.Clone(value), 0))
	for n := range value {
		bad(fmt.Sprintf("cut at %d", n), key, value[:n])
	}
	change := func(f func(*entry)) []byte {
		x := e
		x.Track = *e.Track.Clone()
		f(&x)
		return x.value()
	}
	bad("no run", key, change(func(e *entry) { e.incarnation = 0 }))
	bad("no intervals", key, change(func(e *entry) { e.spans = nil }))
	bad("an empty interval", key, change(func(e *entry) { e.spans[0].count = 0 }))
	bad("an interval beyond the last number", key, change(func(e *entry) { e.spans[0].count = 1<<64 - 1 }))
	bad("a floor above an interval", key, change(func(e *entry) { e.floor = e.spans[0].first + 1 }))
	bad("too many runs", key, change(func(e *entry) { e.fenced = make([]uint64, maxFenced+1) }))
	bad("too many intervals", key, change(func(e *entry) {
		for i := range maxSpans {
			e.spans = append(e.spans, span{first: uint64(1000 + 10*i), count: 1})
		}
	}))
}

func TestView_RowIsShort(t *testing.T) {
	v := New(Config{})
	for i := range 10_000 {
		s := &batch.Sequence{Producer: 1 << 60, Incarnation: 1 << 61, First: uint64(i) * 100}
		v.Apply(keyOf(1, 1), s, 100, Place{Base: int64(i) * 100, Index: uint64(i + 1), Millis: 1_800_000_000_000 + int64(i)})
	}
	rows := table{}
	rows.take(v)
	for _, value := range rows {
		if len(rows) != 1 || len(value) > 100 {
			t.Errorf("got %d rows, one of %d bytes", len(rows), len(value))
		}
	}
}
