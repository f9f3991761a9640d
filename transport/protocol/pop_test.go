package protocol

import (
	"errors"
	"math"
	"testing"

	"pgregory.net/rapid"
)

func samplePopRequest() *PopRequest {
	return &PopRequest{WaitMillis: 15_000, InvisibleMillis: 30_000, MaxCount: 32, MaxBytes: 256 << 10, Group: "billing", ClientID: "host@1#a",
		Filters: []Filter{{Kind: FilterTag, Text: "paid || open"}},
		Topics:  []PopTopic{{Topic: "orders", Filter: 1}, {Topic: "bills"}}}
}

func samplePopResponse() *PopResponse {
	return &PopResponse{Queues: []PoppedQueue{
		{Topic: 1, Queue: 7, Fence: 4711, Messages: []PoppedMessage{{Offset: 300, Attempt: 2}, {Offset: 305, Attempt: 1}}, Batches: []byte("batches")},
		{Queue: 3, Err: &Error{Code: Conflict, Remark: "leased"}, Messages: []PoppedMessage{}, Batches: []byte{}},
	}}
}

func sampleAckRequest() *AckRequest {
	return &AckRequest{Group: "billing", ClientID: "host@1#a", Queues: []AckQueue{
		{Topic: "orders", Queue: 7, Fence: 4711, Offsets: []int64{300, 305}}, {Topic: "bills"},
	}}
}

func sampleAckResponse() *AckResponse {
	return &AckResponse{Queues: []AckedQueue{{Expired: []int64{305}}, {Err: &Error{Code: NotFound, Remark: "never"}}, {}}}
}

func drawOffsets(t *rapid.T) []int64 {
	offsets := rapid.SliceOfN(rapid.Int64Range(0, math.MaxInt64), 0, 5).Draw(t, "offsets")
	if len(offsets) == 0 {
		return nil
	}
	return offsets
}

func TestPop_RoundTrips(t *testing.T) {
	topic := rapid.Custom(func(t *rapid.T) PopTopic {
		return PopTopic{Topic: rapid.String().Draw(t, "topic"), Filter: rapid.IntRange(0, 1).Draw(t, "filter")}
	})
	message := rapid.Custom(func(t *rapid.T) PoppedMessage {
		return PoppedMessage{Offset: rapid.Int64Min(0).Draw(t, "offset"), Attempt: rapid.IntRange(1, math.MaxInt32).Draw(t, "attempt")}
	})
	popped := rapid.Custom(func(t *rapid.T) PoppedQueue {
		return PoppedQueue{Topic: rapid.IntRange(0, MaxPopTopics-1).Draw(t, "topic"), Queue: rapid.IntRange(0, math.MaxInt32).Draw(t, "queue"),
			Err: drawError(t, false), Fence: rapid.Uint64().Draw(t, "fence"), Messages: rapid.SliceOfN(message, 0, 5).Draw(t, "messages"),
			Batches: rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "batches")}
	})
	handles := rapid.Custom(func(t *rapid.T) AckQueue {
		return AckQueue{Topic: rapid.String().Draw(t, "topic"), Queue: rapid.IntRange(0, math.MaxInt32).Draw(t, "queue"),
			Fence: rapid.Uint64().Draw(t, "fence"), Offsets: drawOffsets(t)}
	})
	acked := rapid.Custom(func(t *rapid.T) AckedQueue { return AckedQueue{Err: drawError(t, false), Expired: drawOffsets(t)} })
	rapid.Check(t, func(t *rapid.T) {
		roundTrip(t, &PopRequest{
			WaitMillis:      rapid.Int64Range(0, MaxPullWaitMillis).Draw(t, "wait"),
			InvisibleMillis: rapid.Int64Range(MinInvisibleMillis, MaxInvisibleMillis).Draw(t, "invisible"),
			MaxCount:        rapid.Int64Range(1, MaxPopCount).Draw(t, "count"),
			MaxBytes:        rapid.Int64Range(1, MaxPullBytes).Draw(t, "bytes"),
			Group:           rapid.String().Draw(t, "group"), ClientID: rapid.String().Draw(t, "client"),
			Filters: []Filter{{Kind: FilterSQL, Text: rapid.String().Draw(t, "text")}},
			Topics:  rapid.SliceOfN(topic, 1, 4).Draw(t, "topics"),
		}, new(PopRequest))
		roundTrip(t, &PopResponse{Queues: rapid.SliceOfN(popped, 0, 4).Draw(t, "popped")}, new(PopResponse))
		ack := AckRequest{Group: rapid.String().Draw(t, "group"), Queues: rapid.SliceOfN(handles, 0, 4).Draw(t, "handles")}
		roundTrip(t, &ack, new(AckRequest))
		millis := rapid.Int64Range(MinInvisibleMillis, MaxInvisibleMillis).Draw(t, "millis")
		roundTrip(t, &ChangeInvisibleRequest{AckRequest: ack, InvisibleMillis: millis}, new(ChangeInvisibleRequest))
		roundTrip(t, &AckResponse{Queues: rapid.SliceOfN(acked, 0, 4).Draw(t, "acked")}, new(AckResponse))
	})
}

// Each limit is met, and one more is refused.
func TestPop_Limits(t *testing.T) {
	pop := func(change func(*PopRequest)) func() error {
		return func() error {
			r := samplePopRequest()
			change(r)
			return new(PopRequest).UnmarshalBinary(mustAppend(t, r))
		}
	}
	change := func(millis int64) func() error {
		return func() error {
			r := &ChangeInvisibleRequest{AckRequest: *sampleAckRequest(), InvisibleMillis: millis}
			return new(ChangeInvisibleRequest).UnmarshalBinary(mustAppend(t, r))
		}
	}
	ack := func(queues, offsets int, first int64) func() error {
		return func() error {
			r := &AckRequest{Queues: make([]AckQueue, queues)}
			for i := range r.Queues {
				r.Queues[i].Offsets = make([]int64, offsets)
				for j := range offsets {
					r.Queues[i].Offsets[j] = first + int64(j)
				}
			}
			return new(AckRequest).UnmarshalBinary(mustAppend(t, r))
		}
	}
	const year = 365 * 24 * 3600 * 1000
	for name, c := range map[string]struct{ good, bad func() error }{
		"wait":              {pop(func(r *PopRequest) { r.WaitMillis = MaxPullWaitMillis }), pop(func(r *PopRequest) { r.WaitMillis = MaxPullWaitMillis + 1 })},
		"no wait":           {pop(func(r *PopRequest) { r.WaitMillis = 0 }), pop(func(r *PopRequest) { r.WaitMillis = -1 })},
		"invisible":         {pop(func(r *PopRequest) { r.InvisibleMillis = MinInvisibleMillis }), pop(func(r *PopRequest) { r.InvisibleMillis = MinInvisibleMillis - 1 })},
		"invisible for 0":   {pop(func(*PopRequest) {}), pop(func(r *PopRequest) { r.InvisibleMillis = 0 })},
		"long invisible":    {pop(func(r *PopRequest) { r.InvisibleMillis = MaxInvisibleMillis }), pop(func(r *PopRequest) { r.InvisibleMillis = MaxInvisibleMillis + 1 })},
		"invisible, a year": {pop(func(*PopRequest) {}), pop(func(r *PopRequest) { r.InvisibleMillis = year })},
		"count":             {pop(func(r *PopRequest) { r.MaxCount = MaxPopCount }), pop(func(r *PopRequest) { r.MaxCount = MaxPopCount + 1 })},
		"count of 2^31":     {pop(func(*PopRequest) {}), pop(func(r *PopRequest) { r.MaxCount = 1 << 31 })},
		"no count":          {pop(func(r *PopRequest) { r.MaxCount = 1 }), pop(func(r *PopRequest) { r.MaxCount = 0 })},
		"bytes":             {pop(func(r *PopRequest) { r.MaxBytes = MaxPullBytes }), pop(func(r *PopRequest) { r.MaxBytes = MaxPullBytes + 1 })},
		"no bytes":          {pop(func(r *PopRequest) { r.MaxBytes = 1 }), pop(func(r *PopRequest) { r.MaxBytes = 0 })},
		"topics":            {pop(func(r *PopRequest) { r.Topics = make([]PopTopic, MaxPopTopics) }), pop(func(r *PopRequest) { r.Topics = make([]PopTopic, MaxPopTopics+1) })},
		"no topics":         {pop(func(r *PopRequest) { r.Topics = r.Topics[:1] }), pop(func(r *PopRequest) { r.Topics = nil })},
		"filter":            {pop(func(r *PopRequest) { r.Topics[1].Filter = 1 }), pop(func(r *PopRequest) { r.Topics[1].Filter = 2 })},
		"change":            {change(MinInvisibleMillis), change(0)},
		"long change":       {change(MaxInvisibleMillis), change(year)},
		"acks":              {ack(2, MaxAcks/2, 0), ack(2, MaxAcks/2+1, 0)},
		"entries of acks":   {ack(MaxAcks, 0, 0), ack(MaxAcks+1, 0, 0)},
		"offset":            {ack(1, 1, 0), ack(1, 1, -1)},
	} {
		if err := c.good(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := c.bad(); !errors.Is(err, InvalidArgument) {
			t.Errorf("%s, one more: got %v", name, err)
		}
	}
}
