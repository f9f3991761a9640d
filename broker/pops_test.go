package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// popping is a cluster whose group "g" pops topic "t", in the wire's own words. The
// test moves the clock unless it is the real one.
type popping struct {
	*lagging
	filter protocol.Filter
	start  *protocol.Start
}

func newPopping(t *testing.T, queues int, change ...func(*broker.Config)) *popping {
	t.Helper()
	p := &popping{lagging: &lagging{newClocked(t, change...)}}
	p.begin(queues)
	return p
}

// newTimedPopping goes by the real clock.
func newTimedPopping(t *testing.T, queues int) *popping {
	t.Helper()
	noEnd := func(c *broker.Config) { c.SessionTimeout = 1000 * time.Hour } // members say once that they are there
	p := &popping{lagging: &lagging{newDeciding(t, noEnd)}}
	p.begin(queues)
	return p
}

func (p *popping) begin(queues int) {
	p.Helper()
	p.topic("t", queues)
	must[protocol.Empty](p.deciding, protocol.ClassAdmin, &protocol.PutGroupRequest{Mode: protocol.PutCreate,
		Group: protocol.GroupConfig{Name: "g", ConsumeEnabled: true, RetryMax: 3}})
	p.check(p.join("c", p.start))
}

// put stores a batch of messages; "a/x" is one with body x of message group a.
func (p *popping) put(queue int, texts ...string) {
	p.Helper()
	var ms []*message.Message
	for _, text := range texts {
		m := &message.Message{ID: p.ids.Next(), BornTime: time.UnixMilli(1), Body: []byte(text)}
		if name, _, ok := strings.Cut(text, "/"); ok {
			m.Group = name
		}
		if _, tag, ok := strings.Cut(text, "#"); ok {
			m.Tag = tag
		}
		ms = append(ms, m)
	}
	req := &protocol.SendRequest{Batches: encoded(batch.Lead{Topic: "t", Queue: queue}, ms...)}
	if r := must[protocol.SendResponse](p.deciding, protocol.ClassSend, req).Results[0]; r.Err != nil {
		p.Fatal(r.Err)
	}
}

// handle is a message that was handed out.
type handle struct {
	queue   int
	fence   uint64
	offset  int64
	attempt int
	body    string
}

func (h handle) String() string { return fmt.Sprintf("%s:%d", h.body, h.attempt) }

func (p *popping) request(max int, invisible, wait time.Duration) *protocol.PopRequest {
	r := &protocol.PopRequest{Group: "g", ClientID: "c", MaxCount: int64(max), MaxBytes: 1 << 20, InvisibleMillis: invisible.Milliseconds(),
		WaitMillis: wait.Milliseconds(), Topics: []protocol.PopTopic{{Topic: "t"}}}
	if p.filter.Kind != "" {
		r.Filters, r.Topics[0].Filter = []protocol.Filter{p.filter}, 1
	}
	return r
}

// pop takes messages that are invisible for a minute.
func (p *popping) pop(max int) []handle {
	p.Helper()
	return p.popFor(max, time.Minute, 0)
}

func (p *popping) popFor(max int, invisible, wait time.Duration) []handle {
	p.Helper()
	got, err := p.tryPop(p.request(max, invisible, wait))
	p.check(err)
	return got
}

// waitFor has a pop wait.
func (p *popping) waitFor(invisible, wait time.Duration) <-chan []handle {
	popped := make(chan []handle, 1)
	go func() {
		got, err := p.tryPop(p.request(9, invisible, wait))
		if err != nil {
			p.Error(err)
		}
		popped <- got
	}()
	return popped
}

func (p *popping) tryPop(r *protocol.PopRequest) (got []handle, err error) {
	resp, err := call[protocol.PopResponse](p.deciding, p.conn, protocol.ClassPull, r)
	if err != nil {
		return nil, err
	}
	for _, q := range resp.Queues {
		if q.Err != nil {
			err = q.Err
			continue
		}
		bodies := map[int64]string{}
		for rest := q.Batches; len(rest) > 0; {
			var all []message.Stored
			all, rest, err = batch.Decode(nil, rest, "broker-a")
			if err != nil {
				return nil, err
			}
			for _, m := range all {
				bodies[m.QueueOffset] = string(m.Body)
			}
		}
		for _, m := range q.Messages {
			body, ok := bodies[m.Offset]
			if !ok {
				return nil, fmt.Errorf("offset %d was handed out and not given", m.Offset)
			}
			got = append(got, handle{queue: q.Queue, fence: q.Fence, offset: m.Offset, attempt: m.Attempt, body: body})
		}
	}
	return got, err
}

// wantPop wants these messages, as "body:attempt", and returns them as sorted.
func (p *popping) wantPop(max int, want string) []handle {
	p.Helper()
	got := p.pop(max)
	slices.SortFunc(got, func(a, b handle) int { return strings.Compare(a.String(), b.String()) })
	var texts []string
	for _, h := range got {
		texts = append(texts, h.String())
	}
	if strings.Join(texts, " ") != want {
		p.Fatalf("got %q, want %q", strings.Join(texts, " "), want)
	}
	return got
}

func acks(handles []handle) protocol.AckRequest {
	r := protocol.AckRequest{Group: "g", ClientID: "c"}
	for _, h := range handles {
		r.Queues = append(r.Queues, protocol.AckQueue{Topic: "t", Queue: h.queue, Fence: h.fence, Offsets: []int64{h.offset}})
	}
	return r
}

// settled is the outcome for each handle: "ok", "expired", or the code of an error.
func settled(resp *protocol.AckResponse) string {
	var out []string
	for _, q := range resp.Queues {
		switch {
		case q.Err != nil:
			out = append(out, q.Err.Code.String())
		case len(q.Expired) > 0:
			out = append(out, "expired")
		default:
			out = append(out, "ok")
		}
	}
	return strings.Join(out, " ")
}

func (p *popping) ack(handles ...handle) string {
	p.Helper()
	r := acks(handles)
	return settled(must[protocol.AckResponse](p.deciding, protocol.ClassClient, &r))
}

func (p *popping) change(by time.Duration, handles ...handle) string {
	p.Helper()
	r := &protocol.ChangeInvisibleRequest{AckRequest: acks(handles), InvisibleMillis: by.Milliseconds()}
	return settled(must[protocol.AckResponse](p.deciding, protocol.ClassClient, r))
}

func TestPop_HandsOutOnceUntilTheTimeIsOver(t *testing.T) {
	p := newPopping(t, 1)
	p.put(0, "1", "2", "3")
	first := p.wantPop(2, "1:1 2:1")
	second := p.wantPop(9, "3:1")
	p.wantPop(9, "")
	if got := p.ack(first[0]); got != "ok" {
		t.Errorf("ack: %s", got)
	}
	p.pass(time.Minute - time.Millisecond)
	p.wantPop(9, "")
	p.pass(time.Millisecond)
	again := p.wantPop(9, "2:2 3:2")
	if got := p.ack(first[0], first[1], second[0]); got != "ok expired expired" {
		t.Errorf("acks: %s", got)
	}
	if got := p.ack(again[0], again[0], first[1]); got != "ok ok ok" { // it is finished, whoever did it
		t.Errorf("acks: %s", got)
	}
	p.pass(time.Minute)
	if got := p.ack(again[1]); got != "ok" { // late, and nobody has it yet
		t.Errorf("late ack: %s", got)
	}
	p.wantPop(9, "")
	if _, err := p.tryPop(p.request(9, time.Hour*13, 0)); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("too long: %v", err)
	}
}

func TestPop_WaitsForMessagesDeadlinesAndLanes(t *testing.T) {
	p := newTimedPopping(t, 3)
	const wait = harness.Timeout
	popped := p.waitFor(50*time.Millisecond, wait)
	p.put(2, "a/1", "a/2")
	first := <-popped
	again := p.popFor(9, wait, wait) // when its time is over
	if fmt.Sprint(first, again) != "[a/1:1] [a/1:2]" {
		t.Fatalf("got %v, %v", first, again)
	}
	popped = p.waitFor(wait, wait)
	if got := p.ack(again...); got != "ok" {
		t.Errorf("ack: %s", got)
	}
	next := <-popped
	if fmt.Sprint(next) != "[a/2:1]" {
		t.Errorf("got %v", next)
	}
	popped = p.waitFor(wait, wait)
	if got := p.change(20*time.Millisecond, next...); got != "ok" {
		t.Errorf("change: %s", got)
	}
	if got := <-popped; fmt.Sprint(got) != "[a/2:2]" {
		t.Errorf("got %v", got)
	}
}

// Each message group is in order, whatever the others do; what has none is free.
func TestPop_KeepsTheOrderOfMessageGroups(t *testing.T) {
	p := newPopping(t, 1)
	p.put(0, "a/1", "a/2", "b/1", "3")
	p.put(0, "a/3", "b/2", "4")
	first := p.wantPop(9, "3:1 4:1 a/1:1 b/1:1")
	p.ack(first[2])
	second := p.wantPop(9, "a/2:1")
	p.pass(time.Minute)
	again := p.wantPop(9, "3:2 4:2 a/2:2 b/1:2")
	if got := p.ack(second[0]); got != "expired" {
		t.Errorf("ack: %s", got)
	}
	p.ack(again...)
	p.ack(p.wantPop(9, "a/3:1 b/2:1")...)
	p.put(0, "c/1", "c/2", "c/3", "5")
	p.ack(p.wantPop(2, "5:1 c/1:1")...) // what waits takes nobody's place
	p.ack(p.wantPop(2, "c/2:1")...)
	p.ack(p.wantPop(2, "c/3:1")...)
	p.want("11:0/0")
	p.put(0, "d/1")
	first = p.wantPop(9, "d/1:1")
	p.put(0, "d/2")
	p.wantPop(9, "") // it is known now, and waits
	p.ack(first...)
	p.ack(p.wantPop(9, "d/2:1")...)
	p.want("13:0/0")
}

// maxBehind is how many messages of a queue the broker has wait for others.
const maxBehind = 1024

// A message group that is stuck with many messages behind it holds up its queue in the
// end, and no other one, until it goes on.
func TestPop_LooksAheadOnlySoFar(t *testing.T) {
	p := newPopping(t, 2)
	texts := make([]string, 1+maxBehind+1)
	for i := range texts {
		texts[i] = fmt.Sprintf("a/%d", i)
	}
	p.put(0, texts...)
	p.put(0, "b/0")
	p.put(1, "c/0")
	first := p.wantPop(9, "a/0:1 c/0:1")
	p.wantPop(9, "")
	p.want("0:1027/0 0:1/0")
	p.ack(first...)
	second := p.wantPop(9, "a/1:1 b/0:1")
	if o := p.group("g").Queues[0]; o.Lag != 1026 || o.InFlight != 2 || o.Ready != 0 || o.Committed != 1 {
		t.Errorf("got %+v", o)
	}
	p.ack(second...)
}

func TestPop_Filters(t *testing.T) {
	p := newPopping(t, 1)
	for _, f := range []protocol.Filter{{Kind: protocol.FilterTag, Text: "red || blue"}, {Kind: protocol.FilterSQL, Text: "TAGS IN ('red','blue')"}} {
		p.filter = f
		p.put(0, "1#red", "2#green", "3#blue")
		p.put(0, "4#green", "5#green")
		p.put(0, "6#red")
		first := p.wantPop(2, "1#red:1 3#blue:1")
		if o := p.group("g").Queues[0]; o.Lag != 2+3 || o.InFlight != 2 {
			t.Errorf("got %+v", o)
		}
		second := p.wantPop(9, "6#red:1")
		p.ack(first...)
		p.ack(second...)
		p.put(0, "7#green")
		p.wantPop(9, "") // the group's offset is behind it
		if o := p.group("g").Queues[0]; o.Lag != 0 || o.Committed != o.End {
			t.Errorf("got %+v", o)
		}
	}
	for _, text := range []string{"1#green", "2#green"} { // told while the pop waits
		popped := p.waitFor(time.Minute, harness.Timeout)
		p.put(0, text)
		p.eventually("the offset moves", func() bool { o := p.group("g").Queues[0]; return o.Committed == o.End })
		p.put(0, "red#red")
		p.ack(<-popped...)
		p.want(fmt.Sprintf("%d:0/0", p.group("g").Queues[0].End))
	}
	p.filter.Text = "("
	if _, err := p.tryPop(p.request(1, time.Minute, 0)); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("a filter that is none: %v", err)
	}
}

// Handles that nobody was given change nothing, and say so.
func TestPop_ForgedHandles(t *testing.T) {
	p := newPopping(t, 1)
	if got := p.ack(handle{fence: 1}); got != "NOT_FOUND" {
		t.Errorf("before any pop: %s", got)
	}
	p.put(0, "a/1", "a/2", "3")
	h := p.wantPop(1, "a/1:1")[0]
	forge := func(change func(*handle)) handle {
		f := h
		change(&f)
		return f
	}
	none := forge(func(h *handle) { h.fence = 0 })
	later := forge(func(h *handle) { h.fence++ })
	beyond := forge(func(h *handle) { h.offset = 1 << 40 })
	waits := forge(func(h *handle) { h.offset = 1 })
	other := forge(func(h *handle) { h.queue = 7 })
	p.wantPop(9, "3:1") // a/2 is known, and waits
	for name, f := range map[string]handle{"no fence": none, "a fence to come": later, "an offset to come": beyond, "one that waits": waits, "another queue": other} {
		want := "NOT_FOUND"
		if name == "a fence to come" {
			want = "expired" // by now it is that of the second pop
		}
		if got := p.ack(f); got != want {
			t.Errorf("%s: %s", name, got)
		}
		if got := p.change(time.Second, f); got != want {
			t.Errorf("%s, change: %s", name, got)
		}
	}
	if o := p.group("g").Queues[0]; o.Lag != 3 || o.InFlight != 2 {
		t.Errorf("got %+v", o)
	}
	for want, r := range map[protocol.ErrorCode]*protocol.AckRequest{
		protocol.GroupNotFound: {Group: "nobody", Queues: []protocol.AckQueue{{Topic: "t", Fence: h.fence, Offsets: []int64{0}}}},
	} {
		if _, err := call[protocol.AckResponse](p.deciding, p.conn, protocol.ClassClient, r); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	r := &protocol.AckRequest{Group: "g", Queues: []protocol.AckQueue{{Topic: "nothing", Fence: h.fence, Offsets: []int64{0}}}}
	if got := settled(must[protocol.AckResponse](p.deciding, protocol.ClassClient, r)); got != "TOPIC_NOT_FOUND" {
		t.Errorf("unknown topic: %s", got)
	}
}

func TestPop_Refused(t *testing.T) {
	p := newPopping(t, 1)
	p.put(0, "1")
	for want, change := range map[protocol.ErrorCode]func(*protocol.PopRequest){
		protocol.GroupNotFound:   func(r *protocol.PopRequest) { r.Group = "nobody" },
		protocol.UnknownMember:   func(r *protocol.PopRequest) { r.ClientID = "stranger" },
		protocol.TopicNotFound:   func(r *protocol.PopRequest) { r.Topics[0].Topic = "nothing" },
		protocol.InvalidArgument: func(r *protocol.PopRequest) { r.MaxCount = 1 << 31 },
	} {
		r := p.request(9, time.Minute, harness.Timeout)
		change(r)
		if got, err := p.tryPop(r); !errors.Is(err, want) || len(got) != 0 {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	off := protocol.GroupConfig{Name: "g"}
	must[protocol.Empty](p.deciding, protocol.ClassAdmin, &protocol.PutGroupRequest{Mode: protocol.PutAlter, Group: off})
	if _, err := p.tryPop(p.request(9, time.Minute, 0)); !errors.Is(err, protocol.NoPermission) {
		t.Errorf("a group that may not consume: %v", err)
	}
}

// What does not fit into the bytes stays; one message is given in any case.
func TestPop_Bytes(t *testing.T) {
	p := newPopping(t, 2)
	big := strings.Repeat("x", 1000)
	p.put(0, big+"1", big+"2", big+"3", big+"4")
	p.put(1, big+"5", big+"6")
	for _, c := range []struct{ bytes, min, max int }{{1, 1, 1}, {2500, 2, 2}, {1 << 20, 3, 3}} {
		r := p.request(9, time.Minute, 0)
		r.MaxBytes = int64(c.bytes)
		got, err := p.tryPop(r)
		p.check(err)
		if len(got) < c.min || len(got) > c.max {
			t.Errorf("%d messages for %d bytes", len(got), c.bytes)
		}
	}
	p.pass(time.Minute)
	r := p.request(9, time.Minute, 0)
	r.MaxBytes = 1
	if got, err := p.tryPop(r); err != nil || len(got) != 1 || got[0].attempt != 2 {
		t.Errorf("again: got %v, %v", got, err)
	}
}

// What was acknowledged stays so, what was handed out stays with whom it is, and what
// nobody acknowledged comes back.
func TestPop_OutlivesARestart(t *testing.T) {
	p := newPopping(t, 2)
	p.put(0, "a/1", "a/2", "3", "4")
	p.put(1, "5")
	first := p.wantPop(9, "3:1 4:1 5:1 a/1:1")
	if got := p.ack(first[0], first[3]); got != "ok ok" { // 3, a/1
		t.Fatal(got)
	}
	p.restart()
	p.check(p.join("c", nil))
	p.ack(p.wantPop(9, "a/2:1")...)
	if got := p.ack(first[1], first[0]); got != "ok ok" { // 4, 3
		t.Errorf("acks of before: %s", got)
	}
	p.pass(time.Minute)
	p.restart()
	p.check(p.join("c", nil))
	p.ack(p.wantPop(9, "5:2")...)
	p.want("4:0/0 1:0/0")
}
