package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// counting is a queue that a group reads with a filter.
type counting struct {
	*holding
	topic topic.Topic
	key   store.QueueKey
	tags  []string // of all messages
	born  []int64  // when each was stored
	all   backlogs
}

func (h *holding) counting(name string) *counting {
	h.Helper()
	t := h.topic(name, 1)
	return &counting{holding: h, topic: t, key: store.QueueKey{Topic: t.ID}}
}

// send stores a batch of messages with these tags, a second after the one before.
func (c *counting) send(tags ...string) {
	c.Helper()
	c.pass(time.Second)
	b := batch.NewBuilder(c.topic.Name, 0)
	for _, tag := range tags {
		b.Add(&message.Message{Topic: c.topic.Name, Tag: tag, ID: c.ids.Next(), BornTime: time.UnixMilli(1), Properties: map[string]string{"p": tag}})
		c.tags, c.born = append(c.tags, tag), append(c.born, c.millis())
	}
	h, err := batch.ParseHeader(b.Finish())
	c.check(err)
	r := store.Record{Type: store.BatchRecord, Queue: c.key, Count: uint32(len(tags)), TagHash: h.TagHash, Data: b.Finish(), Waits: true}
	c.check(c.state.append(c.Context(), r))
}

func (c *counting) count(key protocol.Filter, from int, budget *store.Budget) waiting {
	c.Helper()
	f, err := c.all.filters.of(key)
	c.check(err)
	w, err := c.all.of(backlogKey{"g", c.key}).count(c.state.log, f, int64(from), int64(len(c.tags)), budget)
	c.check(err)
	return w
}

// matching are the offsets from one on whose tag is a.
func (c *counting) matching(from int, tags ...string) (offsets []int) {
	for i := from; i < len(c.tags); i++ {
		if slices.Contains(tags, c.tags[i]) {
			offsets = append(offsets, i)
		}
	}
	return offsets
}

// wantRight holds a result to what a look at everything says.
func (c *counting) wantRight(t *rapid.T, w waiting, from int, tags ...string) {
	want := c.matching(from, tags...)
	switch {
	case w.n > int64(len(want)) || w.exact && w.n < int64(len(want)):
		t.Fatalf("from %d: got %+v, want %d", from, w, len(want))
	case len(want) == 0:
		return
	case w.oldest > int64(want[0]) && c.born[w.oldest] != c.born[want[0]]:
		t.Fatalf("from %d: the oldest is at %d, got %d", from, want[0], w.oldest)
	case w.exact && c.born[w.oldest] != c.born[want[0]]:
		t.Fatalf("from %d: the oldest is at %d, got %d", from, want[0], w.oldest)
	}
}

var countedFilters = []struct {
	filter protocol.Filter
	tags   []string
}{
	{protocol.Filter{Kind: protocol.FilterTag, Text: "a"}, []string{"a"}},
	{protocol.Filter{Kind: protocol.FilterTag, Text: "a || b"}, []string{"a", "b"}},
	{protocol.Filter{Kind: protocol.FilterSQL, Text: "p = 'b' OR p = 'c'"}, []string{"b", "c"}},
	{protocol.Filter{Kind: protocol.FilterSQL, Text: "p = 'none'"}, nil},
}

// A count that goes on from the one before is what a count of everything is, whatever
// was stored, consumed, set back or subscribed meanwhile, and however little each may
// look at.
func TestBacklog_AgainstALookAtEverything(t *testing.T) {
	h := newHolding(t)
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		c, at, f := h.counting(fmt.Sprint("t", runs)), 0, countedFilters[0]
		look := func(rt *rapid.T, steps int) waiting {
			w := c.count(f.filter, at, &store.Budget{Steps: steps, Bytes: 1 << 20})
			c.wantRight(rt, w, at, f.tags...)
			return w
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": func(rt *rapid.T) {
				for range rapid.IntRange(1, 5).Draw(rt, "batches") {
					c.send(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c", ""}), 1, 6).Draw(rt, "tags")...)
				}
			},
			"consume": func(rt *rapid.T) { at += rapid.IntRange(0, min(len(c.tags)-at, 7)).Draw(rt, "messages") },
			"reset":   func(rt *rapid.T) { at = rapid.IntRange(0, len(c.tags)).Draw(rt, "to") },
			"filter":  func(rt *rapid.T) { f = rapid.SampledFrom(countedFilters).Draw(rt, "filter") },
			"look":    func(rt *rapid.T) { look(rt, rapid.IntRange(1, 30).Draw(rt, "steps")) },
			"look on": func(rt *rapid.T) {
				for i := 0; !look(rt, 5).exact; i++ {
					if i > 2*len(c.tags)+10 {
						rt.Fatal("it is never exact")
					}
				}
			},
		})
	})
}

// What was counted is not looked at again: a call costs what came to the queue and
// what was consumed since the last.
func TestBacklog_CostsWhatIsNew(t *testing.T) {
	c := newHolding(t).counting("orders")
	f := countedFilters[2].filter
	cost := func(from int) int {
		t.Helper()
		b := store.Budget{Steps: 1 << 30, Bytes: 1 << 30}
		if w := c.count(f, from, &b); !w.exact || w.n != int64(len(c.matching(from, "b", "c"))) {
			t.Errorf("from %d: got %+v", from, w)
		}
		return 1<<30 - b.Steps
	}
	for range 300 {
		c.send("a", "b", "c")
	}
	first := cost(0)
	if first < 900 {
		t.Errorf("the first call costs %d", first)
	}
	if n := cost(0); n != 0 {
		t.Errorf("with nothing new it costs %d", n)
	}
	c.send("b", "a")
	if n := cost(0); n > 3 {
		t.Errorf("with 2 messages more it costs %d", n)
	}
	if n := cost(30); n > 50 {
		t.Errorf("with 30 messages consumed it costs %d", n)
	}
	if n := cost(890); n > 50 {
		t.Errorf("with 12 messages left it costs %d", n)
	}
}

// A look is bounded: the result then says that there are so many at least, and calls
// in turn come to the end.
func TestBacklog_SaysWhenThereIsMore(t *testing.T) {
	c := newHolding(t).counting("orders")
	for range 100 {
		c.send("a", "b")
	}
	f, last := countedFilters[0].filter, int64(-1)
	if w := c.count(f, 0, &store.Budget{}); w.n != 0 || w.exact {
		t.Errorf("without a budget: got %+v", w)
	}
	calls := 0
	for exact := false; !exact; calls++ {
		w := c.count(f, 0, &store.Budget{Steps: 30, Bytes: 1 << 20})
		if w.n <= last || w.n > 100 || w.oldest != 0 {
			t.Fatalf("call %d: got %+v after %d", calls, w, last)
		}
		last, exact = w.n, w.exact
	}
	if last != 100 || calls < 5 || calls > 15 {
		t.Errorf("%d after %d calls", last, calls)
	}
}

// What retention drops is not counted any more, whether it was counted before or not.
func TestBacklog_AfterRetention(t *testing.T) {
	c := newHolding(t).counting("orders")
	for range 20 {
		c.send("a", "b")
	}
	f, budget := countedFilters[0].filter, func() *store.Budget { return &store.Budget{Steps: 1000, Bytes: 1 << 20} }
	if w := c.count(f, 0, budget()); w.n != 20 || !w.exact {
		t.Fatalf("got %+v", w)
	}
	c.state.log.Trim(c.key, 10)
	if w := c.count(f, 10, budget()); w.n != 15 || !w.exact || w.oldest != 10 {
		t.Errorf("when what was counted is dropped: got %+v", w)
	}
	c.state.log.Trim(c.key, 30)
	compiled, err := c.all.filters.of(countedFilters[2].filter)
	c.check(err)
	if w, err := c.all.of(backlogKey{"h", c.key}).count(c.state.log, compiled, 20, 40, budget()); !errors.Is(err, store.ErrOutOfRange) {
		t.Errorf("from below the first: got %+v, %v", w, err)
	}
	if w := c.count(f, 30, budget()); w.n != 5 || !w.exact || w.oldest != 30 {
		t.Errorf("got %+v", w)
	}
}

// Only so many backlogs are kept, those that were asked for last.
func TestBacklogs_AreBounded(t *testing.T) {
	var b backlogs
	first := b.of(backlogKey{"g", store.QueueKey{Topic: 1}})
	second := b.of(backlogKey{"h", store.QueueKey{Topic: 1}})
	b.of(first.key)
	for i := range uint32(maxBacklogs - 1) {
		b.of(backlogKey{"g", store.QueueKey{Topic: 2, Queue: i}})
	}
	if len(b.byKey) != maxBacklogs || b.used.Len() != maxBacklogs {
		t.Errorf("%d are kept", len(b.byKey))
	}
	if b.of(first.key) != first || b.of(second.key) == second {
		t.Error("not the one that was asked for first is forgotten")
	}
}
