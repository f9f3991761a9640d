package message

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func TestID_TextAndHalves(t *testing.T) {
	id := MakeID(0x0123456789abcdef, 42)
	if got, want := id.String(), "0123456789abcdef000000000000002a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if id.IsZero() || !(ID{}).IsZero() {
		t.Error("only the zero id is zero")
	}
	rapid.Check(t, func(t *rapid.T) {
		instance, counter := rapid.Uint64().Draw(t, "instance"), rapid.Uint64().Draw(t, "counter")
		id := MakeID(instance, counter)
		if id.Instance() != instance || id.Counter() != counter {
			t.Fatalf("halves of %s: got %x and %x, want %x and %x", id, id.Instance(), id.Counter(), instance, counter)
		}
		if got, err := ParseID(id.String()); err != nil || got != id {
			t.Fatalf("parse %s: got %s, %v", id, got, err)
		}
	})
}

func TestParseID_Refuses(t *testing.T) {
	good := strings.Repeat("a", 32)
	for _, s := range []string{"", good[1:], good + "a", good[1:] + "g", good[1:] + " ", strings.Repeat("é", 16)} {
		if id, err := ParseID(s); err == nil || !id.IsZero() {
			t.Errorf("%q: got %s, %v, want an error and no id", s, id, err)
		}
	}
}

func TestIDSource_NeverRepeats(t *testing.T) {
	const workers, each = 4, 1000
	var (
		source = NewIDSource()
		wg     sync.WaitGroup
		got    [workers][]ID
	)
	for w := range workers {
		wg.Go(func() {
			for range each {
				got[w] = append(got[w], source.Next())
			}
		})
	}
	wg.Wait()
	seen := make(map[ID]bool)
	for _, ids := range got {
		if !slices.IsSortedFunc(ids, func(a, b ID) int { return int(a.Counter()) - int(b.Counter()) }) {
			t.Error("ids of one caller do not grow")
		}
		for _, id := range ids {
			if seen[id] || id.IsZero() || id.Instance() != ids[0].Instance() {
				t.Fatalf("id %s is repeated, zero or of another instance", id)
			}
			seen[id] = true
		}
	}
	if NewIDSource().Next().Instance() == source.Next().Instance() {
		t.Error("two sources have one instance")
	}
}
