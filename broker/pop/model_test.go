package pop

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/view"
)

// TestViewAgainstModel runs random records, flushes and restarts, each with the replay
// of the log from the position that was flushed, against plain maps.
func TestViewAgainstModel(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		m := &model{path: filepath.Join(dir, fmt.Sprint(run, ".db")), queues: map[Key]*slowQueue{}}
		m.open(t)
		defer func() { m.db.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"pop":     m.pop,
			"pop2":    m.pop,
			"ack":     m.ack,
			"ack2":    m.ack,
			"finish":  m.finish,
			"setBack": m.setBack,
			"drop":    m.drop,
			"flush":   m.flush,
			"restart": m.restart,
			"":        m.check,
		})
	})
}

// model has every message by itself, and looks at all of them each time.
type model struct {
	path    string
	db      *view.DB
	view    *View
	log     []func(*View) // record i+1
	now     int64         // the store time of the last record
	queues  map[Key]*slowQueue
	handles []handle // that there ever were, and forged ones
}

type handle struct {
	key    Key
	fence  uint64
	offset int64
}

type slowQueue struct {
	next       int64
	born, last uint64
	unfinished map[int64]slowEntry
}

type slowEntry struct {
	lane uint32
	Message
}

func (q *slowQueue) offsets() []int64 { return slices.Sorted(maps.Keys(q.unfinished)) }

// hasTurn looks for an earlier message of the lane.
func (q *slowQueue) hasTurn(offset int64) bool {
	lane := q.unfinished[offset].lane
	if lane == 0 {
		return true
	}
	for o, e := range q.unfinished {
		if e.lane == lane && o < offset {
			return false
		}
	}
	return true
}

func (q *slowQueue) dropBelow(offset int64) {
	maps.DeleteFunc(q.unfinished, func(o int64, _ slowEntry) bool { return o < offset })
}

func (q *slowQueue) due(now int64) (due []Message) {
	for _, o := range q.offsets() {
		if e := q.unfinished[o]; e.Deadline <= now && q.hasTurn(o) {
			due = append(due, e.Message)
		}
	}
	slices.SortFunc(due, func(a, b Message) int {
		return cmp.Or(cmp.Compare(a.Deadline, b.Deadline), cmp.Compare(a.Offset, b.Offset))
	})
	return due
}

func (m *model) append(t *rapid.T, record func(v *View, r store.Committed)) store.Committed {
	m.now += rapid.Int64Range(0, 5).Draw(t, "passes")
	r := store.Committed{Index: uint64(len(m.log)) + 1, StoreMillis: m.now}
	m.log = append(m.log, func(v *View) { record(v, r) })
	m.log[r.Index-1](m.view)
	return r
}

func drawKey(t *rapid.T) Key {
	return Key{Group: rapid.SampledFrom([]string{"g", "other"}).Draw(t, "group"), Topic: rapid.Uint64Range(1, 2).Draw(t, "topic"), Queue: rapid.Uint32Range(0, 1).Draw(t, "queue")}
}

// pop decides as a broker does, or as one that knows old things.
func (m *model) pop(t *rapid.T) {
	k := drawKey(t)
	h := &Handout{Key: k, Committed: -1, InvisibleMillis: rapid.Int64Range(1, 20).Draw(t, "invisible")}
	q, known := m.queues[k]
	if known {
		h.After, h.First, h.Next = q.last, rapid.Int64Range(0, q.next+3).Draw(t, "first"), q.next
		if rapid.IntRange(0, 9).Draw(t, "keep") > 0 {
			h.First = 0
		}
		for _, d := range q.due(m.now) {
			if d.Offset >= h.First && rapid.Bool().Draw(t, "again") {
				h.Again = append(h.Again, d.Offset)
			}
		}
		if rapid.IntRange(0, 9).Draw(t, "too late") == 0 { // it is finished meanwhile, or waits
			h.Again = append(h.Again, rapid.SampledFrom(append(q.offsets(), q.next)).Draw(t, "again"))
		}
		slices.Sort(h.Again)
		h.Again = slices.Compact(h.Again)
	} else {
		h.First = rapid.Int64Range(0, 600).Draw(t, "start")
	}
	if rapid.IntRange(0, 9).Draw(t, "late") == 0 { // the group committed meanwhile
		h.Next -= rapid.Int64Range(0, h.Next).Draw(t, "committed")
	}
	h.Next = max(h.Next, h.First)
	m.addFresh(t, h)
	if rapid.IntRange(0, 9).Draw(t, "stale") == 0 {
		h.After += 1
	}
	h = recoded(t, h)
	r := m.append(t, func(v *View, r store.Committed) { v.ApplyHandout(r, h) })
	if h.After != 0 && (!known || h.After != q.last) || h.After == 0 && known {
		return
	}
	if !known {
		q = &slowQueue{next: h.First, unfinished: map[int64]slowEntry{}}
		m.queues[k] = q
	}
	m.handOut(q, h, r)
}

// addFresh adds messages that nobody has looked at. Who waits for a lane, it says
// wrongly at times.
func (m *model) addFresh(t *rapid.T, h *Handout) {
	for range rapid.IntRange(0, 4).Draw(t, "runs") {
		r := Run{First: h.Next + rapid.SampledFrom([]int64{0, 0, 1, 300}).Draw(t, "gap"), Count: 1, Lane: rapid.Uint32Range(0, 3).Draw(t, "lane")}
		if r.Lane == 0 {
			r.Count = rapid.SampledFrom([]int64{1, 2, 300}).Draw(t, "count")
		} else {
			r.Waits = rapid.Bool().Draw(t, "waits")
		}
		h.Fresh, h.Next = append(h.Fresh, r), r.First+r.Count
	}
	h.Next += rapid.Int64Range(0, 2).Draw(t, "passed over")
}

func (m *model) handOut(q *slowQueue, h *Handout, r store.Committed) {
	deadline := r.StoreMillis + h.InvisibleMillis
	q.dropBelow(h.First)
	for _, o := range h.Again {
		if e, ok := q.unfinished[o]; ok && q.hasTurn(o) {
			e.Fence, e.Deadline, e.Attempts = r.Index, deadline, e.Attempts+1
			q.unfinished[o] = e
			m.handles = append(m.handles, handle{h.Key, r.Index, o})
		}
	}
	for _, run := range h.Fresh {
		for o := max(run.First, q.next); o < run.First+run.Count; o++ {
			q.unfinished[o] = slowEntry{lane: run.Lane, Message: Message{Offset: o}}
			if !run.Waits && q.hasTurn(o) {
				q.unfinished[o] = slowEntry{lane: run.Lane, Message: Message{Offset: o, Deadline: deadline, Fence: r.Index, Attempts: 1}}
			}
			m.handles = append(m.handles, handle{h.Key, r.Index, o})
		}
	}
	q.next, q.last = max(q.next, h.Next), r.Index
}

func recoded(t *rapid.T, h *Handout) *Handout {
	got, err := DecodeHandout(EncodeHandout(h))
	if err != nil {
		t.Fatalf("%+v: %v", h, err)
	}
	return got
}

func (m *model) drawHandle(t *rapid.T) handle {
	if len(m.handles) == 0 || rapid.IntRange(0, 9).Draw(t, "forged") == 0 {
		return handle{drawKey(t), rapid.Uint64Range(0, uint64(len(m.log))+2).Draw(t, "fence"), rapid.Int64Range(0, 700).Draw(t, "offset")}
	}
	return m.handles[max(0, len(m.handles)-1-rapid.IntRange(0, 600).Draw(t, "handle"))]
}

// ack acknowledges messages, or gives them another time.
func (m *model) ack(t *rapid.T) {
	first := m.drawHandle(t)
	a := &Ack{Key: first.key, Again: rapid.Bool().Draw(t, "again")}
	if a.Again {
		a.InvisibleMillis = rapid.Int64Range(0, 30).Draw(t, "invisible")
	}
	for o := range rapid.SampledFrom([]int64{1, 1, 5, 400}).Draw(t, "acks") {
		a.Sets = append(a.Sets, Set{Fence: first.fence, Offsets: []int64{first.offset + o}})
	}
	a, err := DecodeAck(EncodeAck(a))
	if err != nil {
		t.Fatal(err)
	}
	r := m.append(t, func(v *View, r store.Committed) { v.ApplyAck(r, a) })
	q, ok := m.queues[a.Key]
	for i := 0; ok && i < len(a.Sets); i++ {
		o := a.Sets[i].Offsets[0]
		e, there := q.unfinished[o]
		switch {
		case !there || e.Fence != a.Sets[i].Fence || e.Fence == 0:
		case a.Again:
			e.Deadline = r.StoreMillis + a.InvisibleMillis
			q.unfinished[o] = e
		default:
			delete(q.unfinished, o)
		}
	}
}

func (m *model) finish(t *rapid.T) {
	k := drawKey(t)
	offset := rapid.Int64Range(0, 1000).Draw(t, "offset")
	m.append(t, func(v *View, _ store.Committed) { v.Finish(k, offset) })
	if q, ok := m.queues[k]; ok {
		q.dropBelow(offset)
		q.next = max(q.next, offset)
	}
}

func (m *model) setBack(t *rapid.T) {
	k, offset := drawKey(t), rapid.Int64Range(0, 1000).Draw(t, "offset")
	r := m.append(t, func(v *View, r store.Committed) { v.SetBack(r.Index, k, offset) })
	if _, ok := m.queues[k]; ok {
		m.queues[k] = &slowQueue{next: offset, born: r.Index, last: r.Index, unfinished: map[int64]slowEntry{}}
	}
}

func (m *model) drop(t *rapid.T) {
	k := drawKey(t)
	if rapid.Bool().Draw(t, "by topic") {
		m.append(t, func(v *View, _ store.Committed) { v.DropTopic(k.Topic) })
		maps.DeleteFunc(m.queues, func(o Key, _ *slowQueue) bool { return o.Topic == k.Topic })
	} else {
		m.append(t, func(v *View, _ store.Committed) { v.DropGroup(k.Group) })
		maps.DeleteFunc(m.queues, func(o Key, _ *slowQueue) bool { return o.Group == k.Group })
	}
}

func (m *model) open(t *rapid.T) {
	var err error
	m.view = New()
	if m.db, err = view.Open(m.path, m.view); err != nil {
		t.Fatal(err)
	}
	for _, record := range m.log[m.db.Position():] {
		record(m.view)
	}
}

func (m *model) flush(t *rapid.T) {
	if err := m.db.Flush(uint64(len(m.log))); err != nil {
		t.Fatal(err)
	}
}

func (m *model) restart(t *rapid.T) {
	m.db.Close()
	m.open(t)
}

// judge is the verdict by the definitions.
func (m *model) judge(h handle) Verdict {
	q, ok := m.queues[h.key]
	if !ok || h.fence == 0 || h.fence > q.last {
		return Unknown
	}
	e, there := q.unfinished[h.offset]
	switch {
	case h.fence <= q.born:
		return Expired
	case h.offset >= q.next || there && e.Fence == 0:
		return Unknown
	case !there:
		return Finished
	case e.Fence == h.fence:
		return Live
	}
	return Expired
}

func (m *model) check(t *rapid.T) {
	total := 0
	for k, q := range m.queues {
		total += len(q.unfinished)
		m.checkQueue(t, k, q)
	}
	if m.view.Len() != total {
		t.Fatalf("%d messages are unfinished, want %d", m.view.Len(), total)
	}
	for range 20 {
		h := m.drawHandle(t)
		m.view.Judge(h.key, h.fence, []int64{h.offset}, func(_ int64, got Verdict) {
			if want := m.judge(h); got != want {
				t.Fatalf("handle %+v: got %d, want %d", h, got, want)
			}
		})
	}
	for _, k := range []Key{{"g", 1, 0}, {"other", 2, 1}} {
		if _, ok := m.view.Progress(k); ok != (m.queues[k] != nil) {
			t.Fatalf("%v: it is there: %v", k, ok)
		}
	}
}

func (m *model) checkQueue(t *rapid.T, k Key, q *slowQueue) {
	now := m.now + rapid.Int64Range(-3, 25).Draw(t, "look")
	offsets := q.offsets()
	want := Progress{Floor: q.next, Next: q.next, Last: q.last, Unfinished: len(offsets)}
	from := rapid.Int64Range(0, 700).Draw(t, "from")
	counts := Counts{Oldest: q.next, Next: q.next}
	var handed []Message
	next, after := int64(math.MaxInt64), int64(math.MaxInt64)
	for i := len(offsets) - 1; i >= 0; i-- {
		o := offsets[i]
		e := q.unfinished[o]
		want.Floor = o
		if o >= from {
			counts.Unfinished, counts.Oldest = counts.Unfinished+1, o
		}
		if e.Fence == q.last {
			handed = append([]Message{e.Message}, handed...)
		}
		switch turn := q.hasTurn(o); {
		case !turn:
			want.Waiting++
			continue
		case o >= from && e.Deadline > now:
			counts.InFlight++
		case o >= from:
			counts.Ready++
		}
		if next = min(next, e.Deadline); e.Deadline > now {
			after = min(after, e.Deadline)
		}
	}
	if got, _ := m.view.Progress(k); got != want {
		t.Fatalf("%v: got %+v, want %+v", k, got, want)
	}
	if got, _ := m.view.Counts(k, now, from); got != counts {
		t.Fatalf("%v: got %+v, want %+v", k, got, counts)
	}
	if got := m.view.HandedOut(k, q.last, offsets); !slices.Equal(got, handed) {
		t.Fatalf("%v: handed out %+v, want %+v", k, got, handed)
	}
	if got, got2 := m.view.NextDue([]Key{k}), m.view.NextDueAfter([]Key{k}, now); got != next || got2 != after {
		t.Fatalf("%v: due next %d, %d, want %d, %d", k, got, got2, next, after)
	}
	if got := m.view.InFlight(k, now); got != (after != math.MaxInt64) {
		t.Fatalf("%v: in flight: %v", k, got)
	}
	limit := rapid.SampledFrom([]int{1, 5, 10_000}).Draw(t, "limit")
	due := q.due(now)
	if got := m.view.Due(k, now, limit); !slices.Equal(got, due[:min(limit, len(due))]) {
		t.Fatalf("%v at %d: due %+v, want %+v", k, now, got, due)
	}
	m.checkLanes(t, k, q)
}

func (m *model) checkLanes(t *rapid.T, k Key, q *slowQueue) {
	for lane := range uint32(4) {
		busy := false
		for _, e := range q.unfinished {
			busy = busy || lane != 0 && e.lane == lane
		}
		if got := m.view.Busy(k, lane); got != busy {
			t.Fatalf("%v: lane %d is busy: %v, want %v", k, lane, got, busy)
		}
	}
}
