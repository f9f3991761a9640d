package protocol

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"runtime"
	"testing"

	"pgregory.net/rapid"
)

func sampleSendResponse() *SendResponse {
	return &SendResponse{Results: []SendResult{
		{BaseOffset: 4711, StoreMillis: 1_700_000_000_123},
		{Err: &Error{Code: Busy, Remark: "12 MiB are waiting", RetryAfterMillis: 20}},
		{BaseOffset: -1, StoreMillis: 1_700_000_000_123, Index: 300},
		{BaseOffset: 4700, StoreMillis: 1_700_000_000_000, Duplicate: true, Queue: 3},
	}}
}

func sampleSendRequest() *SendRequest {
	return &SendRequest{ClientID: "host@1#a", Group: "billing", Batches: []byte("batches")}
}

func samplePullRequest() *PullRequest {
	return &PullRequest{WaitMillis: 15_000, MaxBytes: 256 << 10, MaxCount: 100, Group: "billing", ClientID: "host@1#a",
		Filters: []Filter{{Kind: FilterTag, Text: "paid || open"}},
		Queues: []PullQueue{
			{Topic: "orders", Queue: 7, Offset: 300, Fence: 9, Filter: 1},
			{Topic: "bills"},
		}}
}

func samplePullResponse() *PullResponse {
	return &PullResponse{Queues: []PulledQueue{
		{Index: 1, Next: 302, Min: 100, End: 400, Batches: []byte("batches")},
		{Index: 300, Next: 5, Min: 100, End: 400, Err: &Error{Code: OffsetOutOfRange, Remark: "5 is below 100"}, Batches: []byte{}},
	}}
}

func sampleQueryMessagesResponse() *QueryMessagesResponse {
	return &QueryMessagesResponse{Next: 4711, Damage: "segment 3", Batches: []byte("batches")}
}

func drawError(t *rapid.T, retryAfter bool) *Error {
	if rapid.Bool().Draw(t, "no error") {
		return nil
	}
	e := &Error{Code: ErrorCode(rapid.Uint16Range(1, math.MaxUint16).Draw(t, "code")), Remark: rapid.String().Draw(t, "remark")}
	if retryAfter {
		e.RetryAfterMillis = rapid.Int64().Draw(t, "retry")
	}
	return e
}

func TestSendResponse_RoundTrip(t *testing.T) {
	result := rapid.Custom(func(t *rapid.T) SendResult {
		if err := drawError(t, true); err != nil {
			return SendResult{Err: err}
		}
		r := SendResult{BaseOffset: rapid.Int64().Draw(t, "offset"), StoreMillis: rapid.Int64().Draw(t, "store"),
			Index: rapid.Uint64().Draw(t, "index"), Duplicate: rapid.Bool().Draw(t, "duplicate")}
		if r.Duplicate {
			r.Queue = rapid.IntRange(0, 1<<31-1).Draw(t, "queue")
		}
		return r
	})
	rapid.Check(t, func(t *rapid.T) {
		roundTrip(t, &SendResponse{Results: rapid.SliceOfN(result, 0, 8).Draw(t, "results")}, new(SendResponse))
	})
}

func TestPullRequest_RoundTrip(t *testing.T) {
	queue := rapid.Custom(func(t *rapid.T) PullQueue {
		return PullQueue{Topic: rapid.String().Draw(t, "topic"), Queue: rapid.IntRange(0, math.MaxInt32).Draw(t, "queue"),
			Offset: rapid.Int64Min(0).Draw(t, "offset"), Fence: rapid.Uint64().Draw(t, "fence"),
			Filter: rapid.IntRange(0, 2).Draw(t, "filter")}
	})
	filter := rapid.Custom(func(t *rapid.T) Filter {
		return Filter{Kind: FilterKind(rapid.String().Draw(t, "kind")), Text: rapid.String().Draw(t, "text")}
	})
	rapid.Check(t, func(t *rapid.T) {
		roundTrip(t, &PullRequest{
			Filters:    rapid.SliceOfN(filter, 2, 4).Draw(t, "filters"),
			WaitMillis: rapid.Int64Range(0, MaxPullWaitMillis).Draw(t, "wait"),
			MaxBytes:   rapid.Int64Range(1, MaxPullBytes).Draw(t, "bytes"),
			MaxCount:   rapid.Int64Min(0).Draw(t, "count"),
			Group:      rapid.String().Draw(t, "group"),
			ClientID:   rapid.String().Draw(t, "client"),
			Queues:     rapid.SliceOfN(queue, 0, 8).Draw(t, "queues"),
		}, new(PullRequest))
	})
}

func TestPullResponse_RoundTrip(t *testing.T) {
	queue := rapid.Custom(func(t *rapid.T) PulledQueue {
		return PulledQueue{Index: rapid.IntRange(0, MaxPullQueues-1).Draw(t, "index"), Next: rapid.Int64().Draw(t, "next"),
			Min: rapid.Int64().Draw(t, "min"), End: rapid.Int64().Draw(t, "end"), Err: drawError(t, false),
			Batches: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "batches")}
	})
	rapid.Check(t, func(t *rapid.T) {
		roundTrip(t, &PullResponse{Queues: rapid.SliceOfN(queue, 0, 8).Draw(t, "queues")}, new(PullResponse))
	})
}

func TestQueryMessagesResponse_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roundTrip(t, &QueryMessagesResponse{
			Next:    rapid.Uint64().Draw(t, "next"),
			Damage:  rapid.String().Draw(t, "damage"),
			Batches: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "batches"),
		}, new(QueryMessagesResponse))
	})
}

// roundTrip encodes v and decodes it into got.
func roundTrip(t interface{ Fatalf(string, ...any) }, v, got any) {
	b, err := Marshal(nil, v)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	if err := Unmarshal(b, got); err != nil {
		t.Fatalf("decode %+v: %v", v, err)
	}
	if !reflect.DeepEqual(got, v) {
		t.Fatalf("got %+v, want %+v", got, v)
	}
}

// decoders make an empty payload of each binary form.
var decoders = map[string]func() encoding.BinaryUnmarshaler{
	"SendRequest":  func() encoding.BinaryUnmarshaler { return new(SendRequest) },
	"SendResponse": func() encoding.BinaryUnmarshaler { return new(SendResponse) },
	"PullRequest":  func() encoding.BinaryUnmarshaler { return new(PullRequest) },
	"PullResponse": func() encoding.BinaryUnmarshaler { return new(PullResponse) },

	"PopRequest":  func() encoding.BinaryUnmarshaler { return new(PopRequest) },
	"PopResponse": func() encoding.BinaryUnmarshaler { return new(PopResponse) },
	"AckRequest":  func() encoding.BinaryUnmarshaler { return new(AckRequest) },
	"AckResponse": func() encoding.BinaryUnmarshaler { return new(AckResponse) },

	"ChangeInvisibleRequest": func() encoding.BinaryUnmarshaler { return new(ChangeInvisibleRequest) },

	"QueryMessagesResponse": func() encoding.BinaryUnmarshaler { return new(QueryMessagesResponse) },
	"CheckTransactionEvent": func() encoding.BinaryUnmarshaler { return new(CheckTransactionEvent) },
	"SendReplyRequest":      func() encoding.BinaryUnmarshaler { return new(SendReplyRequest) },
	"PushReplyRequest":      func() encoding.BinaryUnmarshaler { return new(PushReplyRequest) },
}

func samples() map[string]encoding.BinaryAppender {
	return map[string]encoding.BinaryAppender{
		"SendRequest": sampleSendRequest(), "SendResponse": sampleSendResponse(),
		"PullRequest": samplePullRequest(), "PullResponse": samplePullResponse(),
		"PopRequest": samplePopRequest(), "PopResponse": samplePopResponse(),
		"AckRequest": sampleAckRequest(), "AckResponse": sampleAckResponse(),
		"ChangeInvisibleRequest": &ChangeInvisibleRequest{AckRequest: *sampleAckRequest(), InvisibleMillis: 30_000},
		"QueryMessagesResponse":  sampleQueryMessagesResponse(),
		"CheckTransactionEvent":  sampleCheckTransactionEvent(),
		"SendReplyRequest":       &SendReplyRequest{ClientID: "host@1#a", Batch: []byte("batch")},
		"PushReplyRequest":       &PushReplyRequest{Batch: []byte("batch")},
	}
}

// openEnded are the payloads whose last field has no length, with that field in
// their samples: batches, which say their own.
var openEnded = map[string]string{
	"SendRequest": "batches", "CheckTransactionEvent": "batch", "SendReplyRequest": "batch", "PushReplyRequest": "batch",
}

func TestBinaryPayloads_EveryCutAndEveryExtensionIsRefused(t *testing.T) {
	for name, v := range samples() {
		good, err := v.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := decoders[name]().UnmarshalBinary(good); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		tail, open := openEnded[name]
		for n := range len(good) - len(tail) {
			if err := decoders[name]().UnmarshalBinary(good[:n:n]); !errors.Is(err, InvalidArgument) {
				t.Errorf("%s cut at %d: got %v", name, n, err)
			}
		}
		if open {
			continue
		}
		if err := decoders[name]().UnmarshalBinary(append(good, 0)); !errors.Is(err, InvalidArgument) {
			t.Errorf("%s with a byte more: got %v", name, err)
		}
	}
}

func TestBinaryPayloads_FalseCountsAllocateNothingLarge(t *testing.T) {
	for _, at := range []struct {
		name   string
		before []byte // what comes before the count
	}{
		{"SendResponse", nil}, {"PullRequest", []byte{0, 2, 0}}, {"PullRequest", []byte{0, 2, 0, 0, 0}}, {"PullResponse", nil},
		{"PullResponse", []byte{1, 0, 0, 0, 0, 0}}, {"QueryMessagesResponse", []byte{0}}, {"QueryMessagesResponse", []byte{0, 0}},
		{"SendRequest", nil}, {"SendRequest", []byte{0}}, {"SendReplyRequest", nil},
		{"PopRequest", []byte{0, 60, 2, 2}}, {"PopRequest", []byte{0, 60, 2, 2, 0, 0}}, {"PopRequest", []byte{0, 60, 2, 2, 0, 0, 0}},
		{"PopResponse", nil}, {"PopResponse", []byte{1, 0, 0, 0, 0, 0}}, {"PopResponse", []byte{1, 0, 0, 0, 0, 0, 0}},
		{"AckRequest", []byte{0, 0}}, {"AckRequest", []byte{0, 0, 1, 0, 0, 0}}, {"AckResponse", nil}, {"AckResponse", []byte{1, 0, 0}},
		{"ChangeInvisibleRequest", []byte{60, 0, 0}},
		{"CheckTransactionEvent", nil}, {"CheckTransactionEvent", []byte{0}},
		{"CheckTransactionEvent", []byte{0, 0, 1, 0}}, {"CheckTransactionEvent", []byte{0, 0, 1, 0, 0}},
	} {
		for _, count := range []uint64{1 << 20, 1 << 32, 1 << 62, 1 << 63, math.MaxUint64} {
			b := append(binary.AppendUvarint(bytes.Clone(at.before), count), 1, 2, 3, 4, 5, 6, 7)
			var err error
			if n := allocated(func() { err = decoders[at.name]().UnmarshalBinary(b) }); n > 4<<10 {
				t.Errorf("%s: %d bytes allocated for a count of %d", at.name, n, count)
			}
			if !errors.Is(err, InvalidArgument) {
				t.Errorf("%s with a count of %d: got %v", at.name, count, err)
			}
		}
	}
	queues := binary.AppendUvarint([]byte{0, 2, 0, 0, 0}, MaxPullQueues+1)
	queues = append(queues, make([]byte, 4*(MaxPullQueues+1))...)
	var err error
	if n := allocated(func() { err = new(PullRequest).UnmarshalBinary(queues) }); n > 4<<10 || !errors.Is(err, InvalidArgument) {
		t.Errorf("a pull of too many queues: %d bytes allocated, got %v", n, err)
	}
}

// allocated is how many bytes fn allocates.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestQueryMessagesResponse_SharesTheBatches(t *testing.T) {
	b := mustAppend(t, sampleQueryMessagesResponse())
	var got QueryMessagesResponse
	if err := got.UnmarshalBinary(b); err != nil || &got.Batches[len(got.Batches)-1] != &b[len(b)-1] {
		t.Fatalf("got a copy, %v", err)
	}
}

func TestPullRequest_Limits(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(*PullRequest)
		ok    bool
	}{
		{"as it is", func(r *PullRequest) {}, true},
		{"no filters", func(r *PullRequest) { r.Filters, r.Queues[0].Filter = nil, 0 }, true},
		{"most filters", func(r *PullRequest) { r.Filters = make([]Filter, MaxPullFilters) }, true},
		{"too many filters", func(r *PullRequest) { r.Filters = make([]Filter, MaxPullFilters+1) }, false},
		{"no such filter", func(r *PullRequest) { r.Queues[1].Filter = 2 }, false},
		{"a filter that no pull has", func(r *PullRequest) { r.Queues[1].Filter = MaxPullFilters + 1 }, false},
		{"no wait", func(r *PullRequest) { r.WaitMillis = 0 }, true},
		{"longest wait", func(r *PullRequest) { r.WaitMillis = MaxPullWaitMillis }, true},
		{"wait too long", func(r *PullRequest) { r.WaitMillis = MaxPullWaitMillis + 1 }, false},
		{"negative wait", func(r *PullRequest) { r.WaitMillis = -1 }, false},
		{"no bytes", func(r *PullRequest) { r.MaxBytes = 0 }, false},
		{"most bytes", func(r *PullRequest) { r.MaxBytes = MaxPullBytes }, true},
		{"too many bytes", func(r *PullRequest) { r.MaxBytes = MaxPullBytes + 1 }, false},
		{"negative bytes", func(r *PullRequest) { r.MaxBytes = -1 }, false},
		{"no limit of messages", func(r *PullRequest) { r.MaxCount = 0 }, true},
		{"negative count", func(r *PullRequest) { r.MaxCount = -1 }, false},
		{"negative offset", func(r *PullRequest) { r.Queues[1].Offset = -1 }, false},
		{"negative queue", func(r *PullRequest) { r.Queues[1].Queue = -1 }, false},
		{"huge queue", func(r *PullRequest) { r.Queues[1].Queue = math.MaxInt32 + 1 }, false},
		{"no queue", func(r *PullRequest) { r.Queues = nil }, true},
	}
	for _, tt := range tests {
		r := samplePullRequest()
		tt.spoil(r)
		b, err := r.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := new(PullRequest).UnmarshalBinary(b); (err == nil) != tt.ok || err != nil && !errors.Is(err, InvalidArgument) {
			t.Errorf("%s: got %v, want accepted %t", tt.name, err, tt.ok)
		}
	}
}

// Code 0 means success on the wire: no refusal may become one.
func TestBinaryPayloads_ARefusalIsNeverReadAsSuccess(t *testing.T) {
	var sent SendResponse
	if err := sent.UnmarshalBinary(mustAppend(t, &SendResponse{Results: []SendResult{{Err: &Error{}}}})); err != nil || !errors.Is(sent.Results[0].Err, SystemError) {
		t.Errorf("send: got %+v, %v", sent, err)
	}
	var pulled PullResponse
	if err := pulled.UnmarshalBinary(mustAppend(t, &PullResponse{Queues: []PulledQueue{{Err: &Error{Remark: "x"}}}})); err != nil || !errors.Is(pulled.Queues[0].Err, SystemError) {
		t.Errorf("pull: got %+v, %v", pulled, err)
	}
	code := binary.AppendUvarint(nil, 1<<16) // 0 in the 16 bits of an ErrorCode
	if err := new(SendResponse).UnmarshalBinary(append(append([]byte{1}, code...), 0, 0)); !errors.Is(err, InvalidArgument) {
		t.Errorf("send with code 65536: got %v", err)
	}
	if err := new(SendResponse).UnmarshalBinary([]byte{1, 0, 2, 0, 0, 0}); !errors.Is(err, InvalidArgument) {
		t.Errorf("send with unknown bits: got %v", err)
	}
	if err := new(PullResponse).UnmarshalBinary(append(append([]byte{1, 0, 0, 0, 0}, code...), 0, 0)); !errors.Is(err, InvalidArgument) {
		t.Errorf("pull with code 65536: got %v", err)
	}
}

// A consumer uses Index to find its own queue.
func TestPullResponse_IndexIsInBounds(t *testing.T) {
	for _, index := range []uint64{MaxPullQueues, 1 << 32, math.MaxUint64} {
		b := append(binary.AppendUvarint([]byte{1}, index), 0, 0, 0, 0, 0, 0)
		if err := new(PullResponse).UnmarshalBinary(b); !errors.Is(err, InvalidArgument) {
			t.Errorf("index %d: got %v", index, err)
		}
	}
}

func mustAppend(t *testing.T, v encoding.BinaryAppender) []byte {
	t.Helper()
	b, err := v.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzDecodeSendRequest(f *testing.F)           { fuzzPayload(f, "SendRequest") }
func FuzzDecodeSendResponse(f *testing.F)          { fuzzPayload(f, "SendResponse") }
func FuzzDecodePullRequest(f *testing.F)           { fuzzPayload(f, "PullRequest") }
func FuzzDecodePullResponse(f *testing.F)          { fuzzPayload(f, "PullResponse") }
func FuzzDecodeQueryMessagesResponse(f *testing.F) { fuzzPayload(f, "QueryMessagesResponse") }
func FuzzDecodeCheckTransactionEvent(f *testing.F) { fuzzPayload(f, "CheckTransactionEvent") }
func FuzzDecodeSendReplyRequest(f *testing.F)      { fuzzPayload(f, "SendReplyRequest") }

// fuzzPayload holds that what decodes can be encoded, and decodes to the same.
func fuzzPayload(f *testing.F, name string) {
	for _, v := range samples() {
		b, err := v.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		v := decoders[name]()
		if err := v.UnmarshalBinary(b); err != nil {
			if !errors.Is(err, InvalidArgument) {
				t.Fatalf("got %v, want InvalidArgument", err)
			}
			return
		}
		roundTrip(t, v, decoders[name]())
	})
}
