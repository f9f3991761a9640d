package protocol

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/rmqio/rmq/message"
	"pgregory.net/rapid"
)

func sampleCheckTransactionEvent() *CheckTransactionEvent {
	return &CheckTransactionEvent{Broker: "broker-a", Group: "billing", Check: 2, Batch: []byte("batch"),
		Held: Held{Origin: 300, Position: 7, ID: "0000000000000001000000000000002a", Topic: "orders"}}
}

func drawBytes(t *rapid.T, label string) []byte {
	return rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, label)
}

func TestCheckTransactionEvent_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roundTrip(t, &CheckTransactionEvent{
			Broker: rapid.String().Draw(t, "broker"),
			Group:  rapid.String().Draw(t, "group"),
			Held: Held{Origin: rapid.Uint64().Draw(t, "origin"), Position: rapid.IntRange(0, 1<<16-1).Draw(t, "position"),
				ID: rapid.String().Draw(t, "id"), Topic: rapid.String().Draw(t, "topic")},
			Check: rapid.IntRange(0, math.MaxInt32).Draw(t, "check"),
			Batch: drawBytes(t, "batch"),
		}, new(CheckTransactionEvent))
	})
}

func TestSendRequest_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &SendRequest{
			ClientID: rapid.StringN(0, 20, message.MaxClientIDBytes).Draw(t, "client"),
			Group:    rapid.StringN(0, 20, message.MaxGroupBytes).Draw(t, "group"),
			Batches:  drawBytes(t, "batches"),
		}
		roundTrip(t, want, new(SendRequest))
		b := append(AppendSender([]byte("x"), want.ClientID, want.Group), want.Batches...)
		if whole := mustMarshalInto(t, []byte("x"), want); string(b) != string(whole) {
			t.Fatalf("AppendSender: got % x, want % x", b, whole)
		}
	})
}

func mustMarshalInto(t *rapid.T, dst []byte, v any) []byte {
	b, err := Marshal(dst, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestReplies_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringN(0, 20, message.MaxClientIDBytes).Draw(t, "client")
		batch := drawBytes(t, "batch")
		roundTrip(t, &SendReplyRequest{ClientID: id, Batch: batch}, new(SendReplyRequest))
		roundTrip(t, &PushReplyRequest{Batch: batch}, new(PushReplyRequest))
	})
}

// What carries batches does not copy them.
func TestBinaryPayloads_ShareTheirBatches(t *testing.T) {
	for name := range openEnded {
		b := mustAppend(t, samples()[name])
		got := decoders[name]()
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		v := reflect.ValueOf(got).Elem()
		field := v.FieldByName("Batch")
		if !field.IsValid() {
			field = v.FieldByName("Batches")
		}
		if shared := field.Bytes(); &shared[len(shared)-1] != &b[len(b)-1] {
			t.Errorf("%s: got a copy", name)
		}
	}
}

func TestNames_OfRequestsHaveLimits(t *testing.T) {
	text := strings.Repeat
	tests := []struct {
		name string
		v    any
		into any
		ok   bool
	}{
		{"longest names of a sender", &SendRequest{ClientID: text("c", 255), Group: text("g", 120)}, new(SendRequest), true},
		{"client too long", &SendRequest{ClientID: text("c", 256)}, new(SendRequest), false},
		{"group too long", &SendRequest{Group: text("g", 121)}, new(SendRequest), false},
		{"longest client of a reply", &SendReplyRequest{ClientID: text("c", 255)}, new(SendReplyRequest), true},
		{"client of a reply too long", &SendReplyRequest{ClientID: text("c", 256)}, new(SendReplyRequest), false},
	}
	for _, tt := range tests {
		b := mustMarshal(t, tt.v)
		if err := Unmarshal(b, tt.into); (err == nil) != tt.ok || err != nil && !errors.Is(err, InvalidArgument) {
			t.Errorf("%s: got %v, want accepted %t", tt.name, err, tt.ok)
		}
	}
}

func TestCheckTransactionEvent_Limits(t *testing.T) {
	event := func(position, check uint64) []byte {
		b := append(binary.AppendUvarint([]byte{0, 0, 1}, position), 0, 0)
		return binary.AppendUvarint(b, check)
	}
	for _, tt := range []struct {
		b  []byte
		ok bool
	}{
		{event(1<<16-1, 1<<31), true}, {event(1<<16, 1), false}, {event(1, 1<<31+1), false}, {event(math.MaxUint64, 1), false},
	} {
		if err := new(CheckTransactionEvent).UnmarshalBinary(tt.b); (err == nil) != tt.ok {
			t.Errorf("% x: got %v, want accepted %t", tt.b, err, tt.ok)
		}
	}
}

// Words in JSON that programs and scripts depend on.
func TestWords(t *testing.T) {
	got := mustMarshal(t, []any{Commit, Rollback, Unknown, QuotaOfGroup, QuotaOfClient})
	if want := `["commit","rollback","unknown","producerGroup","client"]`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A topic without quota and type looks as it did before there were any.
func TestTopicConfig_LeavesOutWhatIsNotSet(t *testing.T) {
	got, err := json.Marshal(TopicConfig{Name: "a", ReadQueues: 1, WriteQueues: 2, Perm: message.PermReadWrite})
	if want := `{"name":"a","readQueues":1,"writeQueues":2,"perm":6}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
