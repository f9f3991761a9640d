package consumer

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rmqio/rmq/message"
)

func mustOpenLedger(t *testing.T, dir string) *ledger {
	t.Helper()
	l, err := openLedger(dir, "c", "g")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// put writes offsets to those that are there.
func put(l *ledger, offsets map[message.Queue]int64) error {
	return l.change(func(all map[message.Queue]int64) { maps.Copy(all, offsets) })
}

// ledgerOf makes a folder with a file of offsets and returns both.
func ledgerOf(t *testing.T, offsets map[message.Queue]int64) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	l := mustOpenLedger(t, dir)
	if err := put(l, offsets); err != nil {
		t.Fatal(err)
	}
	l.close()
	return dir, filepath.Join(dir, "c", "g", "offsets.json")
}

func TestLedger_Remembers(t *testing.T) {
	dir, _ := ledgerOf(t, map[message.Queue]int64{queueA: 7, queueB: 1 << 60})
	l := mustOpenLedger(t, dir)
	if at, known := l.of(queueB); !known || at != 1<<60 {
		t.Errorf("got %d, %v", at, known)
	}
	if _, known := l.of(message.Queue{Topic: "t", Broker: "b", ID: 2}); known {
		t.Error("it knows a queue that nobody wrote")
	}
	if err := errors.Join(l.forget(queueB), put(l, map[message.Queue]int64{queueA: 3})); err != nil {
		t.Fatal(err)
	}
	l.close()
	l = mustOpenLedger(t, dir)
	if want := map[message.Queue]int64{queueA: 3}; !maps.Equal(l.offsets, want) {
		t.Errorf("got %v, want %v", l.offsets, want)
	}
}

func TestLedger_IsOneMembersAlone(t *testing.T) {
	dir := t.TempDir()
	l := mustOpenLedger(t, dir)
	if _, err := openLedger(dir, "c", "g"); !errors.Is(err, ErrOffsetsInUse) || !strings.Contains(err.Error(), "held by process") {
		t.Fatalf("got %v, want ErrOffsetsInUse with the holder", err)
	}
	for _, other := range [][2]string{{"d", "g"}, {"c", "h"}, {"../c", "g"}, {"%2E.%2Fc", "g"}, {"..", ".."}, {"C", "g"}} {
		o, err := openLedger(dir, other[0], other[1])
		if err != nil {
			t.Fatalf("client %q of group %q: %v", other[0], other[1], err)
		}
		if !strings.HasPrefix(o.path, dir+string(filepath.Separator)) {
			t.Errorf("client %q: the file is %s, outside of %s", other[0], o.path, dir)
		}
		o.close()
	}
	l.close()
	mustOpenLedger(t, dir)
}

// Whatever single bit is wrong, either the file is refused or it says what it said.
func TestLedger_KnowsDamage(t *testing.T) {
	want := map[message.Queue]int64{queueA: 7, queueB: 123456}
	_, path := ledgerOf(t, want)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(good) * 8 {
		b := bytes.Clone(good)
		b[i/8] ^= 1 << (i % 8)
		state, err := decodeLedger(b)
		if err != nil {
			continue
		}
		got := map[message.Queue]int64{}
		for _, o := range state.Offsets {
			got[message.Queue{Topic: o.Topic, Broker: o.Broker, ID: o.Queue}] = o.Offset
		}
		if !maps.Equal(got, want) {
			t.Fatalf("bit %d: got %v from %s", i, got, b)
		}
	}
	for n := range len(good) - 1 {
		if _, err := decodeLedger(good[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes are taken for the file", n, len(good))
		}
	}
}

func TestLedger_RefusesWhatIsNotItsFile(t *testing.T) {
	signed := func(state string) string {
		return `{"checksum":"` + checksumOf([]byte(state)) + `","state":` + state + `}`
	}
	for name, text := range map[string]string{
		"empty":             "",
		"zeros":             strings.Repeat("\x00", 100),
		"another client's":  signed(`{"version":1,"clientId":"x","group":"g","offsets":[]}`),
		"another group's":   signed(`{"version":1,"clientId":"c","group":"x","offsets":[]}`),
		"a newer version":   signed(`{"version":2,"clientId":"c","group":"g","offsets":[]}`),
		"a negative offset": signed(`{"version":1,"clientId":"c","group":"g","offsets":[{"topic":"t","broker":"b","queue":0,"offset":-1}]}`),
		"an unknown field":  signed(`{"version":1,"clientId":"c","group":"g","offsets":[],"x":1}`),
		"two files":         signed(`{"version":1,"clientId":"c","group":"g","offsets":[]}`) + "{}",
	} {
		dir, path := ledgerOf(t, map[message.Queue]int64{queueA: 7})
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 { // the lock is given back
			if _, err := openLedger(dir, "c", "g"); !errors.Is(err, ErrOffsetsDamaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: got %v, want ErrOffsetsDamaged with the file's name", name, err)
			}
		}
	}
}

// A write that fails, or was cut short, leaves what was there.
func TestLedger_KeepsTheOldOffsets(t *testing.T) {
	dir, path := ledgerOf(t, map[message.Queue]int64{queueA: 7})
	l := mustOpenLedger(t, dir)
	if err := os.Mkdir(path+".new", 0o700); err != nil { // in the way of the new file
		t.Fatal(err)
	}
	if err := put(l, map[message.Queue]int64{queueA: 8}); err == nil {
		t.Fatal("the write did not fail")
	}
	if at, _ := l.of(queueA); at != 7 {
		t.Errorf("after a write that failed: got %d, want 7", at)
	}
	if err := errors.Join(os.Remove(path+".new"), os.WriteFile(path+".new", []byte(`{"check`), 0o600)); err != nil {
		t.Fatal(err)
	}
	l.close()
	l = mustOpenLedger(t, dir)
	if at, _ := l.of(queueA); at != 7 {
		t.Errorf("after a write that was cut short: got %d, want 7", at)
	}
	if err := put(l, map[message.Queue]int64{queueA: 9}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want a file for its user alone", info, err)
	}
}
