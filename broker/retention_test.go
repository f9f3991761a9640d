package broker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/fabric"
	"github.com/rmqio/rmq/transport/protocol"
)

// keeping is a cluster with small segments that looks after its messages all the
// time, and whose clock and disk tests move.
type keeping struct {
	*testing.T
	cluster  *harness.Cluster
	admin    *admin.Admin
	producer *producer.Producer

	clock atomic.Int64 // Unix milliseconds
	used  atomic.Int64 // percent of the disk
	looks atomic.Int64 // at the disk: one for each look at retention, at least
}

func newKeeping(t *testing.T, r broker.Retention) *keeping {
	t.Helper()
	k := &keeping{T: t}
	k.clock.Store(1_700_000_000_000)
	k.cluster = harness.Start(t, func(c *broker.Config) {
		r.Interval = 2 * time.Millisecond
		c.Retention = r
		c.Now = func() time.Time { return time.UnixMilli(k.clock.Load()) }
		c.Store.FirstSegmentBytes, c.Store.SegmentBytes = 64<<10, 64<<10
		c.Store.DiskUse = func(string) (int, int64, error) {
			k.looks.Add(1)
			return int(k.used.Load()), 1 << 20, nil
		}
	})
	var err error
	if k.producer, err = producer.New(t.Context(), producer.Config{NameServers: k.cluster.NameServers, SendTimeout: harness.Timeout}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.check(k.producer.Close(context.WithoutCancel(t.Context()))) })
	if k.admin, err = admin.New(t.Context(), admin.Config{NameServers: k.cluster.NameServers}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.admin.Close)
	return k
}

func (k *keeping) check(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

// topic makes a topic of one queue.
func (k *keeping) topic(name string, change ...func(*admin.TopicSpec)) {
	k.Helper()
	s := admin.TopicSpec{Name: name, ReadQueues: 1, WriteQueues: 1}
	for _, f := range change {
		f(&s)
	}
	_, err := k.admin.CreateTopic(k.Context(), s, admin.Target{})
	k.check(err)
}

// send sends n messages, one after another, and returns the last one's offset.
func (k *keeping) send(topic string, n int) (last int64) {
	k.Helper()
	for range n {
		r, err := k.producer.Send(k.Context(), &message.Message{Topic: topic, Keys: []string{"key"}, Body: make([]byte, 3000)})
		k.check(err)
		last = r.Offset
	}
	return last
}

func (k *keeping) restart() {
	k.Helper()
	k.cluster.Stop()
	k.start()
}

// start starts a stopped cluster and waits until the clients have found it.
func (k *keeping) start() {
	k.Helper()
	k.cluster.Start()
	k.eventually("the cluster is healthy", func() bool { return k.admin.Health(k.Context()).Healthy })
}

func (k *keeping) pass(d time.Duration) { k.clock.Add(d.Milliseconds()) }

// look waits until retention has looked, from beginning to end, at what is so
// now.
func (k *keeping) look() {
	k.Helper()
	from := k.looks.Load()
	harness.Eventually(k, "retention looks", func() bool { return k.looks.Load() >= from+3 })
}

func (k *keeping) eventually(what string, condition func() bool) {
	k.Helper()
	harness.Eventually(k, what, condition)
}

func (k *keeping) firstIndex() uint64 { return k.cluster.Broker().Status().FirstIndex }

func (k *keeping) bounds(topic string) (first, end int64) {
	k.Helper()
	t, err := k.admin.DescribeTopic(k.Context(), topic, admin.Target{})
	k.check(err)
	q := t.Brokers[0].Queues[0]
	return q.Min, q.End
}

func (k *keeping) wantBounds(topic string, first, end int64) {
	k.Helper()
	if gotFirst, gotEnd := k.bounds(topic); gotFirst != first || gotEnd != end {
		k.Fatalf("topic %q has offsets %d to %d, want %d to %d", topic, gotFirst, gotEnd, first, end)
	}
}

// commit sets a group's offset.
func (k *keeping) commit(group, topic string, offset int64) {
	k.Helper()
	_, err := k.admin.CreateGroup(k.Context(), protocol.GroupConfig{Name: group, ConsumeEnabled: true}, admin.Target{})
	if err != nil && !errors.Is(err, protocol.Conflict) {
		k.Fatal(err)
	}
	_, err = k.admin.ResetOffsets(k.Context(), admin.Reset{Group: group, Topic: topic, To: protocol.ResetToOffset, Value: offset}, admin.Target{})
	k.check(err)
}

func (k *keeping) lag(group string) admin.QueueLag {
	k.Helper()
	rows, err := k.admin.GroupLag(k.Context(), group, admin.Target{})
	if err != nil || len(rows) != 1 {
		k.Fatalf("lag of group %q: %v, %v", group, rows, err)
	}
	return rows[0]
}

func TestRetention_AgeAndRestarts(t *testing.T) {
	k := newKeeping(t, broker.Retention{})
	k.topic("orders")
	k.topic("idle")
	k.send("idle", 3)
	k.send("orders", 60)
	k.commit("billing", "orders", 20)
	k.pass(broker.DefaultMaxAge - time.Minute)
	k.look()
	k.wantBounds("orders", 0, 60)
	if first := k.firstIndex(); first != 1 {
		t.Fatalf("the log begins at %d, nothing is too old", first)
	}
	k.pass(2 * time.Minute)
	k.eventually("segments are dropped", func() bool { return k.firstIndex() > 40 })
	for range 2 {
		k.look()
		k.wantBounds("orders", 60, 60) // what is in the newest segments is hidden
		k.wantBounds("idle", 3, 3)
		if l := k.lag("billing"); l.Committed != 20 || l.Min != 60 || l.Lag != 0 || l.LagMillis != 0 {
			t.Errorf("nothing is left to consume, and the lag is %+v", l)
		}
		k.restart()
	}
	if last := k.send("orders", 60); last != 119 {
		t.Errorf("the last of 60 more messages has offset %d, want 119", last)
	}
	if last := k.send("idle", 1); last != 3 {
		t.Errorf("the idle queue goes on at %d, want 3", last)
	}
	k.look()
	k.wantBounds("orders", 60, 120)
	k.pass(time.Minute)
	if l := k.lag("billing"); l.Lag != 60 || l.LagMillis != time.Minute.Milliseconds() {
		t.Errorf("60 messages are left to consume, and the lag is %+v", l)
	}
	before := k.firstIndex()
	k.restart()
	k.pass(broker.DefaultMaxAge)
	k.eventually("a log that nothing is written to drops segments", func() bool { return k.firstIndex() > before+40 })
}

func TestRetention_Bytes(t *testing.T) {
	const limit = 512 << 10
	k := newKeeping(t, broker.Retention{MaxAge: -1, MaxBytes: limit})
	k.topic("orders")
	k.send("orders", 150)
	k.pass(10000 * time.Hour)
	k.eventually("the log is small enough", func() bool { return k.cluster.Broker().Status().DiskBytes <= limit })
	first, end := k.bounds("orders")
	if first == 0 || first > 140 || end != 150 {
		t.Errorf("%d to %d are left of 150 messages", first, end)
	}
	k.look()
	k.wantBounds("orders", first, end) // the rest stays, however old it is
}

func keepUntilConsumed(s *admin.TopicSpec) { s.KeepUntilConsumed = true }

func retention(d time.Duration) func(*admin.TopicSpec) {
	return func(s *admin.TopicSpec) { s.RetentionMillis = d.Milliseconds() }
}

func forever(s *admin.TopicSpec) { s.RetentionMillis = protocol.KeepForever }

func TestRetention_KeepUntilConsumed(t *testing.T) {
	k := newKeeping(t, broker.Retention{MaxBytes: 1})
	k.topic("orders", keepUntilConsumed, retention(time.Hour))
	k.send("orders", 60)
	k.pass(1000 * time.Hour)
	want := func(first int64) {
		t.Helper()
		k.look()
		k.wantBounds("orders", first, 60)
	}
	want(0) // no group reads it yet
	k.commit("billing", "orders", 0)
	want(0)
	if first := k.firstIndex(); first != 1 {
		t.Fatalf("the log begins at %d, everything is needed", first)
	}
	k.commit("billing", "orders", 40)
	k.eventually("what was consumed is dropped", func() bool { return k.firstIndex() > 20 })
	want(40)
	k.commit("mailer", "orders", 50)
	want(40)
	k.restart()
	want(40)
	_, err := k.admin.DeleteGroup(k.Context(), "billing", admin.Target{})
	k.check(err)
	k.eventually("what nobody needs is hidden", func() bool { first, _ := k.bounds("orders"); return first == 50 })
}

func TestRetention_ByTopic(t *testing.T) {
	const topics = 4
	k := newKeeping(t, broker.Retention{})
	k.topic("ever", forever)
	k.topic("short", retention(time.Hour))
	k.topic("plain")
	k.topic("gone", forever)
	for range 15 {
		for _, topic := range []string{"ever", "short", "plain", "gone"} {
			k.send(topic, 1)
		}
		k.pass(time.Second)
	}
	k.pass(time.Hour - 10*time.Second) // the first of the 15 are an hour old
	k.look()
	k.wantBounds("ever", 0, 15)
	k.wantBounds("plain", 0, 15)
	if first, end := k.bounds("short"); first < 4 || first > 6 || end != 15 {
		t.Errorf("of messages that are up to an hour old and 5 s more, %d to %d are left", first, end)
	}
	k.pass(100 * time.Hour)
	k.look()
	k.wantBounds("short", 15, 15)
	k.wantBounds("plain", 15, 15)
	k.wantBounds("ever", 0, 15)
	if short, ever := k.withKey("short"), k.withKey("ever"); short != 0 || ever != 15 {
		t.Errorf("a query finds %d messages that are hidden and %d that are not, want 0 and 15", short, ever)
	}
	if first := k.firstIndex(); first > topics+1 {
		t.Errorf("the log begins at %d, segments have messages to be kept for ever", first)
	}
	_, err := k.admin.DeleteTopic(k.Context(), "gone", admin.Target{})
	k.check(err)
	_, err = k.admin.AlterTopic(k.Context(), "ever", admin.TopicPatch{RetentionMillis: new(time.Hour.Milliseconds())}, admin.Target{})
	k.check(err)
	k.eventually("segments are dropped", func() bool { return k.firstIndex() > 20 })
	k.look()
	k.wantBounds("ever", 15, 15)
}

// withKey counts the messages of a topic that a query finds.
func (k *keeping) withKey(topic string) (n int) {
	k.Helper()
	for _, err := range k.admin.Messages(k.Context(), admin.MessageQuery{Topic: topic, Key: "key"}, admin.Target{}) {
		k.check(err)
		n++
	}
	return n
}

func TestRetention_ClockThatStepsBack(t *testing.T) {
	k := newKeeping(t, broker.Retention{})
	k.topic("orders", retention(time.Hour))
	k.send("orders", 30)
	for _, d := range []time.Duration{-1000 * time.Hour, -time.Duration(k.clock.Load()) * time.Millisecond} {
		k.pass(d)
		k.look()
		k.wantBounds("orders", 0, 30)
	}
	if last := k.send("orders", 1); last != 30 {
		t.Errorf("got offset %d, want 30", last)
	}
	k.restart()
	k.look()
	k.wantBounds("orders", 0, 31)
	if first := k.firstIndex(); first != 1 {
		t.Errorf("the log begins at %d, nothing is old", first)
	}
}

func TestRetention_DiskFull(t *testing.T) {
	k := newKeeping(t, broker.Retention{MaxAge: -1})
	k.topic("orders", keepUntilConsumed)
	k.send("orders", 60)
	k.commit("billing", "orders", 0)
	k.look()
	if first := k.firstIndex(); first != 1 {
		t.Fatalf("the log begins at %d on an empty disk", first)
	}
	for _, used := range []int64{95, 89} { // the second one is within the hysteresis
		k.used.Store(used)
		k.look()
		k.eventually("sends are refused with the disk and the limit", func() bool {
			err := k.try()
			return errors.Is(err, protocol.Unavailable) && strings.Contains(err.Error(), k.cluster.Config.DataDir) && strings.Contains(err.Error(), "the limit is 90%")
		})
	}
	k.eventually("what may be dropped is, one segment at each look", func() bool { return k.cluster.Broker().Status().Segments <= 3 })
	status := k.status()
	if status.Writable || !strings.Contains(status.Reason, "almost full") || status.DiskUsedPercent != 89 || status.DiskFreeBytes != 1<<20 || status.DiskLevel != "refuse" {
		t.Errorf("got status %+v", status)
	}
	if l := k.lag("billing"); l.Committed != 0 || l.Min < 20 || l.End != 60 || l.Lag != l.End-l.Min {
		t.Errorf("after messages were dropped that the group needed, its lag is %+v", l)
	}
	k.commit("billing", "orders", 60) // consumers get on
	if first := k.firstIndex(); first < 20 {
		t.Errorf("the log begins at %d, what it could drop it should have", first)
	}
	patient := make(chan error, 1)
	k.producer.SendAsync(t.Context(), &message.Message{Topic: "orders", Body: []byte("waits")}, func(_ producer.Receipt, err error) { patient <- err })
	k.used.Store(87)
	k.check(<-patient)
	k.used.Store(10)
	k.look()
	if status := k.status(); !status.Writable || status.Reason != "" || status.DiskLevel != "ok" {
		t.Errorf("got status %+v", status)
	}
}

// try sends one message, and gives up soon.
func (k *keeping) try() error {
	k.Helper()
	p, err := producer.New(k.Context(), producer.Config{NameServers: k.cluster.NameServers, SendTimeout: 200 * time.Millisecond})
	k.check(err)
	_, err = p.Send(k.Context(), &message.Message{Topic: "orders", Body: []byte("x")})
	k.check(p.Close(k.Context()))
	return err
}

func (k *keeping) status() *protocol.BrokerStatusResponse {
	k.Helper()
	brokers, err := k.admin.Cluster(k.Context())
	if err != nil || len(brokers) != 1 || brokers[0].Err != nil {
		k.Fatalf("got %v, %v", brokers, err)
	}
	return brokers[0].Status
}

// TestRetention_UnreadableSegment: a segment of which nobody knows whose messages it
// has stays as long as any topic keeps messages, and no longer.
func TestRetention_UnreadableSegment(t *testing.T) {
	k := newKeeping(t, broker.Retention{})
	k.topic("orders")
	k.topic("archive", retention(2*broker.DefaultMaxAge))
	k.topic("ledger", keepUntilConsumed)
	k.send("orders", 150)
	k.cluster.Stop()
	oldest := filepath.Join(k.cluster.Config.DataDir, "log", fmt.Sprintf("%020d.seg", 1))
	k.check(os.WriteFile(oldest, make([]byte, 64<<10), 0o600))
	k.start()

	stays := func(why string) {
		t.Helper()
		if k.look(); k.firstIndex() != 1 {
			t.Fatalf("the log begins at %d: %s", k.firstIndex(), why)
		}
	}
	k.pass(broker.DefaultMaxAge + time.Hour)
	stays("it may have messages of a topic that keeps them for longer")
	k.pass(broker.DefaultMaxAge)
	stays("it may have messages that nobody has consumed")
	_, err := k.admin.DeleteTopic(t.Context(), "ledger", admin.Target{})
	k.check(err)
	k.eventually("the segment is dropped, and what is old with it", func() bool {
		first, end := k.bounds("orders")
		return k.firstIndex() > 1 && first == 150 && end == 150
	})
}

// TestRetention_ViewsThatCannotBeBuiltAnew damages views.db before and after the
// log has lost what they were built from.
func TestRetention_ViewsThatCannotBeBuiltAnew(t *testing.T) {
	k := newKeeping(t, broker.Retention{})
	views := filepath.Join(k.cluster.Config.DataDir, "views.db")
	damage := func(from, to int) {
		t.Helper()
		k.cluster.Stop()
		b, err := os.ReadFile(views)
		k.check(err)
		for i := from; i < min(to, len(b)); i++ {
			b[i] ^= 0xff
		}
		k.check(os.WriteFile(views, b, 0o600))
	}
	pageSize := os.Getpagesize()
	damageAll := func() { damage(2*pageSize, 1<<30) } // but the meta pages
	k.topic("orders")
	k.send("orders", 60)
	k.commit("billing", "orders", 20)
	damageAll()
	k.start()
	k.wantBounds("orders", 0, 60)
	if l := k.lag("billing"); l.Committed != 20 {
		t.Errorf("built anew, the views say %+v", l)
	}
	k.check(os.Remove(views + ".bad"))

	k.pass(broker.DefaultMaxAge + time.Minute)
	k.eventually("segments are dropped", func() bool { return k.firstIndex() > 40 })
	for page := range 2 { // one of bbolt's meta pages
		damage(page*pageSize+16, page*pageSize+80)
		k.start()
		k.look() // writes both of them
		k.wantBounds("orders", 60, 60)
		if l := k.lag("billing"); l.Committed != 20 {
			t.Errorf("without meta page %d the views say %+v", page, l)
		}
	}
	k.cluster.Stop()
	whole, err := os.ReadFile(views)
	k.check(err)
	k.openFails("cannot be built anew, because the log in", damageAll)
	if _, err := os.Stat(views + ".bad"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("views that cannot be built anew were set aside: %v", err)
	}
	k.openFails("has applied records up to 0, and the log in", func() { k.check(os.Remove(views)) })
	k.openFails("has applied records up to 0, and the log in", func() {}) // nor does it help to try again
	k.check(os.WriteFile(views, whole, 0o600))
	k.start()
	k.wantBounds("orders", 60, 60)
}

// openFails breaks something in a stopped cluster's directory and opens a broker
// on it.
func (k *keeping) openFails(text string, breakIt func()) {
	k.Helper()
	breakIt()
	f, err := fabric.Start(fabric.Config{Name: "test", Listen: "127.0.0.1:0", Logger: k.cluster.Config.Logger})
	k.check(err)
	defer f.Close()
	b, err := broker.Open(k.Context(), k.cluster.Config, f)
	if err == nil {
		k.check(b.Close(k.Context()))
	}
	if !errors.Is(err, store.ErrDamaged) || !strings.Contains(fmt.Sprint(err), text) {
		k.Errorf("got %v, want ErrDamaged with %q", err, text)
	}
}

func TestRetention_RefusesWhatIsNoRetention(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for _, r := range []broker.Retention{
		{MaxAge: 1}, {MaxAge: time.Second - 1}, {MaxBytes: -1}, {Interval: -1},
	} {
		if _, err := broker.Open(t.Context(), broker.Config{DataDir: dir, Retention: r}, nil); err == nil || !strings.Contains(err.Error(), "retention") {
			t.Errorf("%+v: got %v", r, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a broker that was not opened made its directory: %v", err)
	}
	k := newKeeping(t, broker.Retention{})
	for _, millis := range []int64{1, 999, -2} {
		_, err := k.admin.CreateTopic(t.Context(), admin.TopicSpec{Name: "orders", RetentionMillis: millis}, admin.Target{})
		if !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("a topic with a retention of %d ms: got %v, want InvalidArgument", millis, err)
		}
	}
}
