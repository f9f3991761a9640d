package consumer

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
)

// stored makes messages with offsets from first on; the groups are cycled.
func stored(first int64, n int, groups ...string) []item {
	messages := make([]item, n)
	for i := range messages {
		messages[i].QueueOffset = first + int64(i)
		if len(groups) > 0 {
			messages[i].Group = groups[i%len(groups)]
		}
	}
	return messages
}

func openQueue(o order) *processQueue {
	return newProcessQueue(message.Queue{Topic: "t", Broker: "b"}, 1, 0, -1, o)
}

func takeAll(q *processQueue) []*item {
	var items []*item
	for it := q.take(); it != nil; it = q.take() {
		items = append(items, it)
	}
	return items
}

func offsets(items []*item) []int64 {
	list := []int64{}
	for _, it := range items {
		list = append(list, it.offset)
	}
	return list
}

func wantOffsets(t *testing.T, what string, items []*item, want ...int64) {
	t.Helper()
	if got := offsets(items); !slices.Equal(got, append([]int64{}, want...)) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func TestProcessQueueHandsOutByOrder(t *testing.T) {
	for _, c := range []struct {
		order order
		want  []int64
	}{
		{orderFree, []int64{0, 1, 2, 3, 4, 5}},
		{orderGroups, []int64{0, 1, 2, 5}}, // 3 waits for 0, 4 for 1
		{orderQueue, []int64{0}},
	} {
		q := openQueue(c.order)
		q.admit(stored(0, 6, "a", "b", ""), 6, 100)
		wantOffsets(t, fmt.Sprint("order ", c.order), takeAll(q), c.want...)
	}
}

func TestProcessQueueGoesOnWithALaneAfterFinish(t *testing.T) {
	q := openQueue(orderGroups)
	q.admit(stored(0, 4, "a", "b"), 4, 100)
	first := takeAll(q)
	q.finish(first[1]) // offset 1 of b
	wantOffsets(t, "after b's first", takeAll(q), 3)
	if got := q.window.lowest(); got != 0 {
		t.Fatalf("commit: got %d, want 0, which still runs", got)
	}
}

func TestProcessQueueRetryKeepsTheLane(t *testing.T) {
	q := openQueue(orderGroups)
	q.admit(stored(0, 3, "a"), 3, 100)
	it := q.take()
	if !q.fail(it) {
		t.Fatal("a failed message of an open queue is not tried again")
	}
	wantOffsets(t, "while the first one waits for its retry", takeAll(q))
	q.retry(it)
	wantOffsets(t, "after the pause", takeAll(q), 0)
	if it.Attempt != 2 {
		t.Fatalf("attempt: got %d, want 2", it.Attempt)
	}
}

func TestProcessQueueSkipsWhatItHas(t *testing.T) {
	q := openQueue(orderFree)
	q.admit(stored(0, 3), 3, 100)
	q.admit(stored(1, 4), 5, 100)
	wantOffsets(t, "a batch that begins before the position", takeAll(q), 0, 1, 2, 3, 4)
}

func TestProcessQueueMovesOnWithoutMessages(t *testing.T) {
	q := openQueue(orderGroups)
	q.admit(nil, 7, 0)
	if q.window.next != 7 || q.window.lowest() != 7 || q.bytes != 0 {
		t.Fatalf("got next %d, commit %d, %d bytes; want 7, 7, 0", q.window.next, q.window.lowest(), q.bytes)
	}
}

func TestProcessQueueDrainFinishesTheHolesOnly(t *testing.T) {
	q := openQueue(orderGroups)
	q.admit(stored(0, 6, "a", "a", "b"), 6, 100) // a: 0 1 3 4, b: 2 5
	started := takeAll(q)
	wantOffsets(t, "started", started, 0, 2)
	q.drain()
	q.finish(started[1])
	wantOffsets(t, "above the highest started", takeAll(q))
	q.finish(started[0])
	next := takeAll(q)
	wantOffsets(t, "the hole below it", next, 1)
	q.finish(next[0])
	if !q.idle() || q.window.lowest() != 3 {
		t.Fatalf("drained: got idle %v and commit %d, want true and 3", q.idle(), q.window.lowest())
	}
	q.admit(stored(6, 1), 7, 10)
	if !q.idle() {
		t.Fatal("a draining queue takes messages in")
	}
}

func TestProcessQueueDrainDoesNotWaitForRetries(t *testing.T) {
	q := openQueue(orderGroups)
	q.admit(stored(0, 4), 4, 100)
	started := takeAll(q)
	q.fail(started[1])
	q.drain()
	if q.fail(started[0]) {
		t.Fatal("a message that fails during a drain is tried again")
	}
	q.finish(started[2])
	q.finish(started[3])
	if !q.idle() || q.window.lowest() != 0 {
		t.Fatalf("got idle %v and commit %d, want true and 0, the lowest failed one", q.idle(), q.window.lowest())
	}
}

func TestProcessQueueCloseForgetsEverything(t *testing.T) {
	q := openQueue(orderGroups)
	q.admit(stored(0, 4, "a", ""), 4, 100)
	running := q.take()
	failing := q.take()
	q.fail(failing)
	q.close()
	q.retry(failing)
	q.finish(running)
	if it := q.take(); it != nil || !q.idle() {
		t.Fatalf("closed queue: got message %v, idle %v", it, q.idle())
	}
}

func TestProcessQueueRoom(t *testing.T) {
	q, b := openQueue(orderGroups), bounds{count: 10, bytes: 1000}
	q.admit(stored(0, 5), 5, 100)
	if !q.room(b) {
		t.Fatal("no room at half of the count")
	}
	q.admit(stored(5, 1), 6, 100)
	if q.room(b) {
		t.Fatal("room above half of the count: a pull of the other half would pass the bound")
	}
	started := takeAll(q)
	q.finish(started[5])
	if !q.room(b) {
		t.Fatal("no room after a message is finished")
	}
	q.admit(stored(6, 1), 7, 401)
	q.finish(q.take())
	if q.bytes != 100 {
		t.Fatalf("bytes of the chunk with running messages: got %d, want 100", q.bytes)
	}
}

func TestProcessQueueRoomBoundsTheSpan(t *testing.T) {
	q, b := openQueue(orderGroups), bounds{count: 2, bytes: 1000}
	q.admit(stored(0, 1), 1, 1)
	stuck := q.take()
	for i := range int64(3) {
		if !q.room(b) {
			t.Fatalf("no room with %d offsets behind a message that hangs", i)
		}
		q.admit(stored(i+1, 1), i+2, 1)
		q.finish(q.take())
	}
	if q.room(b) {
		t.Fatal("room with a span of twice the count")
	}
	q.finish(stuck)
	if !q.room(b) || q.window.lowest() != 4 {
		t.Fatalf("after the message that hung: room %v, commit %d; want true, 4", q.room(b), q.window.lowest())
	}
}

// queueModel is what TestProcessQueueProperties knows of a queue.
type queueModel struct {
	q          *processQueue
	groups     map[int64]string
	finished   map[int64]bool
	running    []*item
	failed     []*item
	anyFailure bool
	lastOf     map[string]int64 // the last offset finished of a group
}

func (m *queueModel) admit(t *rapid.T) {
	n := rapid.IntRange(0, 5).Draw(t, "n")
	messages := stored(m.q.window.next, n)
	for i := range messages {
		messages[i].Group = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "group")
		if m.q.state == queueOpen {
			m.groups[messages[i].QueueOffset] = messages[i].Group
		}
	}
	m.q.admit(messages, m.q.window.next+int64(n)+rapid.Int64Range(0, 2).Draw(t, "gap"), n*10)
}

func (m *queueModel) take(t *rapid.T) {
	it := m.q.take()
	if it == nil {
		return
	}
	for _, other := range m.running {
		if it.laned && other.laned && other.lane == it.lane {
			t.Fatalf("offsets %d and %d of lane %q run at the same time", other.offset, it.offset, it.lane)
		}
	}
	if last, ok := m.lastOf[it.Group]; ok && it.Group != "" && it.offset <= last {
		t.Fatalf("offset %d of group %q comes after %d", it.offset, it.Group, last)
	}
	m.running = append(m.running, it)
}

func (m *queueModel) end(t *rapid.T, fn func(*item)) {
	if len(m.running) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.running)-1).Draw(t, "which")
	it := m.running[i]
	m.running = slices.Delete(m.running, i, i+1)
	fn(it)
}

func (m *queueModel) finish(it *item) {
	m.q.finish(it)
	m.finished[it.offset] = true
	m.lastOf[it.Group] = it.offset
}

func (m *queueModel) fail(it *item) {
	m.anyFailure = true
	if m.q.fail(it) {
		m.failed = append(m.failed, it)
	}
}

func (m *queueModel) check(t *rapid.T) {
	want := m.q.window.next
	for offset := range m.groups {
		if !m.finished[offset] {
			want = min(want, offset)
		}
	}
	if got := m.q.window.lowest(); got != want {
		t.Fatalf("commit: got %d, want %d", got, want)
	}
	if m.q.running != len(m.running) || m.q.waiting < 0 || m.q.bytes < 0 {
		t.Fatalf("got %d running, %d waiting, %d bytes; %d run", m.q.running, m.q.waiting, m.q.bytes, len(m.running))
	}
}

// drained empties the queue as a rebalance does; without failures nothing above
// the commit may be finished: the next owner would get it twice.
func (m *queueModel) drained(t *rapid.T) {
	m.q.drain()
	for {
		m.take(t)
		if len(m.running) == 0 {
			break
		}
		m.finish(m.running[0])
		m.running = m.running[1:]
	}
	if !m.q.idle() || m.q.bytes != 0 {
		t.Fatalf("drained: %d wait, %d run, %d bytes", m.q.waiting, m.q.running, m.q.bytes)
	}
	m.check(t)
	for offset := range m.finished {
		if offset >= m.q.window.lowest() && !m.anyFailure {
			t.Fatalf("offset %d is finished above the commit %d", offset, m.q.window.lowest())
		}
	}
}

func TestProcessQueueProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := rapid.SampledFrom([]order{orderGroups, orderQueue}).Draw(t, "order")
		m := &queueModel{q: openQueue(o), groups: map[int64]string{}, finished: map[int64]bool{}, lastOf: map[string]int64{}}
		failures := rapid.Bool().Draw(t, "failures")
		t.Repeat(map[string]func(*rapid.T){
			"admit":  m.admit,
			"take":   m.take,
			"finish": func(t *rapid.T) { m.end(t, m.finish) },
			"fail": func(t *rapid.T) {
				if failures {
					m.end(t, m.fail)
				}
			},
			"retry": func(*rapid.T) {
				if len(m.failed) > 0 {
					m.q.retry(m.failed[0])
					m.failed = m.failed[1:]
				}
			},
			"": m.check,
		})
		m.drained(t)
	})
}
