package group

import "testing"

func TestUnconsumedIsTheLowestOfAllWhoRead(t *testing.T) {
	v := New()
	index := uint64(0)
	commit := func(group string, topic uint64, queue int, offset int64) {
		t.Helper()
		index++
		if err := v.ApplyOffsets(index, EncodeOffsets(group, []Offset{{TopicID: topic, Queue: queue, Offset: offset}})); err != nil {
			t.Fatal(err)
		}
	}
	want := func(topic uint64, queue int, offset int64) {
		t.Helper()
		if got := v.Unconsumed().From(topic, queue); got != offset {
			t.Errorf("topic %d queue %d is needed from %d, want %d", topic, queue, got, offset)
		}
	}
	want(7, 0, 0) // nobody reads it
	commit("a", 7, 0, 50)
	want(7, 0, 50)
	want(7, 1, 0) // a has not begun there
	want(8, 0, 0)
	commit("b", 7, 0, 30)
	want(7, 0, 30)
	commit("b", 7, 1, 9)
	want(7, 1, 0) // a still has not
	commit("a", 7, 1, 4)
	want(7, 1, 4)
	commit("c", 8, 0, 70) // another topic
	want(7, 0, 30)
	want(8, 0, 70)
	index++
	if err := v.ApplyLeases(index, EncodeLeases("d", 7, "client", []int{1})); err != nil {
		t.Fatal(err)
	}
	want(7, 0, 0) // d has a lease in the topic and has committed nothing
	index++
	if err := v.ApplyDelete(index, EncodeDelete("d")); err != nil {
		t.Fatal(err)
	}
	want(7, 0, 30)
	index++
	if err := v.ApplyDelete(index, EncodeDelete("b")); err != nil {
		t.Fatal(err)
	}
	want(7, 0, 50)
	v.DropTopic(7)
	want(7, 0, 0)
}
