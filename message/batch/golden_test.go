package batch

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rmqio/rmq/message"
)

var update = flag.Bool("update", false, "write testdata anew")

// golden compares b with testdata/name, 16 bytes a line in hexadecimal, and
// returns the file's bytes.
func golden(t *testing.T, name string, b []byte) []byte {
	t.Helper()
	var text strings.Builder
	for at := 0; at < len(b); at += 16 {
		fmt.Fprintf(&text, "% x\n", b[at:min(at+16, len(b))])
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("%s: the format changed; got\n%swant\n%s", path, text.String(), want)
	}
	old, err := hex.DecodeString(strings.Join(strings.Fields(string(want)), ""))
	if err != nil {
		t.Fatal(err)
	}
	return old
}

// These bytes are on disks and on the wire; docs/wire.md explains them.
func TestBatch_GoldenBytes(t *testing.T) {
	smallest := build("t", 0, message.Message{ID: message.MakeID(1, 2), BornTime: sample()[0].BornTime})
	stored := build("orders", 3, sample()...)
	SetStored(stored, 0x0102, 100, 1_700_000_000_456, 1)
	timed, released := goodBatches()["timed"], goodBatches()["released"]
	SetStored(released, 0x0105, 103, 1_700_003_600_001, 1)
	for name, b := range map[string][]byte{
		"smallest.hex": smallest,
		"sent.hex":     build("orders", 3, sample()...),
		"stored.hex":   stored,
		"timed.hex":    timed,
		"released.hex": released,
		"returned.hex": goodBatches()["returned"],
	} {
		old := golden(t, name, b)
		if _, err := Check(old); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, _, err := Decode(nil, golden(t, "stored.hex", stored), "a")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range sample() {
		if !equal(got[i].Message, want) || got[i].QueueOffset != 100+int64(i) || got[i].StoreTime.UnixMilli() != 1_700_000_000_456 {
			t.Errorf("message %d: got %+v, want %+v", i, got[i], want)
		}
	}
	if !bytes.Equal(golden(t, "sent.hex", build("orders", 3, sample()...))[8:crcAt], make([]byte, crcAt-8)) {
		t.Error("a producer leaves the broker's part zero")
	}
}

func TestSpecialBatches_GoldenBytes(t *testing.T) {
	timed, held := special()
	release, shown := released()
	back, failed := returned()
	for name, want := range map[string]struct {
		lead     Lead
		messages []message.Message
	}{"timed.hex": {timed, held}, "released.hex": {release, shown}, "returned.hex": {back, failed}} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
		if err != nil {
			t.Fatal(err)
		}
		h, err := Check(b)
		if err != nil || h.Purpose != want.lead.Purpose || h.Sequence != want.lead.Sequence || !reflect.DeepEqual(h.Release, want.lead.Release) {
			t.Errorf("%s: got header %+v, %v, want %+v", name, h, err, want.lead)
		}
		got, _, err := Decode(nil, b, "a")
		if err != nil || len(got) != len(want.messages) {
			t.Fatalf("%s: got %d messages, %v", name, len(got), err)
		}
		for i, m := range want.messages {
			if !equal(got[i].Message, m) {
				t.Errorf("%s: message %d: got %+v, want %+v", name, i, got[i], m)
			}
		}
	}
}
