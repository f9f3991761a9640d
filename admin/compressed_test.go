package admin_test

import (
	"bytes"
	"testing"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/compress"
)

func TestMessages_AreDecompressed(t *testing.T) {
	c, a := orders(t)
	plain := bytes.Repeat([]byte("order "), 2000)
	e, err := compress.NewEncoder(message.Zstd)
	if err != nil {
		t.Fatal(err)
	}
	small, how := e.Compress(plain)
	good, bad := numbered(0, "", "k"), numbered(1, "", "k")
	good.Body, good.Compression, good.OriginalBytes = small, how, len(plain)
	bad.Body, bad.Compression, bad.OriginalBytes = small, how, 10 // which it is not
	store(t, c, []*message.Message{good, bad})
	check := func(m message.Stored) {
		t.Helper()
		want, as := plain, message.None
		if m.QueueOffset == 1 {
			want, as = small, message.Zstd
		}
		if !bytes.Equal(m.Body, want) || m.Compression != as {
			t.Errorf("message %d: got %d bytes of %v, want %d of %v", m.QueueOffset, len(m.Body), m.Compression, len(want), as)
		}
	}
	for offset := range int64(2) {
		m, err := a.MessageAt(t.Context(), message.Queue{Topic: "orders", Broker: "broker-a"}, offset)
		if err != nil || m.QueueOffset != offset {
			t.Fatalf("got %+v, %v", m, err)
		}
		check(m)
	}
	all := found(t, a, admin.MessageQuery{Topic: "orders", Key: "k"}, admin.Target{})
	if len(all) != 2 {
		t.Fatalf("got %d messages, want 2", len(all))
	}
	for _, m := range all {
		check(m)
	}
}
