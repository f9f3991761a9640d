package store

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// TestLog_AgainstModel appends, reads, closes and opens at random, with segments
// so small that they are sealed all the time, and compares with a model: the
// number of messages of each queue.
func TestLog_AgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "log")
		if err != nil {
			rt.Fatal(err)
		}
		o := Options{FirstSegmentBytes: 64 << 10, SegmentBytes: 128 << 10, TailBytes: int64(rapid.SampledFrom([]int{1, 8 << 10, 1 << 20}).Draw(rt, "tail"))}
		var applied uint64
		o.Apply = func(c Committed) error {
			if c.Index != applied+1 {
				return fmt.Errorf("record %d after %d", c.Index, applied)
			}
			applied = c.Index
			return nil
		}
		l, err := Open(dir, o)
		if err != nil {
			rt.Fatal(err)
		}
		defer func() { l.Close() }()
		model := map[uint32]int64{}
		records := uint64(0)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				q := uint32(rapid.IntRange(0, 5).Draw(rt, "queue"))
				n := rapid.IntRange(1, 20).Draw(rt, "messages")
				size := rapid.SampledFrom([]int{24, 300, 3000}).Draw(rt, "size")
				c, err := appendWait(t, l, messages(q, int(model[q]), n, size))
				records++
				if err != nil || c.BaseOffset != model[q] || c.Index != records {
					rt.Fatalf("got index %d offset %d, want %d and %d: %v", c.Index, c.BaseOffset, records, model[q], err)
				}
				model[q] += int64(n)
			},
			"append other": func(rt *rapid.T) {
				if _, err := appendWait(t, l, Record{Type: GroupRecord, Data: bytes.Repeat([]byte{1}, rapid.IntRange(0, 5000).Draw(rt, "size"))}); err != nil {
					rt.Fatal(err)
				}
				records++
			},
			"read": func(rt *rapid.T) {
				q := uint32(rapid.IntRange(0, 6).Draw(rt, "queue"))
				from := rapid.Int64Range(0, model[q]).Draw(rt, "offset")
				if end, err := readAll(l, q, from); err != nil || end != model[q] {
					rt.Fatalf("queue %d from %d: got %d, want %d: %v", q, from, end, model[q], err)
				}
			},
			"reopen": func(rt *rapid.T) {
				if err := l.Close(); err != nil {
					rt.Fatal(err)
				}
				if applied != records {
					rt.Fatalf("the views have %d of %d records", applied, records)
				}
				o.Position = rapid.Uint64Range(0, records).Draw(rt, "position")
				applied = o.Position
				var err error
				if l, err = Open(dir, o); err != nil {
					rt.Fatal(err)
				}
				if applied != records {
					rt.Fatalf("opening brought the views to %d of %d", applied, records)
				}
			},
		})
	})
}

// TestLog_RecordLargerThanASegment is stored in a segment of its own, which
// outgrows its capacity.
func TestLog_RecordLargerThanASegment(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	mustAppend(t, l, messages(0, 0, 1, 100))
	mustAppend(t, l, messages(0, 1, 1, 4<<20))
	mustAppend(t, l, messages(0, 2, 1, 4<<20))
	mustAppend(t, l, messages(0, 3, 1, 100))
	wantQueue(t, l, 0, 0, 4)
	mustClose(t, l)
	l = mustOpen(t, dir, small())
	wantQueue(t, l, 0, 0, 4)
}

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	text := []byte(hex.Dump(got))
	if *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(text, want) {
		t.Errorf("%s: %v; got\n%swant\n%s", name, err, text, want)
	}
}

func goldenChunk() *chunk {
	r := func(index uint64, r Record, base, millis int64) *pending {
		return &pending{Committed: Committed{Record: r, Index: index, BaseOffset: base, StoreMillis: millis}}
	}
	return encodeChunk([]*pending{
		r(41, Record{Type: BatchRecord, Queue: QueueKey{Topic: 7, Queue: 3}, Count: 2, TagHash: 0xabcdef01, Data: []byte("batch")}, 100, 1700000000000),
		r(42, Record{Type: OffsetsRecord, Data: []byte("offsets")}, 0, 1700000000005),
	}, 0x11223344, newNewest(0).buffer)
}

func TestChunk_Golden(t *testing.T) {
	c := goldenChunk()
	golden(t, "chunk-index.hex", c.index)
	golden(t, "chunk-data.hex", c.data)
	golden(t, "sealed-row.hex", appendSealedRow(nil, &location{base: 100, count: 2, tagHash: 0xabcdef01, chunk: 41, pos: 5, len: 7, millis: 1700000000000}))
	golden(t, "block-key.hex", blockKey(QueueKey{Topic: 7, Queue: 3}, 100))
	golden(t, "queue-ends.hex", queueEnds{7: {12, 0, 5}}.encode())
}

func TestChunk_RoundTrip(t *testing.T) {
	c := goldenChunk()
	got, err := decodeChunk(41, c.data, c.index, 0x11223344)
	if err != nil {
		t.Fatal(err)
	}
	if r := got.record(0); r.Index != 41 || r.BaseOffset != 100 || r.Queue != (QueueKey{7, 3}) || string(r.Data) != "batch" || r.Count != 2 {
		t.Errorf("record 41: %+v", r)
	}
	if r := got.record(1); r.Index != 42 || r.Type != OffsetsRecord || r.StoreMillis != 1700000000005 || string(r.Data) != "offsets" {
		t.Errorf("record 42: %+v", r)
	}
	for name, bad := range map[string]func() (*chunk, error){
		"another predecessor": func() (*chunk, error) { return decodeChunk(41, c.data, c.index, 1) },
		"another place":       func() (*chunk, error) { return decodeChunk(40, c.data, c.index, 0x11223344) },
		"less data":           func() (*chunk, error) { return decodeChunk(41, c.data[1:], c.index, 0x11223344) },
		"no index":            func() (*chunk, error) { return decodeChunk(41, c.data, nil, 0x11223344) },
	} {
		if _, err := bad(); err == nil {
			t.Errorf("%s: not found", name)
		}
	}
}

func FuzzDecodeChunk(f *testing.F) {
	c := goldenChunk()
	f.Add(c.data, c.index)
	f.Fuzz(func(t *testing.T, data, index []byte) {
		got, err := decodeChunk(41, data, index, 0x11223344)
		if err != nil {
			return
		}
		for i := range got.rows() {
			got.record(i)
		}
	})
}

func FuzzDecodeEnds(f *testing.F) {
	f.Add(queueEnds{7: {12, 0, 5}}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if ends, err := decodeEnds(b); err == nil && len(b) > 0 && len(ends) == 0 {
			t.Errorf("%d bytes gave no queues", len(b))
		}
	})
}
