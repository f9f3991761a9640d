package batch

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/rmqio/rmq/message"
)

func TestDecodeVerified_IsDecode(t *testing.T) {
	var all []byte
	var want []message.Stored
	for _, b := range goodBatches() {
		all = append(all, b...)
	}
	for rest := all; len(rest) > 0; {
		var err error
		if want, rest, err = Decode(want, rest, "a"); err != nil {
			t.Fatal(err)
		}
	}
	n, err := VerifyAll(all)
	if err != nil || n != len(want) {
		t.Fatalf("got %d messages, %v, want %d", n, err, len(want))
	}
	got := make([]message.Stored, 0, n)
	place := func() *message.Stored {
		got = got[:len(got)+1]
		return &got[len(got)-1]
	}
	for rest := all; len(rest) > 0; {
		if rest, err = DecodeVerified(rest, "a", place); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// Memory is made for as many messages as a header tells of.
func TestVerifyAll_RefusesMoreMessagesThanBytesCanHold(t *testing.T) {
	m := raw("", 0)
	if n, err := VerifyAll(forge(4, m, m, m)); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("4 messages in the bytes of 3: got %d, %v", n, err)
	}
	for _, b := range goodBatches() {
		cut := append(bytes.Clone(b), b[:len(b)-1]...)
		if n, err := VerifyAll(cut); err == nil {
			t.Fatalf("second batch cut: got %d messages", n)
		}
		bad := slices.Concat(b, b)
		bad[len(bad)-1] ^= 1
		if n, err := VerifyAll(bad); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("second batch damaged: got %d messages, %v", n, err)
		}
	}
}
