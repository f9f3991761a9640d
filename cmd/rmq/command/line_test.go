package command

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
)

func stored() *message.Stored {
	return &message.Stored{
		Message: message.Message{
			Topic: "orders", Tag: "paid", Keys: []string{"42", "43"}, Group: "customer 7",
			Properties: map[string]string{"z": "last", "a": "quote \" and \\ and \x01"},
			Body:       []byte("one\ntwo\t<&> é 日本 \u2028"),
			ID:         message.MakeID(1, 2), BornTime: time.UnixMilli(1700000000123),
		},
		Queue:       message.Queue{Topic: "orders", Broker: "broker-a", ID: 3},
		QueueOffset: 99, StoreTime: time.UnixMilli(1700000000200),
	}
}

func TestLineEncoder_HasEveryFieldInOrder(t *testing.T) {
	var e lineEncoder
	out := append(e.message(nil, stored(), 2), '\n')
	out = append(e.message(out, &message.Stored{Message: message.Message{Topic: "t", Body: []byte{0xff, 0}}}, 0), '\n')
	golden(t, "line.ndjson", out)
}

func TestLine_RoundTripIsFaithful(t *testing.T) {
	var e lineEncoder
	var d lineDecoder
	text := rapid.String()
	rapid.Check(t, func(t *rapid.T) {
		in := &message.Stored{Message: message.Message{
			Topic:    "t",
			Tag:      text.Draw(t, "tag"),
			Group:    text.Draw(t, "group"),
			Priority: rapid.IntRange(0, message.MaxPriority).Draw(t, "priority"),
			Body:     rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(text, func(s string) []byte { return []byte(s) })).Draw(t, "body"),
			ID:       message.MakeID(rapid.Uint64().Draw(t, "instance"), rapid.Uint64().Draw(t, "counter")),
			BornTime: time.UnixMilli(rapid.Int64Range(1, 1<<42).Draw(t, "born")).UTC(),
		}}
		if keys := rapid.SliceOf(text).Draw(t, "keys"); len(keys) > 0 {
			in.Keys = keys
		}
		if props := rapid.MapOf(text, text).Draw(t, "properties"); len(props) > 0 {
			in.Properties = props
		}
		line := e.message(nil, in, 0)
		if bytes.Contains(line, []byte("\n")) || !json.Valid(line) {
			t.Fatalf("not one line of JSON: %q", line)
		}
		out, err := d.message(line)
		if err != nil {
			t.Fatalf("decode %s: %v", line, err)
		}
		out.Topic = "t"
		if again := e.message(nil, &message.Stored{Message: *out}, 0); !bytes.Equal(line, again) {
			t.Fatalf("got  %s\nwant %s", again, line)
		}
	})
}

func TestLineDecoder_Accepts(t *testing.T) {
	var d lineDecoder
	m, err := d.message([]byte(` { "new": {"a":[1,-0.5e+3,true,null,{}]} , "tag" : null, "topic":"x", "queue":12,
		"keys":["k"], "messageGroup":"\ud83d\ude00\/", "properties":{"p":"\u00e9"}, "bornTime":"2024-01-02T03:04:05+01:00",
		"bodyEncoding":"base64", "body":"AAH/" } `))
	if err != nil {
		t.Fatal(err)
	}
	born := time.Date(2024, 1, 2, 2, 4, 5, 0, time.UTC)
	switch {
	case m.Topic != "", m.Tag != "", len(m.Keys) != 1 || m.Keys[0] != "k", m.Group != "😀/", m.Properties["p"] != "é",
		!m.BornTime.Equal(born), !bytes.Equal(m.Body, []byte{0, 1, 255}), !m.ID.IsZero():
		t.Fatalf("got %+v", m)
	}
}

func TestLineDecoder_RefusesWithAReason(t *testing.T) {
	for line, reason := range map[string]string{
		``:                                     "ends too early",
		`[]`:                                   `'[' where '{' is expected`,
		`{"body":"x"`:                          "ends too early",
		`{"body":"x"} {}`:                      "behind the end",
		`{"body":"x`:                           "ends too early",
		`{"body":1}`:                           `"body" wants a string`,
		`{"tag":["a"]}`:                        `"tag" wants a string`,
		`{"keys":"a"}`:                         `"keys" wants an array`,
		`{"keys":[1]}`:                         `"keys" wants a string`,
		`{"properties":{"n":1}}`:               `"n" wants a string`,
		`{"messageId":"12"}`:                   "32 hexadecimal digits",
		`{"bornTime":"yesterday"}`:             "RFC 3339",
		`{"bodyEncoding":"latin1"}`:            "want utf8 or base64",
		`{"body":"?","bodyEncoding":"base64"}`: "not base64",
		`{"body":"\ud800"}`:                    "surrogate",
		`{"body":"\x"}`:                        "does not exist",
		"{\"body\":\"a\x01\"}":                 "control character",
		"{\"body\":\"\xff\"}":                  "not UTF-8",
		`{"x":01}`:                             "not a number",
		`{"x":tru}`:                            "not a JSON value",
		`{"x":` + strings.Repeat("[", 100):     "nested",
		`{,}`:                                  `"a name" wants a string`,
	} {
		var d lineDecoder
		if _, err := d.message([]byte(line)); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: got %v, want %q in it", line, err, reason)
		}
	}
}

func TestLineDecoder_KeepsNothingOfTheLine(t *testing.T) {
	var d lineDecoder
	line := []byte(`{"tag":"tag","keys":["key"],"messageGroup":"grp","properties":{"n":"v"},"body":"body"}`)
	m, err := d.message(line)
	if err != nil {
		t.Fatal(err)
	}
	clear(line)
	if m.Tag != "tag" || m.Keys[0] != "key" || m.Group != "grp" || m.Properties["n"] != "v" || string(m.Body) != "body" {
		t.Fatalf("got %+v", m)
	}
}

// FuzzLineDecoder holds the decoder to encoding/json: what it accepts is valid
// JSON with the same contents, and what it refuses is refused for a reason that
// encoding/json does not know.
func FuzzLineDecoder(f *testing.F) {
	var e lineEncoder
	f.Add(e.message(nil, stored(), 1))
	f.Add([]byte(`{"body":"\u00e9\ud83d\ude00","keys":[],"properties":{},"x":[1.5e-3,{"y":null}]}`))
	f.Add([]byte(`{"body":"AA==","bodyEncoding":"base64","bornTime":"2024-01-02T03:04:05Z"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var d lineDecoder
		m, err := d.message(line)
		if err != nil {
			return
		}
		var want struct {
			Tag          string            `json:"tag"`
			Keys         []string          `json:"keys"`
			MessageGroup string            `json:"messageGroup"`
			Properties   map[string]string `json:"properties"`
			Body         string            `json:"body"`
			BodyEncoding string            `json:"bodyEncoding"`
		}
		if !json.Valid(line) || !utf8.Valid(line) {
			t.Fatalf("accepted %q", line)
		}
		if hasFoldedOrRepeatedNames(line) || json.Unmarshal(line, &want) != nil {
			return
		}
		body := []byte(want.Body)
		if want.BodyEncoding == "base64" {
			body, _ = base64.StdEncoding.DecodeString(want.Body)
		}
		if m.Tag != want.Tag || m.Group != want.MessageGroup || !bytes.Equal(m.Body, body) || strings.Join(m.Keys, " ") != strings.Join(want.Keys, " ") {
			t.Fatalf("%s: got %+v, want %+v", line, m, want)
		}
	})
}

// hasFoldedOrRepeatedNames tells of names on which encoding/json and the
// decoder differ by design: other letter case, and the same name twice.
func hasFoldedOrRepeatedNames(line []byte) bool {
	var text jsonText
	text.reset(line)
	seen := map[string]bool{}
	bad := false
	_ = text.object(func(name []byte) error {
		folded := strings.ToLower(string(name))
		known := map[string]string{"messagegroup": "messageGroup", "bodyencoding": "bodyEncoding"}
		exact, ok := known[folded]
		if !ok {
			exact = folded
		}
		bad = bad || seen[folded] || string(name) != exact || !isASCII(name)
		seen[folded] = true
		return text.skip(0)
	})
	return bad
}

func isASCII(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func TestInterner_StaysBounded(t *testing.T) {
	var n interner
	for i := range 3 * maxInterned {
		n.intern([]byte(number(i)))
	}
	if len(n.known) > maxInterned {
		t.Fatalf("keeps %d strings", len(n.known))
	}
	long := bytes.Repeat([]byte("x"), maxInternedBytes+1)
	before := len(n.known)
	if n.intern(long) != string(long) || len(n.known) != before {
		t.Fatal("a long string is kept")
	}
}

func TestLineDecoder_FieldsThatOnlyASenderHas(t *testing.T) {
	var d lineDecoder
	m, err := d.message([]byte(`{"deliverAt":"2030-01-02T03:04:05Z","priority": 7,"dedupKey":"k"}`))
	if err != nil || !m.DeliverAt.Equal(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)) || m.Priority != 7 || m.DedupKey != "k" {
		t.Errorf("got %+v, %v", m, err)
	}
	if m, err = d.message([]byte(`{"delay":"1m30s"}`)); err != nil || m.Delay != 90*time.Second {
		t.Errorf("got %+v, %v", m, err)
	}
	for line, want := range map[string]string{
		`{"deliverAt":"soon"}`: `"deliverAt" "soon" is not a time`, `{"delay":"1"}`: `"delay" "1" is not a duration`,
		`{"priority":"1"}`: `"priority"`, `{"priority":1.5}`: `"priority"`, `{"priority":`: "", `{"priority":}`: `"priority"`,
	} {
		if _, err := d.message([]byte(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", line, err)
		}
	}
}
