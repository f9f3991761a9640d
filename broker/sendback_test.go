package broker

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// failing is a group "g" whose consumers fail what they read of topic "orders".
type failing struct {
	*holding
	orders topic.Topic
}

func newFailing(t *testing.T) *failing {
	t.Helper()
	h := newHolding(t)
	return &failing{h, h.topic("orders", 4)}
}

// backs are those of the broker as it runs now.
func (f *failing) backs() *sendBacks {
	return newSendBacks(f.state, f.timers, &topicAdmin{state: f.state, registration: &registration{}}, f.state.now)
}

func (f *failing) configure(cfg protocol.GroupConfig) {
	f.Helper()
	cfg.Name, cfg.ConsumeEnabled = "g", true
	f.check(group.Validate(cfg))
	f.check(f.state.append(f.Context(), store.Record{Type: store.GroupRecord, Data: group.EncodePut(cfg)}))
}

// send stores a message in queue 3 of orders.
func (f *failing) send(m *message.Message) *message.Stored {
	f.Helper()
	m.Topic, m.ID, m.BornTime = "orders", f.ids.Next(), time.UnixMilli(f.millis())
	b := batch.NewBuilder("orders", 3)
	b.Add(m)
	r := store.Record{Type: store.BatchRecord, Queue: store.QueueKey{Topic: f.orders.ID, Queue: 3}, Count: 1, Data: b.Finish(), Waits: true}
	f.check(f.state.append(f.Context(), r))
	all := f.delivered(f.orders, 3)
	return &all[len(all)-1]
}

// back is the request for a message as it was read.
func back(m *message.Stored) *protocol.SendBackRequest {
	return &protocol.SendBackRequest{
		Group: "g", ClientID: "c", Topic: m.Queue.Topic, Queue: m.Queue.ID, Offset: m.QueueOffset, MessageID: m.ID.String(),
		DelayMillis: protocol.ByPolicy, Error: "no funds",
	}
}

func (f *failing) giveBack(r *protocol.SendBackRequest) *protocol.SendBackResponse {
	f.Helper()
	resp, err := f.backs().sendBack(f.Context(), r)
	f.check(err)
	return resp
}

func (f *failing) copies(name string) []message.Stored {
	f.Helper()
	t, ok := f.state.topics.Lookup(name)
	if !ok {
		return nil
	}
	if t.Perm != message.PermRead || t.ReadQueues != 1 || t.WriteQueues != 1 {
		f.Errorf("topic %+v", t)
	}
	return f.delivered(t, 0)
}

// lease gives queue 3 of orders to client c and returns the fence.
func (f *failing) lease(client string) uint64 {
	f.Helper()
	f.check(f.state.append(f.Context(), store.Record{Type: store.LeasesRecord, Data: group.EncodeLeases("g", f.orders.ID, "", []int{3})}))
	f.check(f.state.append(f.Context(), store.Record{Type: store.LeasesRecord, Data: group.EncodeLeases("g", f.orders.ID, client, []int{3})}))
	_, fence, _ := f.state.groups.Lease("g", f.orders.ID, 3)
	return fence
}

// The times are RocketMQ's, and those of an exponential policy.
func TestSendBack_APoisonMessageIsADeadLetterInTheEnd(t *testing.T) {
	second := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second}
	for name, c := range map[string]struct {
		cfg  protocol.GroupConfig
		want string
	}{
		"default":     {protocol.GroupConfig{}, "10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"},
		"exponential": {protocol.GroupConfig{RetryMax: 4, RetryPolicy: protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: second[0].Milliseconds(), MaxMillis: second[3].Milliseconds()}}, "1s 2s 4s 5s"},
		"none":        {protocol.GroupConfig{RetryMax: protocol.NoRetry}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFailing(t)
			f.configure(c.cfg)
			m := f.send(&message.Message{Tag: "t", Keys: []string{"k"}, DedupKey: "d", Priority: 3, Properties: map[string]string{"a": "b"}, Body: []byte("pay")})
			sent, now := m.Message, m
			for n, text := range strings.Fields(c.want) {
				delay, err := time.ParseDuration(text)
				f.check(err)
				if r := f.giveBack(back(now)); r.Dead || r.DeliverAtMillis != f.millis()+delay.Milliseconds() {
					t.Fatalf("retry %d: got %+v at %d, want after %v", n+1, r, f.millis(), delay)
				}
				f.pass(delay - time.Millisecond)
				f.settle()
				if got := f.copies("%RETRY%g"); len(got) != n {
					t.Fatalf("retry %d: %d copies before the time", n+1, len(got))
				}
				f.pass(time.Millisecond)
				f.timers.poke()
				f.eventually("the message is delivered again", func() bool { return len(f.copies("%RETRY%g")) == n+1 })
				all := f.copies("%RETRY%g")
				now = &all[n]
				f.wantCopy(now, &sent, n+1, m)
			}
			if r := f.giveBack(back(now)); !r.Dead || r.DeliverAtMillis != 0 {
				t.Fatalf("at last: got %+v", r)
			}
			dead := f.copies("%DLQ%g")
			if len(dead) != 1 || f.state.timers.Len() != 0 {
				t.Fatalf("got %d dead letters, and %d messages wait", len(dead), f.state.timers.Len())
			}
			f.wantCopy(&dead[0], &sent, len(strings.Fields(c.want))+1, m)
		})
	}
}

// wantCopy holds a copy to what was sent, and where it was.
func (f *failing) wantCopy(got *message.Stored, sent *message.Message, times int, at *message.Stored) {
	f.Helper()
	o := got.Origin
	if got.ReconsumeTimes != times || o == nil || o.Topic != "orders" || o.Queue != 3 || o.Offset != at.QueueOffset || o.LastError != "no funds" {
		f.Errorf("copy %d: %+v of %+v", times, got, o)
	}
	if got.ID != sent.ID || got.Tag != sent.Tag || !slices.Equal(got.Keys, sent.Keys) || got.DedupKey != sent.DedupKey || got.Priority != sent.Priority ||
		got.Properties["a"] != "b" || string(got.Body) != string(sent.Body) || !got.DeliverAt.IsZero() || !got.BornTime.Equal(sent.BornTime) {
		f.Errorf("copy %d: got %+v, want %+v", times, got, sent)
	}
}

func TestSendBack_OutlivesARestart(t *testing.T) {
	f := newFailing(t)
	m := f.send(&message.Message{Body: []byte("pay")})
	f.giveBack(back(m))
	f.kill()
	f.pass(10 * time.Second)
	f.timers.poke()
	f.eventually("the message is delivered again", func() bool { return len(f.copies("%RETRY%g")) == 1 })
	f.restart()
	f.giveBack(back(m)) // the answer was lost
	if n := f.state.timers.Len(); n != 0 || len(f.copies("%RETRY%g")) != 1 {
		t.Errorf("%d messages wait again", n)
	}
	// Members that begin now have it to consume all the same.
	retry, _ := f.state.topics.Lookup("%RETRY%g")
	late := starts{"c": {Target: protocol.ResetToLatest}}
	if next, err := f.state.next(store.QueueKey{Topic: retry.ID}, group.Progress{Committed: -1}, late); next != 0 || err != nil {
		t.Errorf("the group begins at %d, %v", next, err)
	}
}

func TestSendBack_TheSameAgainMakesNoSecondCopy(t *testing.T) {
	f := newFailing(t)
	m, other := f.send(&message.Message{Body: []byte("a")}), f.send(&message.Message{Body: []byte("b")})
	fence := f.lease("c")
	request, dead := back(m), back(other)
	request.Fence, dead.Fence, dead.Dead = fence, fence, true
	backs := f.backs()
	var sending sync.WaitGroup
	for range 8 {
		sending.Go(func() {
			if r, err := backs.sendBack(t.Context(), request); err != nil || r.DeliverAtMillis != f.millis()+10_000 {
				t.Errorf("got %+v, %v", r, err)
			}
			if r, err := backs.sendBack(t.Context(), dead); err != nil || !r.Dead {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
	sending.Wait()
	f.kill()
	f.giveBack(request)
	f.giveBack(dead)
	if n, dead := f.state.timers.Len(), len(f.copies("%DLQ%g")); n != 1 || dead != 1 {
		t.Errorf("got %d copies that wait and %d dead letters, want 1 and 1", n, dead)
	}
	// The group is set back, and the message fails anew.
	request.Fence = f.lease("c")
	f.giveBack(request)
	if n := f.state.timers.Len(); n != 2 {
		t.Errorf("after a reset: got %d copies, want 2", n)
	}
}

func TestSendBack_DelaysAndAttempts(t *testing.T) {
	f := newFailing(t)
	at := func(delay int64) int64 {
		r := back(f.send(&message.Message{}))
		r.DelayMillis = delay
		return f.giveBack(r).DeliverAtMillis - f.millis()
	}
	if got := at(0); got != 0 {
		t.Errorf("at once: got %d", got)
	}
	if got := at(message.MaxDelay.Milliseconds()); got != message.MaxDelay.Milliseconds() {
		t.Errorf("in a year: got %d", got)
	}
	r := back(f.send(&message.Message{Group: "lane"}))
	r.Dead, r.Attempts, r.Error = true, 7, strings.Repeat("ä", message.MaxErrorBytes)
	f.giveBack(r)
	dead := f.copies("%DLQ%g")
	if got := &dead[0]; got.ReconsumeTimes != 7 || got.Origin.LastError != strings.Repeat("ä", message.MaxErrorBytes/2) || got.Group != "lane" {
		t.Errorf("got %+v of %+v", got, got.Origin)
	}
	if got := shortened("x" + strings.Repeat("ä", 1000)); len(got) != message.MaxErrorBytes-1 {
		t.Errorf("cut to %d bytes", len(got))
	}
}

func TestSendBack_IsRefused(t *testing.T) {
	f := newFailing(t)
	m := f.send(&message.Message{})
	fence := f.lease("c")
	for name, c := range map[string]struct {
		spoil func(*protocol.SendBackRequest)
		want  protocol.ErrorCode
	}{
		"another id":         {func(r *protocol.SendBackRequest) { r.MessageID = message.MakeID(1, 1).String() }, protocol.NotFound},
		"behind the end":     {func(r *protocol.SendBackRequest) { r.Offset++ }, protocol.OffsetOutOfRange},
		"negative offset":    {func(r *protocol.SendBackRequest) { r.Offset = -1 }, protocol.InvalidArgument},
		"old fence":          {func(r *protocol.SendBackRequest) { r.Fence-- }, protocol.Fenced},
		"another's lease":    {func(r *protocol.SendBackRequest) { r.ClientID, r.Fence = "d", 0 }, protocol.Fenced},
		"another with fence": {func(r *protocol.SendBackRequest) { r.ClientID = "d" }, protocol.Fenced},
		"no topic":           {func(r *protocol.SendBackRequest) { r.Topic = "none" }, protocol.TopicNotFound},
		"no queue":           {func(r *protocol.SendBackRequest) { r.Queue = 4 }, protocol.QueueNotFound},
		"no group":           {func(r *protocol.SendBackRequest) { r.Group = "" }, protocol.InvalidArgument},
		"delay too long":     {func(r *protocol.SendBackRequest) { r.DelayMillis = message.MaxDelay.Milliseconds() + 1 }, protocol.InvalidArgument},
		"delay below":        {func(r *protocol.SendBackRequest) { r.DelayMillis = -2 }, protocol.InvalidArgument},
	} {
		r := back(m)
		r.Fence = fence
		c.spoil(r)
		if _, err := f.backs().sendBack(t.Context(), r); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
	if f.state.timers.Len() != 0 || f.copies("%DLQ%g") != nil {
		t.Error("what was refused left something")
	}
}

func TestSend_NobodyElseMakesCopies(t *testing.T) {
	f := newFailing(t)
	for _, m := range []message.Message{{ReconsumeTimes: 1}, {Origin: &message.Origin{Topic: "orders"}}} {
		b := batch.NewBuilder("orders", 0)
		m.ID, m.BornTime = f.ids.Next(), time.UnixMilli(f.millis())
		b.Add(&m)
		parcels, err := split(b.Finish())
		if err != nil {
			t.Fatal(err)
		}
		if err := (&sender{state: f.state}).take(&sending{}, 0, &parcels[0]); !errors.Is(err, protocol.IllegalMessage) {
			t.Errorf("got %v, want it refused", err)
		}
	}
}

func TestResend_KeepsTheIDAndSaysSo(t *testing.T) {
	f := newFailing(t)
	m := f.send(&message.Message{Body: []byte("pay"), DedupKey: "d"})
	r := back(m)
	r.Dead = true
	f.giveBack(r)
	dead := f.copies("%DLQ%g")[0]
	again := &protocol.ResendDeadLetterRequest{Group: "g", Offset: dead.QueueOffset, MessageID: dead.ID.String()}
	resp, err := f.backs().resend(t.Context(), again)
	if f.check(err); resp.Topic != "orders" || resp.Queue != 3 || resp.Offset != 1 || resp.Duplicate {
		t.Fatalf("got %+v", resp)
	}
	got := f.wantDelivered(f.orders, 3, 2)[1]
	if got.ID != m.ID || string(got.Body) != "pay" || got.ReconsumeTimes != 0 || got.Origin == nil || got.Origin.Topic != "%DLQ%g" || got.Origin.LastError != "no funds" {
		t.Errorf("got %+v of %+v", got, got.Origin)
	}
	f.restart()
	resp, err = f.backs().resend(t.Context(), again)
	if f.check(err); !resp.Duplicate || resp.Offset != 1 {
		t.Errorf("again: got %+v", resp)
	}
	f.wantDelivered(f.orders, 3, 2)

	// It fails again: its origin is its own place, not the dead letter.
	r = back(&got)
	r.Dead = true
	f.giveBack(r)
	if second := f.copies("%DLQ%g")[1]; second.Origin.Topic != "orders" || second.Origin.Offset != 1 || second.ReconsumeTimes != 1 {
		t.Errorf("got %+v of %+v", second, second.Origin)
	}

	// After a purge the same place is another dead letter.
	dlq, _ := f.state.topics.Lookup("%DLQ%g")
	before := f.state.copies.Count()
	f.deleteTopic(dlq)
	if got := f.state.copies.Count(); got != before-2 {
		t.Errorf("%d of %d copies are known after the purge of 2", got, before)
	}
	f.giveBack(r)
	again.Offset = f.copies("%DLQ%g")[0].QueueOffset
	resp, err = f.backs().resend(t.Context(), again)
	if f.check(err); resp.Duplicate || resp.Offset != 2 {
		t.Errorf("after a purge: got %+v", resp)
	}
	f.deleteTopic(f.orders)
	if _, err := f.backs().resend(t.Context(), again); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("without its topic: got %v", err)
	}
}

func TestSendBack_IntoATopicThatIsDeletedMeanwhile(t *testing.T) {
	f := newFailing(t)
	m := f.send(&message.Message{})
	backs := f.backs()
	to, err := backs.topicOf(t.Context(), "%DLQ%g")
	f.check(err)
	f.deleteTopic(to)
	failed(&m.Message, back(m))
	if c := backs.copy(t.Context(), to, 0, &m.Message, nil); !errors.Is(c.err, protocol.Unavailable) {
		t.Errorf("got %+v, want to be asked again", c)
	}
}
