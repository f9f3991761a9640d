package admin_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// orders is a cluster whose topic "orders" has two queues.
func orders(t *testing.T, change ...func(*broker.Config)) (*harness.Cluster, *admin.Admin) {
	t.Helper()
	c := harness.Start(t, change...)
	a := open(t, c.NameServers...)
	if _, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: "orders", ReadQueues: 2, WriteQueues: 2}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	return c, a
}

// numbered is message n of "orders", whose body begins with the number.
func numbered(n int, body string, keys ...string) *message.Message {
	return &message.Message{
		Topic: "orders", Body: fmt.Appendf(nil, "%d %s", n, body), Keys: keys,
		ID: message.MakeID(77, uint64(n)), BornTime: time.UnixMilli(1_700_000_000_000 + int64(n)),
	}
}

// store has batches stored in one request, each as one record; batch i goes to
// queue i modulo 2.
func store(t *testing.T, c *harness.Cluster, batches ...[]*message.Message) {
	t.Helper()
	req := &protocol.SendRequest{}
	for i, ms := range batches {
		b := batch.NewBuilder(ms[0].Topic, i%2)
		for _, m := range ms {
			b.Add(m)
		}
		req.Batches = append(req.Batches, b.Finish()...)
	}
	conn, err := transport.Dial(c.NameServers[0], transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := transport.Call[protocol.SendResponse](t.Context(), conn, protocol.BrokerSubject("broker-a", 0, protocol.ClassSend), req)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range resp.Results {
		if r.Err != nil {
			t.Fatalf("batch %d: %v", i, r.Err)
		}
	}
}

// found is what a query gives, without an error.
func found(t *testing.T, a *admin.Admin, q admin.MessageQuery, target admin.Target) []message.Stored {
	t.Helper()
	all, err := searched(t, a, q, target)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func searched(t *testing.T, a *admin.Admin, q admin.MessageQuery, target admin.Target) (all []message.Stored, failures error) {
	t.Helper()
	for m, err := range a.Messages(t.Context(), q, target) {
		if err != nil {
			failures = errors.Join(failures, err)
			continue
		}
		all = append(all, m)
	}
	return all, failures
}

// numbers are the numbers of messages.
func numbers(ms []message.Stored) []int {
	var all []int
	for _, m := range ms {
		all = append(all, int(m.ID.Counter()))
	}
	return all
}

// countdown is from, from - step ... down to 0 or more.
func countdown(from, step int) []int {
	var all []int
	for n := from; n >= 0; n -= step {
		all = append(all, n)
	}
	return all
}

func TestMessages_ByKeyAreCompleteAndNewestFirst(t *testing.T) {
	c, a := orders(t)
	const n = 9000
	var batches [][]*message.Message
	for at := 0; at < n; {
		var ms []*message.Message
		for range min(1+len(batches)%5, n-at) { // so that matches begin anywhere in a batch
			keys := []string{"other", fmt.Sprint(at)}
			if at%3 == 0 {
				keys = append(keys, "third")
			}
			ms = append(ms, numbered(at, "", keys...))
			at++
		}
		batches = append(batches, ms)
	}
	store(t, c, batches...)
	for key, want := range map[string][]int{
		"third": countdown(n-3, 3), "other": countdown(n-1, 1), "4711": {4711}, "": nil, "thir": nil, "THIRD": nil,
	} {
		if key == "" {
			if _, err := searched(t, a, admin.MessageQuery{Topic: "orders"}, admin.Target{}); !errors.Is(err, protocol.InvalidArgument) {
				t.Errorf("no key: got %v", err)
			}
			continue
		}
		if got := numbers(found(t, a, admin.MessageQuery{Topic: "orders", Key: key}, admin.Target{})); !slices.Equal(got, want) {
			t.Errorf("%s: got %d messages, want %d, newest first", key, len(got), len(want))
		}
	}
	if got := found(t, a, admin.MessageQuery{Topic: "nope", Key: "third"}, admin.Target{}); got != nil {
		t.Errorf("unknown topic: got %d messages", len(got))
	}
	taken := 0
	for _, err := range a.Messages(t.Context(), admin.MessageQuery{Topic: "orders", Key: "third"}, admin.Target{}) {
		if taken++; err != nil || taken == 100 {
			break
		}
	}
	if taken != 100 {
		t.Errorf("took %d", taken)
	}
}

// TestMessages_AsManyAsABatchHolds would not fit an answer one by one.
func TestMessages_AsManyAsABatchHolds(t *testing.T) {
	c, a := orders(t)
	topic := strings.Repeat("t", 120)
	if _, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: topic}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	var ms []*message.Message
	for i := range batch.MaxCount {
		keys := []string{"all"}
		if i%2 == 0 {
			keys = append(keys, "even")
		}
		m := numbered(i, "", keys...)
		m.Topic = topic
		ms = append(ms, m)
	}
	store(t, c, ms)
	for _, q := range []admin.MessageQuery{{Topic: topic, Key: "all"}, {LogIndex: lastIndex(t, a)}} {
		if got := numbers(found(t, a, q, admin.Target{Brokers: []string{"broker-a"}})); !slices.Equal(got, countdown(batch.MaxCount-1, 1)) {
			t.Errorf("%+v: got %d messages", q, len(got))
		}
	}
	if got := numbers(found(t, a, admin.MessageQuery{Topic: topic, Key: "even"}, admin.Target{})); !slices.Equal(got, countdown(batch.MaxCount-2, 2)) {
		t.Errorf("even: got %d messages", len(got))
	}
	if got := numbers(found(t, a, admin.MessageQuery{ID: ms[4711].ID}, admin.Target{})); !slices.Equal(got, []int{4711}) {
		t.Errorf("by id: got %v", got)
	}
}

func lastIndex(t *testing.T, a *admin.Admin) uint64 {
	t.Helper()
	cluster, err := a.Cluster(t.Context())
	if err != nil || cluster[0].Err != nil {
		t.Fatalf("got %+v, %v", cluster, err)
	}
	return uint64(cluster[0].Status.LastIndex)
}

// TestMessages_AreAsTheyWereStored asks for one message in all four ways.
func TestMessages_AreAsTheyWereStored(t *testing.T) {
	c, a := orders(t)
	rich := numbered(2, "\xff\x00", "k", "l")
	rich.Tag, rich.Group, rich.Properties = "paid", "customer/7", map[string]string{"a": "b"}
	store(t, c, []*message.Message{numbered(0, "", "k")}, []*message.Message{numbered(1, ""), rich, numbered(3, "")})
	want, err := a.MessageAt(t.Context(), message.Queue{Topic: "orders", Broker: "broker-a", ID: 1}, 1)
	if err != nil || want.QueueOffset != 1 || want.StoreTime.IsZero() || !reflect.DeepEqual(want.Message, *rich) {
		t.Fatalf("got %+v, %v", want, err)
	}
	if d := consumed(t, c, rich.ID); !reflect.DeepEqual(d, want) {
		t.Errorf("a consumer has %+v", d)
	}
	for _, q := range []admin.MessageQuery{{ID: rich.ID}, {ID: rich.ID, Topic: "orders"}, {Topic: "orders", Key: "l"}} {
		if got := found(t, a, q, admin.Target{}); len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%+v: got %+v", q, got)
		}
	}
	var all []message.Stored
	for index := lastIndex(t, a) + 3; index > 0; index-- { // other records and none have no messages
		all = append(all, found(t, a, admin.MessageQuery{LogIndex: index}, admin.Target{})...)
	}
	if !slices.Equal(numbers(all), []int{3, 2, 1, 0}) || !reflect.DeepEqual(all[1], want) {
		t.Errorf("by log index: %+v", all)
	}
	for _, q := range []admin.MessageQuery{{ID: message.MakeID(77, 4)}, {ID: message.MakeID(78, 2)}, {ID: rich.ID, Topic: "bills"}} {
		if got := found(t, a, q, admin.Target{}); got != nil {
			t.Errorf("%+v: got %+v", q, got)
		}
	}
}

// consumed reads "orders" until the message comes.
func consumed(t *testing.T, c *harness.Cluster, id message.ID) message.Stored {
	t.Helper()
	p, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: c.NameServers, Group: "reader", From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "orders"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	for {
		ds, err := p.Poll(t.Context(), 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			if d.ID == id {
				return d.Stored
			}
		}
	}
}

func TestMessages_ThatWereStoredTwiceAreFoundTwice(t *testing.T) {
	c, a := orders(t)
	m := numbered(5, "")
	store(t, c, []*message.Message{m}, []*message.Message{m})
	got := found(t, a, admin.MessageQuery{ID: m.ID}, admin.Target{})
	if len(got) != 2 || got[0].Queue.ID != 1 || got[1].Queue.ID != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestMessageAt_NotThere(t *testing.T) {
	c, a := orders(t)
	store(t, c, []*message.Message{numbered(0, "")})
	at := func(topic, broker string, queue int) message.Queue {
		return message.Queue{Topic: topic, Broker: broker, ID: queue}
	}
	for _, x := range []struct {
		queue  message.Queue
		offset int64
		want   error
	}{
		{at("orders", "broker-a", 0), 0, nil},
		{at("orders", "broker-a", 0), 1, protocol.OffsetOutOfRange},
		{at("orders", "broker-a", 0), 2, protocol.OffsetOutOfRange},
		{at("orders", "broker-a", 1), 0, protocol.OffsetOutOfRange},
		{at("orders", "broker-a", 0), -1, protocol.InvalidArgument},
		{at("orders", "broker-a", 2), 0, protocol.QueueNotFound},
		{at("nope", "broker-a", 0), 0, protocol.TopicNotFound},
		{at("orders", "broker-b", 0), 0, admin.ErrBrokerNotFound},
	} {
		if _, err := a.MessageAt(t.Context(), x.queue, x.offset); !errors.Is(err, x.want) || err == nil && x.want != nil {
			t.Errorf("%v at %d: got %v, want %v", x.queue, x.offset, err, x.want)
		}
	}
}

func TestMessages_OfAllBrokersAreInOneOrder(t *testing.T) {
	c := harness.Start(t)
	crash := addBroker(t, c, "broker-b")
	a := open(t, c.NameServers...)
	if _, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: "orders", ReadQueues: 2, WriteQueues: 2}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	p, err := producer.New(t.Context(), producer.Config{NameServers: c.NameServers})
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		if _, err := p.Send(t.Context(), &message.Message{Topic: "orders", Keys: []string{"k"}, Body: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	q := admin.MessageQuery{Topic: "orders", Key: "k"}
	all := found(t, a, q, admin.Target{})
	newestFirst := slices.IsSortedFunc(all, func(a, b message.Stored) int { return b.StoreTime.Compare(a.StoreTime) })
	byBroker := map[string]int{}
	for _, m := range all {
		byBroker[m.Queue.Broker]++
	}
	if len(all) != 40 || !newestFirst || len(byBroker) != 2 {
		t.Errorf("got %d messages of %v, newest first: %t", len(all), byBroker, newestFirst)
	}
	if got := found(t, a, q, admin.Target{Brokers: []string{"broker-b"}}); len(got) != byBroker["broker-b"] {
		t.Errorf("broker-b: got %d messages, want %d", len(got), byBroker["broker-b"])
	}
	if _, err := searched(t, a, q, admin.Target{Brokers: []string{"broker-c"}}); !errors.Is(err, admin.ErrBrokerNotFound) {
		t.Errorf("got %v", err)
	}
	crash()
	got, err := searched(t, a, q, admin.Target{})
	if !errors.Is(err, protocol.Unreachable) && !errors.Is(err, protocol.UnknownOutcome) || len(got) != byBroker["broker-a"] {
		t.Errorf("got %d messages, want %d, and %v", len(got), byBroker["broker-a"], err)
	}
}

// TestMessages_AreFoundAroundDamage also where more records are damaged than one
// request looks at.
func TestMessages_AreFoundAroundDamage(t *testing.T) {
	c, _ := orders(t, func(cfg *broker.Config) { cfg.Store.SegmentBytes = 1 << 20 })
	const damaged, each, requests = 1, 1500, 5 // requests share no chunk of the log; three fill more than a segment
	for r := range requests {
		var batches [][]*message.Message
		for i := range each {
			body := strings.Repeat("x", 500)
			if r == damaged {
				body = "spoil me" + body
			}
			batches = append(batches, []*message.Message{numbered(r*each+i, body, "k")})
		}
		store(t, c, batches...)
	}
	c.Stop()
	spoil(t, c.Config.DataDir, "spoil me", each)
	c.Start()
	a := open(t, c.NameServers...)
	harness.Eventually(t, "the broker is back", func() bool {
		brokers, err := a.Cluster(t.Context())
		return err == nil && len(brokers) == 1 && brokers[0].Err == nil
	})
	got, err := searched(t, a, admin.MessageQuery{Topic: "orders", Key: "k"}, admin.Target{})
	want := slices.DeleteFunc(countdown(requests*each-1, 1), func(n int) bool { return n/each == damaged })
	if !errors.Is(err, protocol.Damaged) || !slices.Equal(numbers(got), want) {
		t.Fatalf("got %d messages, want %d, and %v", len(got), len(want), err)
	}
	if text := err.Error(); len(text) > 50_000 {
		t.Errorf("each record repeats its chunk's damage: %d bytes", len(text))
	}
}

// spoil changes every occurrence of a text in the files of a directory.
func spoil(t *testing.T, dir, text string, occurrences int) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		found += bytes.Count(b, []byte(text))
		return os.WriteFile(path, bytes.ReplaceAll(b, []byte(text), bytes.ToUpper([]byte(text))), 0o600)
	})
	if err != nil || found != occurrences {
		t.Fatalf("spoiled %d places, want %d: %v", found, occurrences, err)
	}
}
