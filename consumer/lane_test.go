package consumer

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestTakeBatch(t *testing.T) {
	for _, c := range []struct {
		name   string
		order  order
		groups []string
		most   int
		want   []int64
	}{
		{"all that is there", orderGroups, []string{""}, 10, []int64{0, 1, 2, 3, 4, 5}},
		{"no more than asked for", orderGroups, []string{""}, 4, []int64{0, 1, 2, 3}},
		{"a lane together, in its order", orderGroups, []string{"a", "b", ""}, 10, []int64{0, 3, 1, 4, 2, 5}},
		{"a lane up to the limit", orderGroups, []string{"a", "b"}, 2, []int64{0, 2}},
		{"the queue's order", orderQueue, []string{"a", "b"}, 4, []int64{0, 1, 2, 3}},
	} {
		q := openQueue(c.order)
		q.admit(stored(0, 6, c.groups...), 6, 100)
		wantOffsets(t, c.name, q.takeBatch(c.most, 0), c.want...)
	}
}

func TestTakeBatch_OfARetryTopicIsOne(t *testing.T) {
	q := openQueue(orderQueue)
	items := stored(0, 3)
	items[1].ReconsumeTimes = 1
	q.admit(items, 3, 100)
	for _, want := range []int64{0, 1, 2} {
		got := q.takeBatch(10, 0)
		wantOffsets(t, "one after another", got, want)
		q.finish(got[0])
	}
}

func TestTakeBatch_OfOneLaneRunsAlone(t *testing.T) {
	q := openQueue(orderQueue)
	q.admit(stored(0, 6), 6, 100)
	first := q.takeBatch(2, 0)
	wantOffsets(t, "while a batch of the lane runs", q.takeBatch(2, 0))
	q.finish(first[0])
	wantOffsets(t, "after its first message", q.takeBatch(2, 0))
	q.finish(first[1])
	wantOffsets(t, "after its last", q.takeBatch(2, 0), 2, 3)
}

func TestTakeBatch_WhatComesAgainComesAlone(t *testing.T) {
	q := openQueue(orderGroups)
	q.admit(stored(0, 4), 4, 100)
	first := q.takeBatch(2, 0)
	for _, it := range first {
		q.fail(it)
		q.retry(it)
	}
	wantOffsets(t, "the others first", q.takeBatch(10, 0), 2, 3)
	wantOffsets(t, "then one", q.takeBatch(10, 0), 0)
	wantOffsets(t, "and the other", q.takeBatch(10, 0), 1)
}

// The first message of a lane fails: the others of its batch are as if they had not
// been handed out.
func TestTakeBatch_FailureOfALane(t *testing.T) {
	q := openQueue(orderQueue)
	q.admit(stored(0, 6), 6, 100)
	items := q.takeBatch(4, 0)
	q.finish(items[0])
	items[1].followers = items[2:]
	if !q.fail(items[1]) || q.running != 0 || q.waiting != 5 {
		t.Fatalf("got %d running and %d waiting, want 0 and 5", q.running, q.waiting)
	}
	wantOffsets(t, "while it waits for its retry", q.takeBatch(4, 0))
	q.retry(items[1])
	again := q.takeBatch(4, 0)
	wantOffsets(t, "after the pause", again, 1)
	q.finish(again[0])
	rest := q.takeBatch(4, 0)
	wantOffsets(t, "what was behind it", rest, 2, 3, 4, 5)
	if rest[0].Attempt != 1 || again[0].Attempt != 2 {
		t.Errorf("attempts: got %d of the one behind and %d of the one that failed, want 1 and 2", rest[0].Attempt, again[0].Attempt)
	}
}

func TestTakeBatch_FailureInADrain(t *testing.T) {
	q := openQueue(orderQueue)
	q.admit(stored(0, 6), 6, 100)
	items := q.takeBatch(4, 0)
	q.drain()
	items[1].followers = items[2:]
	q.finish(items[0])
	if q.fail(items[1]) || !q.idle() || q.bytes != 0 || q.window.lowest() != 1 {
		t.Fatalf("got idle %v, %d bytes and commit %d, want true, 0 and 1", q.idle(), q.bytes, q.window.lowest())
	}
}

func TestTakeBatch_FailureOfALostQueue(t *testing.T) {
	q := openQueue(orderQueue)
	q.admit(stored(0, 3), 3, 100)
	items := q.takeBatch(3, 0)
	q.close()
	items[0].followers = items[1:]
	if q.fail(items[0]) || !q.idle() {
		t.Fatalf("got %d running and %d waiting", q.running, q.waiting)
	}
}

func TestDrain_OfAPausedQueueHandsNothingOut(t *testing.T) {
	q := openQueue(orderGroups)
	q.admit(stored(0, 6, "a", "a", "b"), 6, 100) // a: 0 1 3 4, b: 2 5
	started := takeAll(q)
	q.paused = true
	q.drain()
	for _, it := range started {
		q.finish(it)
	}
	if wantOffsets(t, "paused", takeAll(q)); !q.idle() || q.window.lowest() != 1 {
		t.Fatalf("got idle %v and commit %d, want true and 1", q.idle(), q.window.lowest())
	}
}

// batchModel hands batches out and ends them in any order.
type batchModel struct {
	*queueModel
	batches [][]*item
}

func (m *batchModel) takeBatch(t *rapid.T) {
	most := rapid.IntRange(1, 4).Draw(t, "most")
	items := m.q.takeBatch(most, 0)
	if len(items) > most {
		t.Fatalf("got %d messages, asked for %d", len(items), most)
	}
	last := map[string]int64{}
	for i, it := range items {
		if it.Attempt > 1 && len(items) > 1 {
			t.Fatalf("offset %d comes again in a batch of %d", it.offset, len(items))
		}
		if before, there := last[it.lane]; it.laned && there && (it.offset <= before || items[i-1].lane != it.lane) {
			t.Fatalf("offset %d comes after %d in a batch of %v", it.offset, before, offsets(items))
		}
		last[it.lane] = it.offset
		m.wantFree(t, it)
	}
	if len(items) > 0 {
		m.batches = append(m.batches, items)
		m.running = append(m.running, items...)
	}
}

// wantFree fails when another message of the lane runs, or a later one has finished.
func (m *batchModel) wantFree(t *rapid.T, it *item) {
	if !it.laned {
		return
	}
	for _, other := range m.running {
		if other.laned && other.lane == it.lane {
			t.Fatalf("offset %d of lane %q is handed out while %d runs", it.offset, it.lane, other.offset)
		}
	}
	if at, ok := m.lastOf[it.lane]; ok && it.offset <= at {
		t.Fatalf("offset %d of lane %q comes after %d", it.offset, it.lane, at)
	}
}

func (m *batchModel) endBatch(t *rapid.T) {
	if len(m.batches) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.batches)-1).Draw(t, "which")
	items := m.batches[i]
	m.batches = slices.Delete(m.batches, i, i+1)
	m.running = slices.DeleteFunc(m.running, func(it *item) bool { return slices.Contains(items, it) })
	for n := rapid.IntRange(0, len(items)).Draw(t, "finished"); len(items) > 0; n-- {
		if n > 0 || rapid.Bool().Draw(t, "given back") {
			m.finishIn(items[0])
			items = items[1:]
			continue
		}
		m.anyFailure = true
		behind := behindIn(items)
		items[0].followers = items[1:behind]
		if m.q.fail(items[0]) {
			m.failed = append(m.failed, items[0])
		}
		items = items[behind:]
	}
}

func (m *batchModel) finishIn(it *item) {
	m.q.finish(it)
	m.finished[it.offset] = true
	if it.laned {
		m.lastOf[it.lane] = it.offset
	}
}

// empty takes and finishes everything: nothing may be stuck.
func (m *batchModel) empty(t *rapid.T) {
	for len(m.batches) > 0 {
		for _, it := range m.batches[0] {
			m.finishIn(it)
		}
		m.batches = m.batches[1:]
	}
	m.running = nil
	for _, it := range m.failed {
		m.q.retry(it)
	}
	for {
		items := m.q.takeBatch(3, 0)
		if len(items) == 0 {
			break
		}
		for _, it := range items {
			m.finishIn(it)
		}
	}
	m.check(t)
	if !m.q.idle() || m.q.bytes != 0 {
		t.Fatalf("%d wait and %d run after all were finished, %d bytes", m.q.waiting, m.q.running, m.q.bytes)
	}
	if got := fmt.Sprint(m.q.lanes); len(m.q.lanes) != 0 {
		t.Fatalf("lanes are left: %s", got)
	}
}

func TestTakeBatch_Properties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := rapid.SampledFrom([]order{orderGroups, orderQueue}).Draw(t, "order")
		m := &batchModel{queueModel: &queueModel{q: openQueue(o), groups: map[int64]string{}, finished: map[int64]bool{}, lastOf: map[string]int64{}}}
		t.Repeat(map[string]func(*rapid.T){
			"admit": m.admit,
			"take":  m.takeBatch,
			"end":   m.endBatch,
			"retry": func(*rapid.T) {
				if len(m.failed) > 0 {
					m.q.retry(m.failed[0])
					m.failed = m.failed[1:]
				}
			},
			"": m.check,
		})
		m.empty(t)
	})
}
