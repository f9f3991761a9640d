package message

import (
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// someTime is a time of delivery.
var someTime = time.UnixMilli(1_700_000_000_000)

func TestMessage_ValidateKind(t *testing.T) {
	text := strings.Repeat
	last := time.Date(9999, 12, 31, 23, 59, 59, 999_000_000, time.UTC)
	tests := []struct {
		name string
		m    Message
		want string // in the error's text; empty: it is legal
	}{
		{"group and deduplication key at their limits", Message{Group: text("g", MaxGroupNameBytes), DedupKey: text("d", MaxDedupKeyBytes)}, ""},
		{"group too long", Message{Group: text("g", MaxGroupNameBytes+1)}, "message group of 256 bytes, the limit is 255"},
		{"deduplication key too long", Message{DedupKey: text("d", MaxDedupKeyBytes+1)}, "deduplication key of 256 bytes, the limit is 255"},
		{"most keys", Message{Keys: slices.Repeat([]string{"k"}, MaxKeys)}, ""},
		{"too many keys", Message{Keys: slices.Repeat([]string{"k"}, MaxKeys+1)}, "129 keys, the limit is 128"},
		{"10,000 keys", Message{Keys: slices.Repeat([]string{"k"}, 10_000)}, "10000 keys, the limit is 128"},

		{"highest priority", Message{Priority: MaxPriority}, ""},
		{"priority too high", Message{Priority: MaxPriority + 1}, "priority 10; 0 to 9 are allowed"},
		{"priority too low", Message{Priority: -1}, "priority -1; 0 to 9 are allowed"},
		{"priority and group", Message{Priority: 1, Group: "g"}, `a message with the group "g" cannot have a priority`},
		{"priority and delay", Message{Priority: 1, Delay: time.Second}, ""},

		{"shortest delay", Message{Delay: 1}, ""},
		{"longest delay", Message{Delay: MaxDelay}, ""},
		{"delay too long", Message{Delay: MaxDelay + 1}, "delay of 8784h0m0.000000001s; 0 to 8784h0m0s are allowed"},
		{"delay of ages", Message{Delay: math.MaxInt64}, "are allowed"},
		{"negative delay", Message{Delay: -1}, "delay of -1ns; 0 to 8784h0m0s are allowed"},
		{"first delay level", Message{DelayLevel: 1}, ""},
		{"a broker's own delay level", Message{DelayLevel: MaxDelayLevel + 1}, ""},
		{"negative delay level", Message{DelayLevel: -1}, "delay level -1; they begin with 1"},
		{"time that has passed", Message{DeliverAt: someTime}, ""},
		{"time before all", Message{DeliverAt: time.Unix(math.MinInt64, 0)}, ""},
		{"last time", Message{DeliverAt: last, ReplyBy: last}, ""},
		{"time of delivery too late", Message{DeliverAt: last.Add(1)}, "the year 9999 is the last"},
		{"time of reply too late", Message{ReplyBy: last.Add(1)}, "the year 9999 is the last"},
		{"time and delay", Message{DeliverAt: someTime, Delay: 1}, "at most one of DeliverAt, Delay and DelayLevel"},
		{"time and level", Message{DeliverAt: someTime, DelayLevel: 1}, "at most one of DeliverAt, Delay and DelayLevel"},
		{"delay and level", Message{Delay: 1, DelayLevel: 1}, "at most one of DeliverAt, Delay and DelayLevel"},
		{"time and group", Message{DeliverAt: someTime, Group: "g"}, `a message with the group "g" cannot be delayed`},
		{"delay and group", Message{Delay: 1, Group: "g"}, `a message with the group "g" cannot be delayed`},
		{"level and group", Message{DelayLevel: 1, Group: "g"}, `a message with the group "g" cannot be delayed`},

		{"longest immunity", Message{CheckImmunity: MaxDelay}, ""},
		{"immunity too long", Message{CheckImmunity: MaxDelay + 1}, "check immunity of 8784h0m0.000000001s; 0 to 8784h0m0s are allowed"},
		{"negative immunity", Message{CheckImmunity: -1}, "check immunity of -1ns; 0 to 8784h0m0s are allowed"},
		{"every compression", Message{Compression: Zstd, OriginalBytes: MaxBodyBytes}, ""},
		{"unknown compression", Message{Compression: Zstd + 1}, "compression 4 of a body"},
		{"body too large before", Message{Compression: Zlib, OriginalBytes: MaxBodyBytes + 1}, "zlib of a body of 4194305 bytes; the limit is 4194304"},
		{"body of less than nothing", Message{Compression: LZ4, OriginalBytes: -1}, "lz4 of a body of -1 bytes"},
		{"request", Message{CorrelationID: "c", ReplyTo: "host@1#a", ReplyBy: someTime}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.m.Validate()
			if tt.want == "" && err != nil {
				t.Fatalf("got %v, want it accepted", err)
			}
			if tt.want != "" && (!errors.Is(err, ErrIllegalMessage) || !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("got %v, want ErrIllegalMessage with %q", err, tt.want)
			}
		})
	}
}

func TestMessage_Kind(t *testing.T) {
	tests := []struct {
		m       Message
		want    Kind
		delayed bool
	}{
		{Message{}, Normal, false},
		{Message{Tag: "t", Keys: []string{"k"}, DedupKey: "d", CheckImmunity: 1, ReplyTo: "c", Compression: Zstd}, Normal, false},
		{Message{Group: "g"}, FIFO, false},
		{Message{Priority: 1}, Priority, false},
		{Message{DeliverAt: someTime}, Delayed, true},
		{Message{Delay: 1}, Delayed, true},
		{Message{DelayLevel: 1}, Delayed, true},
		{Message{DelayLevel: 1, Priority: 9}, Delayed, true},
	}
	for _, tt := range tests {
		if got, delayed := tt.m.Kind(), tt.m.IsDelayed(); got != tt.want || delayed != tt.delayed {
			t.Errorf("%+v: got %s, delayed %t, want %s, %t", tt.m, got, delayed, tt.want, tt.delayed)
		}
	}
}

// The names are those of RocketMQ's message.type.
func TestKinds(t *testing.T) {
	want := []Kind{"NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "MIXED"}
	if got := Kinds(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestCompression_Names(t *testing.T) {
	for c, want := range map[Compression]string{0: "none", 1: "zlib", 2: "lz4", 3: "zstd", 4: "compression 4"} {
		if got := c.String(); got != want {
			t.Errorf("%d: got %s, want %s", uint8(c), got, want)
		}
	}
}

// reservedNames are RocketMQ's: what they say there is said by fields here, or by
// the broker, and a gateway for RocketMQ's clients sets them.
var reservedNames = strings.Fields(`KEYS TAGS WAIT DELAY TIMER_DELAY_SEC TIMER_DELAY_MS TIMER_DELIVER_MS UNIQ_KEY
	RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP ORIGIN_MESSAGE_ID RECONSUME_TIME MAX_RECONSUME_TIMES MIN_OFFSET
	MAX_OFFSET CONSUME_START_TIME MSG_REGION TRACE_ON CLUSTER CORRELATION_ID REPLY_TO_CLIENT TTL MSG_TYPE POP_CK
	1ST_POP_TIME __SHARDINGKEY INNER_NUM INNER_MULTI_DISPATCH INNER_MULTI_QUEUE_OFFSET TRANSACTION_CHECK_TIMES
	CHECK_IMMUNITY_TIME_IN_SECONDS __transactionId__ DLQ_ORIGIN_TOPIC DLQ_ORIGIN_MESSAGE_ID TRACE_CONTEXT INSTANCE_ID __CRC32#`)

func TestMessage_ReservedProperties(t *testing.T) {
	for _, name := range reservedNames {
		m := Message{Properties: map[string]string{"mine": "v", name: "v"}}
		if err := m.Validate(); !errors.Is(err, ErrIllegalMessage) || !strings.Contains(err.Error(), `"`+name+`" is reserved`) {
			t.Errorf("%s: got %v, want ErrIllegalMessage with the name", name, err)
		}
	}
	if got := slices.Sorted(maps.Keys(reservedProperties)); !slices.Equal(got, slices.Sorted(slices.Values(reservedNames))) {
		t.Errorf("got %v, want those of this file", got)
	}
	for _, name := range []string{"keys", "KEYS ", " KEYS", "KEYS2", "traceparent", "tracestate", "baggage", "tags"} {
		if m := (Message{Properties: map[string]string{name: "v"}}); m.Validate() != nil {
			t.Errorf("%q: got %v, want it accepted", name, m.Validate())
		}
	}
}
