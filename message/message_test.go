package message

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestMessage_Validate(t *testing.T) {
	text := strings.Repeat
	tests := []struct {
		name string
		m    Message
		want error
	}{
		{"nothing but a topic", Message{Topic: "t"}, nil},
		{"everything", Message{Tag: "t", Keys: []string{"a", "b"}, Group: "g", Properties: map[string]string{"a": "b"}, Body: []byte("x")}, nil},
		{"largest body", Message{Body: make([]byte, MaxBodyBytes)}, nil},
		{"body one byte too large", Message{Body: make([]byte, MaxBodyBytes+1)}, ErrBodyTooLarge},
		{"largest property", Message{Properties: map[string]string{"a": text("v", MaxPropertiesBytes-3)}}, nil},
		{"property one byte too large", Message{Properties: map[string]string{"a": text("v", MaxPropertiesBytes-2)}}, ErrPropertiesTooLarge},
		{"largest tag", Message{Tag: text("t", MaxPropertiesBytes)}, nil},
		{"tag too large", Message{Tag: text("t", MaxPropertiesBytes+1)}, ErrPropertiesTooLarge},
		{"message group too large", Message{Group: text("g", MaxPropertiesBytes+1)}, ErrPropertiesTooLarge},
		{"largest correlation id", Message{CorrelationID: text("c", MaxPropertiesBytes)}, nil},
		{"correlation id too large", Message{CorrelationID: text("c", MaxPropertiesBytes+1)}, ErrPropertiesTooLarge},
		{"deduplication key and reply address too large", Message{DedupKey: "d", ReplyTo: text("c", MaxPropertiesBytes)}, ErrPropertiesTooLarge},
		{"keys at the limit", Message{Keys: []string{text("k", MaxPropertiesBytes-1)}}, nil},
		{"keys too large", Message{Keys: []string{"a", text("k", MaxPropertiesBytes-2)}}, ErrPropertiesTooLarge},
		{"together too large", Message{Tag: text("t", 20000), Properties: map[string]string{"a": text("v", 20000)}}, ErrPropertiesTooLarge},
		{"key with a space", Message{Keys: []string{"a b"}}, ErrIllegalMessage},
		{"empty key", Message{Keys: []string{"a", ""}}, ErrIllegalMessage},
		{"property without a name", Message{Properties: map[string]string{"": "v"}}, ErrIllegalMessage},
		{"property without a value", Message{Properties: map[string]string{"a": ""}}, nil},
		{"property with any bytes", Message{Properties: map[string]string{"a b\x00": "\xff\x01"}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.m.Validate(); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestMessage_PropertiesBytes(t *testing.T) {
	m := Message{Topic: "uncounted", Body: []byte("uncounted"), Tag: "tag", Group: "group",
		Keys: []string{"k1", "key2"}, Properties: map[string]string{"a": "bc", "d": ""},
		DedupKey: "1234567", CorrelationID: "12345678901", ReplyTo: "1234567890123", Priority: 9, DelayLevel: 3, ReplyBy: someTime}
	if got, want := m.PropertiesBytes(), 3+5+(2+1)+(4+1)+(1+2+2)+(1+0+2)+7+11+13; got != want {
		t.Fatalf("got %d, want %d", got, want)
	}
}

func TestQueue_CompareIsAnOrder(t *testing.T) {
	sorted := []Queue{
		{"a", "b1", 0}, {"a", "b1", 1}, {"a", "b1", 10}, {"a", "b2", 0}, {"a1", "b1", 0}, {"b", "a", 0},
	}
	for i, q := range sorted {
		for j, o := range sorted {
			if got := q.Compare(o); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%v against %v: got %d", q, o, got)
			}
		}
	}
	shuffled := []Queue{sorted[3], sorted[0], sorted[5], sorted[2], sorted[4], sorted[1]}
	slices.SortFunc(shuffled, Queue.Compare)
	if !slices.Equal(shuffled, sorted) {
		t.Errorf("got %v, want %v", shuffled, sorted)
	}
	if got := sorted[1].String(); got != "a/b1/1" {
		t.Errorf("got %q, want a/b1/1", got)
	}
}
