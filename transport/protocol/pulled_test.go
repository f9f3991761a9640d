package protocol

import (
	"bytes"
	"errors"
	"testing"
)

func loader(data string, err error) func(*PulledQueue, []byte) ([]byte, error) {
	return func(q *PulledQueue, dst []byte) ([]byte, error) {
		if err != nil {
			q.Min = 7
		}
		return append(dst, data...), err
	}
}

// What is loaded late looks on the wire like what was there from the start.
func TestPullResponse_LoadedBatchesAreAsBatches(t *testing.T) {
	early := &PullResponse{Queues: []PulledQueue{{Index: 1, Next: 5, End: 9, Batches: []byte("first")}, {Index: 2, Batches: []byte("second")}}}
	late := &PullResponse{Queues: []PulledQueue{{Index: 1, Next: 5, End: 9, Load: loader("first", nil), Size: 5}, {Index: 2, Load: loader("second", nil), Size: 6}}}
	want, _ := early.AppendBinary([]byte("frame"))
	got, err := late.AppendBinary([]byte("frame"))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

func TestPullResponse_FailedLoadIsTheQueuesError(t *testing.T) {
	for name, q := range map[string]PulledQueue{
		"fails":     {Index: 1, Load: loader("half of it", Errorf(Damaged, "bad")), Size: 100},
		"too short": {Index: 1, Load: loader("half of it", nil), Size: 100},
	} {
		resp := &PullResponse{Queues: []PulledQueue{q, {Index: 2, Batches: []byte("whole")}}}
		b, err := resp.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		var got PullResponse
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		failed, other := got.Queues[0], got.Queues[1]
		if failed.Err == nil || len(failed.Batches) != 0 || string(other.Batches) != "whole" {
			t.Errorf("%s: got %+v and %+v", name, failed, other)
		}
		if name == "fails" && (!errors.Is(failed.Err, Damaged) || failed.Min != 7) {
			t.Errorf("got %v and min %d, want what Load said", failed.Err, failed.Min)
		}
	}
}
