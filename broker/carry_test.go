package broker

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

const tinySegment = 64 << 10

func tinySegments(c *Config) {
	c.Store.FirstSegmentBytes, c.Store.SegmentBytes = tinySegment, tinySegment
	c.Retention.MaxAge = time.Hour
}

// fill appends messages to a queue at once, about so many bytes in all.
func (h *holding) fill(t topic.Topic, size, each int) {
	h.Helper()
	for ; size > 0; size -= each {
		b := batch.NewBuilder(t.Name, 0)
		b.Add(&message.Message{ID: h.ids.Next(), BornTime: time.UnixMilli(1), Body: make([]byte, each)})
		h.check(h.state.append(h.Context(), store.Record{Type: store.BatchRecord, Queue: store.QueueKey{Topic: t.ID}, Count: 1, Data: b.Finish()}))
	}
}

func (h *holding) firstIndex() uint64 { return h.state.log.Status().FirstIndex }

// retain looks until the log begins behind an index.
func (h *holding) retain(behind uint64) {
	h.Helper()
	h.eventually("segments are dropped", func() bool {
		h.retention.look(h.Context())
		return h.firstIndex() > behind
	})
}

// TestCarry_OutlivesRetention has messages wait for ten times as long as segments
// are kept, with and without restarts.
func TestCarry_OutlivesRetention(t *testing.T) {
	h := newHolding(t, tinySegments)
	orders := h.topic("orders", 1)
	stored := h.millis()
	held := h.hold(orders, 0, in(10*time.Hour), in(20*time.Hour), in(time.Minute))
	h.hold(orders, 0, in(15*time.Hour))
	origin := held[0].Origin
	h.pass(time.Minute)
	h.settle()
	for round := range 9 {
		before := h.state.log.Status().LastIndex
		h.fill(orders, 3*tinySegment, 4000)
		h.pass(time.Hour + time.Minute)
		h.retain(before)
		switch {
		case round%3 == 1:
			h.restart()
		case round%3 == 2:
			h.kill()
		}
		list := h.list(protocol.ListDelayedRequest{Max: 10})
		if list.Pending != 3 || list.Messages[0].ID != held[0].ID || list.Messages[0].Origin != origin || list.Messages[0].StoreMillis != stored {
			t.Fatalf("round %d: got %+v", round, list)
		}
	}
	h.wantRecall(held[1], true, 0)
	h.pass(8 * time.Hour)
	h.settle()
	all := h.delivered(orders, 0)
	last := all[len(all)-2:]
	if last[0].ID.String() != held[0].ID || last[0].DeliverAt.UnixMilli() != stored+10*3600_000 || last[1].DeliverAt.UnixMilli() != stored+15*3600_000 {
		t.Errorf("got %v, %v", last[0].Message, last[1].Message)
	}
	h.wantRecall(held[0], false, 0)
	h.wantRecall(held[1], true, 0)
	before := h.state.log.Status().LastIndex
	h.fill(orders, 3*tinySegment, 4000)
	h.pass(time.Hour + time.Minute)
	h.retain(before)
	h.wantRecall(held[0], false, protocol.NotFound) // forgotten
}

// TestCarry_KeepsWhatCannotBeCarried: a segment stays while a message in it waits
// that was not carried.
func TestCarry_KeepsWhatCannotBeCarried(t *testing.T) {
	h := newHolding(t, tinySegments)
	orders := h.topic("orders", 1)
	held := h.hold(orders, 0, in(10*time.Hour))[0]
	h.fill(orders, 5*tinySegment, 4000)
	h.pass(2 * time.Hour)
	spares := h.spares(3)
	h.check(h.state.settle())
	h.check(h.state.settle())
	h.check(h.retention.drop(h.limits()))
	if first := h.firstIndex(); first != 1 {
		t.Fatalf("the log begins at %d, the message of record %d waits", first, held.Origin)
	}
	h.check(h.state.carry(t.Context(), held.Origin)) // which is before it
	if at := h.state.timers.OldestAt(); at != held.Origin {
		t.Errorf("the message stands at %d", at)
	}
	h.check(h.state.carry(t.Context(), spares[0].Next))
	if at := h.state.timers.OldestAt(); at < spares[len(spares)-1].Next {
		t.Errorf("after it was carried the message stands at %d", at)
	}
	h.check(h.state.settle())
	h.check(h.state.settle())
	h.check(h.retention.drop(h.limits()))
	if first := h.firstIndex(); first < spares[1].Next {
		t.Errorf("the log begins at %d", first)
	}
	h.pass(10 * time.Hour)
	h.settle()
	h.wantRecall(held, false, 0)
}

func (h *holding) limits() store.Retention { return h.retention.limits(h.state.groups.Unconsumed) }

// spares waits until so many segments could be dropped.
func (h *holding) spares(n int) (spares []store.Spare) {
	h.Helper()
	h.eventually("segments could be dropped", func() bool {
		var err error
		spares, err = h.state.log.Spares(h.limits())
		h.check(err)
		return len(spares) >= n
	})
	return spares
}

// TestCarry_ForRoom: to have room, messages are carried when that frees at least
// as much again; a log that holds back more than it may store grows.
func TestCarry_ForRoom(t *testing.T) {
	const segment, limit, size = 2 << 20, 12 << 20, 100_000
	h := newHolding(t, func(c *Config) {
		c.Store.FirstSegmentBytes, c.Store.SegmentBytes = segment, segment
		c.Retention = Retention{MaxAge: -1, MaxBytes: limit}
	})
	orders := h.topic("orders", 1)
	large := func() *message.Message { m := in(10 * time.Hour); m.Body = make([]byte, size); return m }
	look := func() int64 {
		h.retention.look(h.Context())
		return h.state.log.Status().DiskBytes
	}
	for range 5 {
		h.hold(orders, 0, large())
		h.fill(orders, 2*segment, size)
	}
	h.eventually("the log is small", func() bool { return look() <= limit })
	if n := h.state.timers.Len(); n != 5 {
		t.Errorf("%d messages wait, want 5", n)
	}
	for range 2 * limit / size {
		h.hold(orders, 0, large())
	}
	n, before := uint64(h.state.timers.Len()), h.state.log.Status().LastIndex
	h.eventually("nothing is carried any more", func() bool {
		last := h.state.log.Status().LastIndex
		return look() <= limit+2*h.state.heldBytes(1, math.MaxUint64) && h.state.log.Status().LastIndex == last
	})
	if carried := h.state.log.Status().LastIndex - before; carried > 2*n {
		t.Errorf("%d records were carried to have room, of %d messages that fill the log", carried, n)
	}
	h.pass(10 * time.Hour)
	h.settle()
	h.eventually("the log is small", func() bool { return look() <= limit })
}

func TestWorthCarrying(t *testing.T) {
	h := newHolding(t)
	h.quiet()
	orders := h.topic("orders", 1)
	h.fill(orders, 4000, 4000)
	origin := h.hold(orders, 0, in(time.Hour))[0].Origin
	bytes := h.state.heldBytes(1, origin+1)
	if bytes < 80 || bytes > 200 || h.state.heldBytes(1, origin) != 0 || h.state.heldBytes(origin+1, 1<<60) != 0 {
		t.Errorf("a message takes %d bytes", bytes)
	}
	for _, c := range []struct {
		spares []store.Spare
		want   uint64
	}{
		{nil, 0},
		{[]store.Spare{{Next: origin, Bytes: 1}}, origin},
		{[]store.Spare{{Next: origin + 1, Bytes: 2*bytes - 1}}, 0},
		{[]store.Spare{{Next: origin + 1, Bytes: 2 * bytes}}, origin + 1},
		{[]store.Spare{{Next: origin, Bytes: 1}, {Next: origin + 1, Bytes: 1}}, origin},
		{[]store.Spare{{Next: origin + 1, Bytes: 1}, {Next: origin + 9, Bytes: 2*bytes - 1}}, origin + 9},
	} {
		if got := h.state.worthCarrying(c.spares); got != c.want {
			t.Errorf("%+v: got %d, want %d", c.spares, got, c.want)
		}
	}
}

func TestCarryRecord(t *testing.T) {
	want := heldRecord{Type: store.TimerRecord, Origin: 300, StoreMillis: 1_700_000_000_000, Data: []byte("data")}
	queue := store.QueueKey{Topic: 7, Queue: 3}
	r := want.carried(queue)
	if r.Type != store.CarryRecord || r.Queue != queue || !bytes.Equal(r.Data, append([]byte{1, 8, 0xac, 2, 0x80, 0xd0, 0x95, 0xff, 0xbc, 0x31}, "data"...)) {
		t.Errorf("got %+v", r)
	}
	got, err := openHeld(store.Committed{Record: r, Index: 1000})
	if err != nil || got.Type != want.Type || got.Origin != 300 || got.StoreMillis != want.StoreMillis || !bytes.Equal(got.Data, want.Data) {
		t.Errorf("got %+v: %v", got, err)
	}
	again := got.carried(queue)
	if !slices.Equal(again.Data, r.Data) {
		t.Errorf("carried a second time: %x, want %x", again.Data, r.Data)
	}
	for _, bad := range [][]byte{nil, {1}, {1, 8}, {1, 8, 0xac}, {1, 8, 1, 0x80}, {2, 8, 1, 1}, {1, 8, 0xe8, 7, 1}} { // the last one: its own index
		if _, err := openHeld(store.Committed{Record: store.Record{Type: store.CarryRecord, Data: bad}, Index: 1000}); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%x: got %v", bad, err)
		}
	}
	h := newHolding(t)
	unknown := heldRecord{Type: 99, Origin: 1}
	if err := h.state.applyCarry(store.Committed{Record: unknown.carried(queue), Index: 5}); !errors.Is(err, store.ErrNewerVersion) {
		t.Errorf("a record of an unknown type: got %v", err)
	}
}

// TestTimers_DamagedRecord: messages that cannot be read hold up no others, and
// nobody says that they were never held.
func TestTimers_DamagedRecord(t *testing.T) {
	h := newHolding(t, tinySegments)
	orders := h.topic("orders", 1)
	m := in(10 * time.Hour)
	m.Body = bytes.Repeat([]byte("damage me "), 10)
	bad := h.hold(orders, 0, m)[0]
	h.fill(orders, 3*tinySegment, 4000)
	good := h.hold(orders, 0, in(10*time.Hour))[0]
	h.pass(2 * time.Hour)
	h.spares(1) // it is sealed
	h.close()
	path := filepath.Join(h.cfg.DataDir, LogDir, "00000000000000000001.seg")
	file, err := os.ReadFile(path)
	h.check(err)
	at := bytes.Index(file, []byte("damage me damage"))
	file[at] ^= 1
	h.check(os.WriteFile(path, file, 0o600))
	h.open()
	h.pass(10 * time.Hour)
	h.eventually("the other message is delivered", func() bool { return h.state.timers.Len() == 1 })
	h.wantRecall(good, false, 0)
	h.quiet()
	if h.timers.round() {
		t.Error("a record that cannot be read is tried again at once")
	}
	h.wantRecall(bad, false, protocol.Damaged)
	list := h.list(protocol.ListDelayedRequest{Max: 10})
	if len(list.Messages) != 1 || list.Messages[0].Origin != bad.Origin || list.Messages[0].ID != "" {
		t.Errorf("got %+v", list)
	}
	h.pass(2 * time.Hour)
	h.retention.look(h.Context())
	if first := h.firstIndex(); first != 1 {
		t.Errorf("the log begins at %d: what could not be carried was dropped", first)
	}
}
