package client

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestHandle_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Handle{
			Broker: rapid.StringMatching(`[a-zA-Z0-9_-]{1,127}`).Draw(t, "broker"),
			Held: protocol.Held{
				Origin:   rapid.Uint64Min(1).Draw(t, "origin"),
				Position: rapid.IntRange(0, batch.MaxCount-1).Draw(t, "position"),
				ID:       message.MakeID(rapid.Uint64().Draw(t, "instance"), rapid.Uint64().Draw(t, "counter")).String(),
				Topic:    rapid.StringMatching(`[a-zA-Z0-9_%|-]{1,127}`).Filter(func(s string) bool { return message.CheckAnyTopic(s) == nil }).Draw(t, "topic"),
			},
		}
		s := h.String()
		if got, err := ParseHandle(s); err != nil || got != h {
			t.Fatalf("got %+v, %v; want %+v", got, err, h)
		}
		i := rapid.IntRange(0, len(s)-1).Draw(t, "at")
		c := rapid.SampledFrom([]byte("ABCabc019-_")).Draw(t, "character")
		if broken := s[:i] + string(c) + s[i+1:]; broken != s {
			if got, err := ParseHandle(broken); !errors.Is(err, ErrBadHandle) {
				t.Fatalf("changed at %d: got %+v, %v", i, got, err)
			}
		}
	})
}

// forge makes the checksum fit.
func forge(b []byte) string {
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return base64.RawURLEncoding.EncodeToString(b)
}

func TestParseHandle_Refuses(t *testing.T) {
	field := func(s string) string { return string(rune(len(s))) + s }
	id := strings.Repeat("i", 16)
	good := "\x01" + field("b") + field("t") + id + "\x01\x00"
	if h, err := ParseHandle(forge([]byte(good))); err != nil || h.Origin != 1 || h.Topic != "t" {
		t.Fatalf("%+v, %v", h, err)
	}
	for name, s := range map[string]string{
		"empty":             "",
		"not base64":        "!!!!!!!!!!!!",
		"four bytes":        base64.RawURLEncoding.EncodeToString(make([]byte, 4)),
		"too long":          strings.Repeat("A", maxHandleBytes+1),
		"newer version":     forge([]byte("\x02" + good[1:])),
		"no fields":         forge([]byte("\x01")),
		"no id":             forge([]byte("\x01" + field("b") + field("t"))),
		"no position":       forge([]byte(good[:len(good)-1])),
		"origin 0":          forge([]byte(good[:len(good)-2] + "\x00\x00")),
		"more":              forge([]byte(good + "\x00")),
		"position too high": forge(binary.AppendUvarint([]byte(good[:len(good)-1]), batch.MaxCount)),
		"broker's name":     forge([]byte("\x01" + field("a.b") + field("t") + id + "\x01\x00")),
		"topic's name":      forge([]byte("\x01" + field("b") + field("") + id + "\x01\x00")),
		"a name too long":   forge([]byte("\x01\xff\xff\x03b")),
	} {
		if h, err := ParseHandle(s); !errors.Is(err, ErrBadHandle) || !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("%s: got %+v, %v", name, h, err)
		}
	}
}

func FuzzParseHandle(f *testing.F) {
	f.Add(Handle{Broker: "b", Held: protocol.Held{Origin: 1, Topic: "t"}}.String())
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHandle(s)
		if err != nil {
			return
		}
		if again, err := ParseHandle(h.String()); err != nil || again != h {
			t.Errorf("%+v comes back as %+v, %v", h, again, err)
		}
	})
}
