package payload

import (
	"encoding/binary"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
)

func TestReader_TakesWhatWasPut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		number, signed := rapid.Uint64().Draw(t, "number"), rapid.Int64().Draw(t, "signed")
		text, id := rapid.StringN(0, 20, 60).Draw(t, "text"), message.MakeID(rapid.Uint64().Draw(t, "id"), 7)
		b := binary.AppendUvarint([]byte{3, 1}, number)
		b = AppendText(binary.AppendVarint(b, signed), text)
		b = append(b, id[:]...)
		r := Versioned(b, 3)
		if r.Byte(1) != 1 || r.Number(math.MaxUint64) != number || r.Signed(math.MinInt64) != signed || r.Text(0, 60) != text || r.ID() != id || !r.Done() {
			t.Fatalf("%x: not what was put", b)
		}
		cut := Versioned(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")], 3)
		cut.Byte(1)
		cut.Number(math.MaxUint64)
		cut.Signed(math.MinInt64)
		cut.Text(0, 60)
		if cut.ID(); !cut.Bad() || cut.Done() || len(cut.Rest()) != 0 {
			t.Fatal("a cut is not noticed")
		}
	})
}

func TestReader_Ranges(t *testing.T) {
	for name, take := range map[string]func(r *Reader){
		"version":    func(r *Reader) { *r = Versioned(r.Rest(), 4) },
		"byte":       func(r *Reader) { r.Byte(4) },
		"number":     func(r *Reader) { r.Number(4) },
		"signed":     func(r *Reader) { r.Signed(-2) }, // 5 is -3
		"count":      func(r *Reader) { r.Count(1) },
		"short text": func(r *Reader) { r.Text(6, 9) },
		"long text":  func(r *Reader) { r.Text(0, 4) },
		"cut text":   func(r *Reader) { r.Text(0, 9) },
		"id":         func(r *Reader) { r.ID() },
		"fail":       func(r *Reader) { r.Fail() },
	} {
		r := Of([]byte{5, 0, 0, 0})
		if take(&r); !r.Bad() || r.Done() || r.Byte(255) != 0 || r.Number(9) != 0 {
			t.Errorf("%s: got a value that is out of its range", name)
		}
	}
	r := Of([]byte{5})
	if r.Number(5) != 5 || !r.Done() {
		t.Error("a limit is not within the range")
	}
}
