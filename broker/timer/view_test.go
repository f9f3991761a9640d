package timer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

func held(t testing.TB, v *View, index, topic uint64, millis ...int64) {
	t.Helper()
	r := store.Committed{Record: store.Record{Queue: store.QueueKey{Topic: topic, Queue: 2}, Data: Encode(millis, nil)}, Index: index}
	if err := v.ApplyTimer(r); err != nil {
		t.Fatal(err)
	}
}

func recalled(t testing.TB, v *View, index uint64, at Place, storeMillis int64) {
	t.Helper()
	r := store.Committed{Record: store.Record{Data: EncodeRecall(at, message.MakeID(9, index))}, Index: index, StoreMillis: storeMillis}
	if err := v.ApplyRecall(r); err != nil {
		t.Fatal(err)
	}
}

// rows flushes a view into a map.
type rows map[string]string

func (r rows) take(v *View) {
	v.Changes(
		func(key, value []byte) { r[hex.EncodeToString(key)] = hex.EncodeToString(value) },
		func(key []byte) { delete(r, hex.EncodeToString(key)) },
	)
}

// TestRowBytes pins the layouts of the package comment.
func TestRowBytes(t *testing.T) {
	v, r := New(), rows{}
	held(t, v, 300, 7, 1_000, 900, 950, 2_000)
	recalled(t, v, 301, Place{Origin: 300, Position: 1}, 5)
	if err := v.ApplyCarry(302, 300); err != nil {
		t.Fatal(err)
	}
	r.take(v)
	want := rows{
		"6d000000000000012c": "ae0207020e03" + "00d00f" + "0163" + "00b410",
		"72000000000000012d": "ac02010705" + "0000000000000009000000000000012d",
	}
	if len(r) != len(want) {
		t.Errorf("got %d rows", len(r))
	}
	for key, value := range want {
		if r[key] != value {
			t.Errorf("row %s is %s, want %s", key, r[key], value)
		}
	}
}

func TestRowsThatMakeNoSense(t *testing.T) {
	entryKey, recallKey := append([]byte{rowMessages}, make([]byte, 8)...), append([]byte{rowRecall}, make([]byte, 8)...)
	entryKey[8], recallKey[8] = 5, 6
	e := entry{origin: 5, at: 6, topic: 1}
	e.set([]int64{10, 20})
	good := e.value()
	if err := New().Load(entryKey, good); err != nil {
		t.Fatal(err)
	}
	late := entry{origin: 5, at: 4}
	late.set([]int64{10})
	empty := entry{origin: 5, at: 6, more: &several{}}
	far := entry{origin: 5, at: 6}
	far.set(append(make([]int64, batch.MaxCount), 1))
	for name, row := range map[string][2][]byte{
		"no key":              {nil, good},
		"short key":           {entryKey[:8], good},
		"long key":            {append(bytes.Clone(entryKey), 0), good},
		"unknown kind":        {append([]byte{'x'}, entryKey[1:]...), good},
		"empty":               {entryKey, nil},
		"cut":                 {entryKey, good[:len(good)-1]},
		"too long":            {entryKey, append(bytes.Clone(good), 0)},
		"before its origin":   {entryKey, late.value()},
		"without messages":    {entryKey, empty.value()},
		"too many messages":   {entryKey, far.value()},
		"recall cut":          {recallKey, (&recall{}).value()[:19]},
		"recall too long":     {recallKey, append((&recall{}).value(), 0)},
		"recall out of range": {recallKey, (&recall{place: Place{Position: batch.MaxCount}}).value()},
	} {
		if err := New().Load(row[0], row[1]); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	v := New()
	other := bytes.Clone(entryKey)
	other[8] = 4
	if err := errors.Join(v.Load(other, good)); err != nil {
		t.Fatal(err)
	}
	if err := v.Load(entryKey, good); !errors.Is(err, ErrRecord) {
		t.Errorf("two records in one place: got %v", err)
	}
}

func TestApplyRefusesIllegibleRecords(t *testing.T) {
	v := New()
	held(t, v, 1, 1, 10)
	bad := store.Committed{Record: store.Record{Type: store.BatchRecord, Data: []byte("no record")}, Index: 2}
	for name, apply := range map[string]func(store.Committed) error{"timer": v.ApplyTimer, "recall": v.ApplyRecall, "release": v.ApplyRelease} {
		if err := apply(bad); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if v.Len() != 1 {
		t.Errorf("%d messages wait, want 1", v.Len())
	}
}

// TestRecallsAreForgotten after a day of the log's time, and when there are too
// many; not before.
func TestRecallsAreForgotten(t *testing.T) {
	day := RecallMemory.Milliseconds()
	v, r := New(), rows{}
	at := func(i uint64) Place { return Place{Origin: i} }
	for i := uint64(1); i <= 4; i++ {
		held(t, v, i, 1, 10)
	}
	recalled(t, v, 11, at(1), 1000)
	recalled(t, v, 12, at(2), 2000)
	recalled(t, v, 13, at(3), 1000+day)
	if _, ok := v.Recalled(at(1)); !ok {
		t.Error("a recall was forgotten within a day")
	}
	recalled(t, v, 14, at(4), 1001+day)
	r.take(v)
	for i, want := range []bool{false, true, true, true} {
		if _, ok := v.Recalled(at(uint64(i + 1))); ok != want {
			t.Errorf("recall %d is known: %v, want %v", i+1, ok, want)
		}
	}
	if len(r) != 3 {
		t.Errorf("%d rows, want those of 3 recalls", len(r))
	}
	const first = 100
	for i := range uint64(MaxRecalls + 5) {
		held(t, v, first+2*i, 1, 10)
		recalled(t, v, first+2*i+1, at(first+2*i), 1001+day)
	}
	r.take(v)
	for i, want := range map[uint64]bool{4: false, first: false, first + 2*4: false, first + 2*5: true, first + 2*(MaxRecalls+4): true} {
		if _, ok := v.Recalled(at(i)); ok != want {
			t.Errorf("recall of %d is known: %v, want %v", i, ok, want)
		}
	}
	if len(r) != MaxRecalls || v.recalls.Len() != MaxRecalls || len(v.recalled) != MaxRecalls {
		t.Errorf("%d rows, %d and %d recalls, want %d", len(r), v.recalls.Len(), len(v.recalled), MaxRecalls)
	}
}

// heapOf is what a view keeps for messages that are each a record of its own,
// due in random order.
func heapOf(t testing.TB, n int) int64 {
	before := heap()
	v := New()
	for i := range uint64(n) {
		held(t, v, 1+i, 1, 1_700_000_000_000+rand.Int64N(1<<36))
	}
	v.Changes(func(_, _ []byte) {}, func([]byte) {}) // a flush
	used := heap() - before
	runtime.KeepAlive(v)
	return used
}

// TestHeap: a million messages take less than 300 MiB. What they take grows with
// their number and no faster, as BenchmarkHeapOfAMillion shows.
func TestHeap(t *testing.T) {
	const n, limit = 200_000, 300 << 20 / 5
	used := heapOf(t, n)
	t.Logf("%d messages take %d bytes each", n, used/n)
	if used > limit {
		t.Errorf("%d messages take %d bytes, the limit is %d", n, used, limit)
	}
}

func BenchmarkHeapOfAMillion(b *testing.B) {
	for range b.N {
		b.ReportMetric(float64(heapOf(b, 1_000_000))/(1<<20), "MiB")
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
