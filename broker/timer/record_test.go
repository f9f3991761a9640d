package timer

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

func TestTimerRecord(t *testing.T) {
	for _, millis := range [][]int64{{0}, {1_700_000_000_000}, {5, -5, math.MaxInt64, math.MinInt64 + 1}, make([]int64, batch.MaxCount)} {
		b := []byte("a batch")
		data := Encode(millis, b)
		got, rest, err := Decode(data)
		if err != nil || !slices.Equal(got, millis) || !bytes.Equal(rest, b) {
			t.Fatalf("%d times: got %d, %q: %v", len(millis), len(got), rest, err)
		}
	}
}

// TestRecordBytes pins the layouts of the package comment.
func TestRecordBytes(t *testing.T) {
	id := message.MakeID(0x0102030405060708, 0x090a0b0c0d0e0f10)
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"timer", Encode([]int64{1_000, -1}, []byte("b")), "0102d00f01" + "f639f6eb" + "62"},
		{"recall", EncodeRecall(Place{Origin: 300, Position: 2}, id), "01ac0202" + "0102030405060708090a0b0c0d0e0f10"},
	} {
		if got := hex.EncodeToString(c.data); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestTimerRecord_Damage(t *testing.T) {
	data := Encode([]int64{1_700_000_000_000, 5, 7}, nil)
	for i := range data {
		for bit := range 8 {
			bad := slices.Clone(data)
			bad[i] ^= 1 << bit
			if _, _, err := Decode(bad); !errors.Is(err, ErrRecord) {
				t.Fatalf("bit %d of byte %d: got %v", bit, i, err)
			}
		}
		if _, _, err := Decode(data[:i]); !errors.Is(err, ErrRecord) {
			t.Fatalf("cut to %d bytes: got %v", i, err)
		}
	}
	for name, bad := range map[string][]byte{
		"no messages":       Encode(nil, nil),
		"too many messages": Encode(make([]int64, batch.MaxCount+1), nil),
		"a time of no time": Encode([]int64{math.MinInt64}, nil),
	} {
		if _, _, err := Decode(bad); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestRecallRecord(t *testing.T) {
	at, id := Place{Origin: math.MaxUint64, Position: batch.MaxCount - 1}, message.MakeID(7, 8)
	data := EncodeRecall(at, id)
	gotAt, gotID, err := DecodeRecall(data)
	if err != nil || gotAt != at || gotID != id {
		t.Fatalf("got %v, %v: %v", gotAt, gotID, err)
	}
	bad := [][]byte{nil, append(slices.Clone(data), 0), append([]byte{2}, data[1:]...), EncodeRecall(Place{Origin: 1, Position: batch.MaxCount}, id)}
	for i := range data {
		bad = append(bad, data[:i])
	}
	for _, b := range bad {
		if _, _, err := DecodeRecall(b); !errors.Is(err, ErrRecord) {
			t.Errorf("%x: got %v", b, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode([]int64{1, 2}, []byte("b")))
	f.Add(EncodeRecall(Place{Origin: 1, Position: 2}, message.MakeID(1, 2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if millis, b, err := Decode(data); err == nil && (len(millis) == 0 || len(b) > len(data)) {
			t.Errorf("got %v, %x", millis, b)
		}
		if at, id, err := DecodeRecall(data); err == nil && len(EncodeRecall(at, id)) > len(data) {
			t.Errorf("got %v, %v", at, id)
		}
		v := New()
		v.Load(append([]byte{rowMessages}, make([]byte, 8)...), data)
		v.Load(append([]byte{rowRecall}, make([]byte, 8)...), data)
	})
}
