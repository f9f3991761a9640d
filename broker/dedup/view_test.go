package dedup

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/transport/protocol"
)

func at(millis int64) time.Time { return time.UnixMilli(millis) }

func keyOf(i int) Key { return Key{Topic: uint64(1 + i/100), Text: fmt.Sprint("k", i%100)} }

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

func TestView_KnowsAKeyForItsWindow(t *testing.T) {
	v := New(Config{Window: time.Second})
	k := keyOf(1)
	if _, ok := v.Find(k, at(5)); ok {
		t.Error("a key is found in an empty view")
	}
	first := Place{Queue: 3, Offset: 7, Index: 1, Millis: 1000}
	v.Apply(k, first)
	for millis, want := range map[int64]bool{0: true, 1000: true, 1999: true, 2000: false, 9000: false} {
		if got, ok := v.Find(k, at(millis)); ok != want || ok && got != first {
			t.Errorf("at %d: got %v, %v", millis, got, ok)
		}
	}
	for _, other := range []Key{{Topic: k.Topic + 1, Text: k.Text}, {Topic: k.Topic, Text: k.Text + "x"}} {
		if _, ok := v.Find(other, at(1000)); ok {
			t.Errorf("%v is found", other)
		}
	}
	second := Place{Queue: 4, Offset: 8, Index: 2, Millis: 2500}
	v.Apply(k, second)
	if got, ok := v.Find(k, at(3000)); !ok || got != second || v.Count() != 1 {
		t.Errorf("the key's second message: got %v, %v, %d keys", got, ok, v.Count())
	}
}

func TestView_ForgetsWhatIsOutOfTheWindowOrTooMuch(t *testing.T) {
	cfg := Config{Window: time.Second, Limit: 4}
	for _, reload := range []bool{false, true} {
		v, rows := New(cfg), table{}
		for i, k := range []int{9, 5, 7} {
			v.Apply(keyOf(k), Place{Index: uint64(1 + i), Millis: int64(100 * i)})
		}
		if reload {
			rows.take(v)
			v = rows.load(t, cfg)
		}
		v.Apply(keyOf(1), Place{Index: 4, Millis: 1100}) // 9 and 5 are over
		rows.take(v)
		if got := slices.Sorted(maps.Keys(rows)); v.Count() != 2 || len(got) != 2 || !strings.HasSuffix(got[0], "k1") || !strings.HasSuffix(got[1], "k7") {
			t.Errorf("reload %v: got %q", reload, got)
		}
		for i := range 3 {
			v.Apply(keyOf(20+i), Place{Index: uint64(5 + i), Millis: 1100})
		}
		if _, ok := v.Find(keyOf(7), at(1100)); ok || v.Count() != 4 {
			t.Errorf("reload %v: the oldest of too many is there, of %d", reload, v.Count())
		}
	}
}

func TestView_AdmitsNobodyAtTheCostOfAKeyInItsWindow(t *testing.T) {
	v := New(Config{Window: time.Second, Limit: 3})
	for i := range 2 {
		v.Apply(keyOf(i), Place{Index: uint64(1 + i), Millis: int64(100 * i)})
	}
	check := func(name string, others int, millis int64, full bool) {
		t.Helper()
		err := v.Admit(others, at(millis))
		var e *protocol.Error
		if full && (!errors.As(err, &e) || e.Code != protocol.FlowControl || e.RetryAfter() == 0) || !full && err != nil {
			t.Errorf("%s: got %v", name, err)
		}
	}
	check("there is room", 0, 500, false)
	check("there is room for one", 1, 500, true)
	v.Apply(keyOf(2), Place{Index: 3, Millis: 200})
	check("full", 0, 999, true)
	check("full, one is over", 0, 1000, false)
	check("full, one is over for two", 1, 1000, true)
	check("full, two are over for two", 1, 1100, false)
	check("more on the way than keys", 3, 9999, true)
}

func TestView_DropTopic(t *testing.T) {
	v, rows := New(Config{}), table{}
	for i := range 6 {
		v.Apply(keyOf(40*i), Place{Index: uint64(1 + i)})
	}
	rows.take(v)
	v.DropTopic(1)
	rows.take(v)
	if _, ok := v.Find(keyOf(0), at(0)); ok || v.Count() != 3 || len(rows) != 3 {
		t.Errorf("got %d keys, %d rows", v.Count(), len(rows))
	}
}

// memory is a view that forgets nothing.
type memory map[Key]Place

func TestView_AgainstMemoryFromEveryPosition(t *testing.T) {
	cfg := Config{Window: time.Minute, Limit: 8}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "records")
		whole, m := New(cfg), memory{}
		keys, places, rows := make([]Key, n), make([]Place, n), make([]table, n+1)
		rows[0] = table{}
		millis := int64(0)
		for i := range n {
			millis += rapid.SampledFrom([]int64{0, 1, 20_000, 40_000}).Draw(t, "pause")
			keys[i] = keyOf(rapid.IntRange(0, 12).Draw(t, "key") * 10)
			places[i] = Place{Queue: uint32(i % 3), Offset: int64(i), Index: uint64(i + 1), Millis: millis}
			whole.Apply(keys[i], places[i])
			m[keys[i]] = places[i]
			rows[i+1] = maps.Clone(rows[i])
			rows[i+1].take(whole)
			m.check(t, whole, millis, cfg)
		}
		for from := range rows {
			v, got := rows[from].load(t, cfg), maps.Clone(rows[from])
			for i := from; i < n; i++ {
				v.Apply(keys[i], places[i])
			}
			if got.take(v); !maps.Equal(got, rows[n]) {
				t.Fatalf("from %d: got %d rows, want %d, or others", from, len(got), len(rows[n]))
			}
		}
	})
}

// check: a key is found just when it is in its window and among the newest.
func (m memory) check(t *rapid.T, v *View, now int64, cfg Config) {
	var newest []uint64
	for _, p := range m {
		newest = append(newest, p.Index)
	}
	slices.Sort(newest)
	newest = newest[max(0, len(newest)-cfg.Limit):]
	for k, p := range m {
		got, ok := v.Find(k, at(now))
		want := p.Millis+cfg.Window.Milliseconds() > now && slices.Contains(newest, p.Index)
		if ok != want || ok && got != p {
			t.Fatalf("%v at %d: got %v, %v; want %v, %v", k, now, got, ok, p, want)
		}
	}
}

func TestView_LoadRefusesWhatMakesNoSense(t *testing.T) {
	k, p := Key{Topic: 4, Text: "order-1"}, Place{Queue: 1<<32 - 1, Offset: 1<<63 - 1, Index: 1<<64 - 1, Millis: -5}
	key, value := k.bytes(), p.value()
	v := New(Config{})
	if err := v.Load(key, value); err != nil {
		t.Fatal(err)
	}
	if got := v.keys.Get(k); got == nil || got.Value != p {
		t.Fatalf("got %+v, want %+v", got, p)
	}
	bad := func(name string, key, value []byte) {
		t.Helper()
		if err := New(Config{}).Load(key, value); !errors.Is(err, ErrRow) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	bad("no key", key[:8], value)
	bad("short key", key[:3], value)
	bad("long key", append(slices.Clone(key), strings.Repeat("x", 255)...), value)
	bad("more than a value", key, append(slices.Clone(value), 0))
	for n := range value {
		bad(fmt.Sprintf("cut at %d", n), key, value[:n])
	}
	bad("a queue that is none", key, []byte{1, 0, 0x80, 0x80, 0x80, 0x80, 0x10, 0})
}
