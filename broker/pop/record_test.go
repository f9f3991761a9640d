package pop

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/view"
)

var update = flag.Bool("update", false, "write testdata anew")

func sampleHandout() *Handout {
	return &Handout{
		Key: Key{Group: "billing", Topic: 300, Queue: 7}, After: 4711, Committed: 99, First: 50, Next: 120, InvisibleMillis: 30_000,
		Again: []int64{100, 103},
		Fresh: []Run{{First: 110, Count: 3}, {First: 113, Count: 1, Lane: 77}, {First: 118, Count: 1, Lane: math.MaxUint32, Waits: true}},
	}
}

func sampleAck() *Ack {
	return &Ack{Key: Key{Group: "billing", Topic: 300, Queue: 7}, Sets: []Set{{Fence: 4711, Offsets: []int64{100, 103}}, {Fence: 4800, Offsets: []int64{0}}}}
}

func sampleAgain() *Ack {
	a := sampleAck()
	a.Again, a.InvisibleMillis = true, 30_000
	return a
}

var records = []struct {
	name   string
	data   []byte
	want   any
	decode func([]byte) (any, error)
}{
	{"handout", EncodeHandout(sampleHandout()), sampleHandout(), func(b []byte) (any, error) { return DecodeHandout(b) }},
	{"ack", EncodeAck(sampleAck()), sampleAck(), func(b []byte) (any, error) { return DecodeAck(b) }},
	{"again", EncodeAck(sampleAgain()), sampleAgain(), func(b []byte) (any, error) { return DecodeAck(b) }},
}

// What is on disk stays readable: testdata/records.hex has each record and row.
func TestRecords_GoldenBytes(t *testing.T) {
	var text strings.Builder
	for _, r := range records {
		fmt.Fprintf(&text, "%s %x\n", r.name, r.data)
	}
	v := New()
	h := sampleHandout()
	h.After, h.Again = 0, nil
	v.ApplyHandout(store.Committed{Index: 4711, StoreMillis: 1_700_000_000_000}, h)
	rows := map[string]string{}
	v.Changes(func(key, value []byte) { rows[string(key[:1])] = fmt.Sprintf("%x %x", key, value) }, func(key []byte) { t.Errorf("deleted: %x", key) })
	fmt.Fprintf(&text, "row %s\nrow %s\n", rows["q"], rows["u"])
	path := filepath.Join("testdata", "records.hex")
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != text.String() {
		t.Errorf("%v; got\n%swant\n%s", err, text.String(), want)
	}
	for i, line := range strings.Split(string(want), "\n")[:len(records)] {
		b, err := hex.DecodeString(strings.Fields(line)[1])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := records[i].decode(b); err != nil || !reflect.DeepEqual(got, records[i].want) {
			t.Errorf("%s: got %+v, %v", records[i].name, got, err)
		}
	}
}

func TestRecords_EveryCutAndEveryExtensionIsRefused(t *testing.T) {
	for _, r := range records {
		for n := range r.data {
			if _, err := r.decode(r.data[:n:n]); !errors.Is(err, ErrRecord) {
				t.Errorf("%s cut at %d: %v", r.name, n, err)
			}
		}
		if _, err := r.decode(append(r.data[:len(r.data):len(r.data)], 0)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s with a byte more: %v", r.name, err)
		}
	}
}

func TestRecords_FalseFieldsAreRefused(t *testing.T) {
	head := func(first byte, more ...byte) []byte { return append([]byte{first}, more...) }
	key := []byte{1, 'g', 1, 0}
	handout := func(tail ...byte) []byte { return append(append(head(1), key...), tail...) }
	huge := binary.AppendUvarint(nil, math.MaxUint64)
	for name, b := range map[string][]byte{
		"version":            append(head(2), key...),
		"no group":           head(1, 0, 1, 0),
		"run beyond next":    handout(0, 0, 0, 5, 1, 0, 1, 3, 0, 3),
		"run of nothing":     handout(0, 0, 0, 5, 1, 0, 1, 3, 0, 0),
		"kind of run":        handout(0, 0, 0, 5, 1, 0, 1, 3, 3, 1),
		"lane 0":             handout(0, 0, 0, 5, 1, 0, 1, 3, 1, 0),
		"lane above 2^32":    handout(append([]byte{0, 0, 0, 5, 1, 0, 1, 3, 1}, binary.AppendUvarint(nil, 1<<32)...)...),
		"two runs too many":  handout(append([]byte{0, 0, 0}, append(binary.AppendUvarint(nil, 1<<40), append([]byte{1, 0, 2, 0, 0}, append(binary.AppendUvarint(nil, 1<<16), 0, 0, 1)...)...)...)...),
		"many offsets":       handout(append([]byte{0, 0, 0, 5, 1}, huge...)...),
		"offset above 2^63":  handout(append([]byte{0, 0, 0, 5, 1, 1}, huge...)...),
		"offsets above 2^63": handout(append([]byte{0, 0, 0, 5, 1, 2, 5}, binary.AppendUvarint(nil, math.MaxInt64-5)...)...),
		"committed above":    handout(append([]byte{0}, huge...)...),
		"invisible above":    handout(append([]byte{0, 0, 0, 5}, huge...)...),
		"kind of ack":        append(head(1, 2), append(key, 0)...),
		"many fences":        append(head(1, 0), append(key, huge...)...),
		"offsets of an ack":  append(head(1, 0), append(append(key, 1, 9), huge...)...),
	} {
		var errs [2]error
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, errs[0] = DecodeHandout(b)
		_, errs[1] = DecodeAck(b)
		runtime.ReadMemStats(&after)
		if !errors.Is(errs[0], ErrRecord) || !errors.Is(errs[1], ErrRecord) || after.TotalAlloc-before.TotalAlloc > 64<<10 {
			t.Errorf("%s: %v, %d bytes", name, errs, after.TotalAlloc-before.TotalAlloc)
		}
	}
	if _, err := DecodeHandout(handout(0, 0, 0, 5, 1, 0, 1, 3, 0, 2)); err != nil {
		t.Errorf("what is right: %v", err)
	}
}

// Rows that make no sense are damage, and do not become messages.
func TestLoad_RefusesWhatNobodyWrites(t *testing.T) {
	queue, block := row{Key{"g", 1, 0}, header}.bytes(), row{Key{"g", 1, 0}, 0}.bytes()
	good := []byte{10, 0, 5}
	for name, rows := range map[string][][2][]byte{
		"no queue":           {{block, {0, 0, 1, 10, 2}}},
		"key":                {{[]byte("q"), good}},
		"kind":               {{append([]byte("x"), queue[1:]...), good}},
		"long key":           {{append(queue[:len(queue):len(queue)], 0), good}},
		"short key":          {{block[:len(block)-1], good}},
		"queue cut":          {{queue, good[:2]}},
		"queue too long":     {{queue, append(good[:3:3], 0)}},
		"never handed out":   {{queue, {10, 0, 0}}},
		"begun later":        {{queue, {10, 6, 5}}},
		"message cut":        {{queue, good}, {block, {0, 0, 1, 10}}},
		"above next":         {{queue, good}, {block, {10, 0, 1, 10, 2}}},
		"of another block":   {{queue, {0xff, 0x7f, 0, 5}}, {block, {0x80, 0x02, 0, 1, 10, 2}}},
		"fence above last":   {{queue, good}, {block, {0, 0, 1, 12, 2}}},
		"fence, not handed":  {{queue, good}, {block, {0, 0, 0, 10, 2}}},
		"handed, no fence":   {{queue, good}, {block, {0, 0, 1, 0, 2}}},
		"nothing of a block": {{queue, good}, {block, {}}},
		"block beyond":       {{queue, good}, {append(block[:len(block)-8:len(block)-8], 0xff, 0, 0, 0, 0, 0, 0, 0), {0, 0, 1, 10, 2}}},
	} {
		v := New()
		var err error
		for _, r := range rows {
			err = errors.Join(err, v.Load(r[0], r[1]))
		}
		if !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
	v := New()
	if err := errors.Join(v.Load(queue, good), v.Load(block, []byte{0, 0, 1, 10, 2})); err != nil || v.Len() != 1 {
		t.Errorf("what is right: %v", err)
	}
}

// A million messages in flight, each of its own message group at worst, have room, and
// are there again when the rows are read.
func TestView_AMillionInFlight(t *testing.T) {
	const million, each = 1 << 20, 1024
	for name, c := range map[string]struct {
		lane  uint32
		n     int
		bound uint64 // of heap
	}{"without message groups": {0, million / 4, 30 << 20}, "with a group each": {1, million, 150 << 20}} {
		before := heap()
		v := New()
		k := Key{Group: "g", Topic: 1}
		for i := range int64(c.n / each) {
			h := &Handout{Key: k, After: uint64(i), Committed: -1, Next: (i + 1) * each, InvisibleMillis: 60_000}
			for o := i * each; o < h.Next; o++ {
				h.Fresh = append(h.Fresh, Run{First: o, Count: 1, Lane: c.lane * uint32(o+1)})
			}
			v.ApplyHandout(store.Committed{Index: uint64(i + 1), StoreMillis: 1_700_000_000_000 + i}, h)
		}
		path := filepath.Join(t.TempDir(), "views.db")
		flushed(t, path, v)
		used := heap() - before
		t.Logf("%s: %d MiB of heap, %d bytes a message", name, used>>20, used/uint64(c.n))
		if used > c.bound || v.Len() != c.n {
			t.Errorf("%s: %d messages have %d bytes of heap, the bound is %d", name, v.Len(), used, c.bound)
		}
		loaded := New()
		db, err := view.Open(path, loaded)
		if err != nil {
			t.Fatal(err)
		}
		p, _ := v.Progress(k)
		if got, _ := loaded.Progress(k); got != p || loaded.Len() != c.n || got.Waiting != 0 {
			t.Errorf("%s: loaded %+v, want %+v", name, got, p)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func flushed(t *testing.T, path string, v *View) {
	t.Helper()
	db, err := view.Open(path, v)
	if err == nil {
		err = errors.Join(db.Flush(1), db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
