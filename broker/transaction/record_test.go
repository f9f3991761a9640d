package transaction

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// halves is a batch of half messages; their ids count from first.
func halves(first uint64, n int) []byte {
	b := batch.NewBuilder("", 0)
	b.Begin(&batch.Lead{Topic: "orders", Queue: 3, Purpose: batch.ToTransaction})
	for i := range n {
		b.Add(&message.Message{ID: id(first + uint64(i)), BornTime: time.UnixMilli(1), Body: []byte("b")})
	}
	return b.Finish()
}

func id(n uint64) message.ID { return message.MakeID(7, n) }

// TestRecordBytes pins the bytes that the package comment shows.
func TestRecordBytes(t *testing.T) {
	b := halves(1, 2)
	half := append([]byte{1, 2, 'g', '1', 2, 0, 0xd0, 0x0f, 0x07, 0x4e, 0x55, 0x6e}, b...)
	for _, c := range []struct {
		name      string
		got, want []byte
	}{
		{"half", EncodeHalf(&Half{Group: "g1", ImmunityMillis: []int64{0, 1000}, Batch: b}), half},
		{"asked", EncodeDecision(Asked, Key{Origin: 300, Position: 1}, Key{Origin: 2}), []byte{1, 0, 2, 0xac, 0x02, 1, 2, 0}},
		{"rolled back", EncodeDecision(RolledBack, Key{Origin: 300, Position: 1}), []byte{1, 1, 1, 0xac, 0x02, 1}},
		{"without effect", EncodeDecision(Asked), []byte{1, 0, 0}},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("%s: got %x, want %x", c.name, c.got, c.want)
		}
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	want := Half{Group: strings.Repeat("g", maxNameBytes), ImmunityMillis: []int64{0, message.MaxDelay.Milliseconds(), 5}, Batch: halves(1, 3)}
	if got, err := DecodeHalf(EncodeHalf(&want)); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("half: got %v, %v", got, err)
	}
	keys := []Key{{Origin: math.MaxUint64, Position: batch.MaxCount - 1}, {Origin: 1}}
	if d, got, err := DecodeDecision(EncodeDecision(RolledBack, keys...)); err != nil || d != RolledBack || !reflect.DeepEqual(got, keys) {
		t.Errorf("decision: got %d, %v, %v", d, got, err)
	}
}

// TestBadRecords cuts records at each byte, changes each byte, and adds one.
func TestBadRecords(t *testing.T) {
	half := EncodeHalf(&Half{Group: "g1", ImmunityMillis: []int64{0, 1000}, Batch: halves(1, 2)})
	decision := EncodeDecision(RolledBack, Key{Origin: 300, Position: 1}, Key{Origin: 2})
	decodeHalf := func(b []byte) error { _, err := DecodeHalf(b); return err }
	decodeDecision := func(b []byte) error { _, _, err := DecodeDecision(b); return err }
	for name, r := range map[string]struct {
		data   []byte
		decode func([]byte) error
	}{"half": {half, decodeHalf}, "decision": {decision, decodeDecision}} {
		for n := range r.data {
			if err := r.decode(r.data[:n]); !errors.Is(err, ErrRecord) {
				t.Errorf("%s cut to %d bytes: got %v, want ErrRecord", name, n, err)
			}
		}
		if err := r.decode(append(bytes.Clone(r.data), 0)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s with a byte too many: got %v, want ErrRecord", name, err)
		}
	}
	for i := range len(half) - len(halves(1, 2)) {
		bad := bytes.Clone(half)
		bad[i] ^= 1
		if err := decodeHalf(bad); !errors.Is(err, ErrRecord) {
			t.Errorf("half with byte %d changed: got %v, want ErrRecord", i, err)
		}
	}
	for name, bad := range map[string][]byte{
		"version":               {2, 0, 0},
		"decision":              {1, 2, 0},
		"position too high":     {1, 1, 1, 1, 0x80, 0x80, 0x04},
		"more keys than bytes":  {1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1},
		"a key without its end": {1, 1, 1, 1},
	} {
		if err := decodeDecision(bad); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v, want ErrRecord", name, err)
		}
	}
	short := EncodeHalf(&Half{Group: "g1", ImmunityMillis: []int64{0}, Batch: halves(1, 2)})
	if err := decodeHalf(short); !errors.Is(err, ErrRecord) {
		t.Errorf("one time for two messages: got %v, want ErrRecord", err)
	}
}
