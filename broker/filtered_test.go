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
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// filtering is a cluster with a topic of two queues, whose pulls a test makes itself.
type filtering struct {
	*testing.T
	cluster *harness.Cluster
	conn    *transport.Conn
	ids     *message.IDSource
}

func newFiltering(t *testing.T, change ...func(*broker.Config)) *filtering {
	t.Helper()
	f := &filtering{T: t, cluster: harness.Start(t, change...), ids: message.NewIDSource()}
	f.conn = f.dial()
	callOf[protocol.PutTopicResponse](f, protocol.ClassAdmin, &protocol.PutTopicRequest{Mode: protocol.PutCreate,
		Topic: protocol.TopicConfig{Name: "orders", ReadQueues: 2, WriteQueues: 2, Perm: message.PermReadWrite}})
	return f
}

func (f *filtering) dial() *transport.Conn {
	f.Helper()
	conn, err := transport.Dial(f.cluster.NameServers[0], transport.Options{Name: "test", Logger: f.cluster.Config.Logger})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(conn.Close)
	return conn
}

func callOf[Resp any](f *filtering, class protocol.Class, req protocol.Request) *Resp {
	f.Helper()
	resp, err := tryCall[Resp](f, class, req)
	if err != nil {
		f.Fatal(err)
	}
	return resp
}

func tryCall[Resp any](f *filtering, class protocol.Class, req protocol.Request) (*Resp, error) {
	return transport.Call[Resp](f.Context(), f.conn, protocol.BrokerSubject("broker-a", 0, class), req)
}

// send stores a batch of messages with these tags, whose property p is their place.
func (f *filtering) send(queue int, tags ...string) {
	f.Helper()
	b := batch.NewBuilder("orders", queue)
	for i, tag := range tags {
		b.Add(&message.Message{Topic: "orders", Tag: tag, ID: f.ids.Next(), BornTime: time.UnixMilli(1),
			Properties: map[string]string{"p": fmt.Sprint(i)}, Body: []byte(tag)})
	}
	resp := callOf[protocol.SendResponse](f, protocol.ClassSend, &protocol.SendRequest{Batches: b.Finish()})
	if resp.Results[0].Err != nil {
		f.Fatal(resp.Results[0].Err)
	}
}

// pulling is a pull of both queues from some offsets.
func pulling(filter protocol.Filter, wait int64, offsets ...int64) *protocol.PullRequest {
	r := &protocol.PullRequest{WaitMillis: wait, MaxBytes: 1 << 20, Filters: []protocol.Filter{filter}}
	for i, o := range offsets {
		r.Queues = append(r.Queues, protocol.PullQueue{Topic: "orders", Queue: i, Offset: o, Filter: 1})
	}
	return r
}

func (f *filtering) pull(r *protocol.PullRequest) []protocol.PulledQueue {
	f.Helper()
	resp := callOf[protocol.PullResponse](f, protocol.ClassPull, r)
	slices.SortFunc(resp.Queues, func(a, b protocol.PulledQueue) int { return a.Index - b.Index })
	return resp.Queues
}

// offsetsOf are those of the messages that a queue gave.
func offsetsOf(t testing.TB, q protocol.PulledQueue) (offsets []int64) {
	t.Helper()
	for b := q.Batches; len(b) > 0; {
		ms, rest, err := batch.Decode(nil, b, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			offsets = append(offsets, m.QueueOffset)
		}
		b = rest
	}
	return offsets
}

func sql(text string) protocol.Filter { return protocol.Filter{Kind: protocol.FilterSQL, Text: text} }
func tag(text string) protocol.Filter { return protocol.Filter{Kind: protocol.FilterTag, Text: text} }

func TestFilteredPull_GivesWhatMatches(t *testing.T) {
	f := newFiltering(t)
	f.send(0, "a", "a")
	f.send(0, "b", "b")
	f.send(0, "a", "b", "a")
	f.send(0, "c")
	for _, tt := range []struct {
		filter protocol.Filter
		from   int64
		want   []int64
	}{
		{tag("a"), 0, []int64{0, 1, 4, 6}},
		{tag("a || c"), 0, []int64{0, 1, 4, 6, 7}},
		{tag("b"), 0, []int64{2, 3, 5}},
		{tag("b"), 4, []int64{5}},
		{tag("z"), 0, nil},
		{tag("*"), 0, []int64{0, 1, 2, 3, 4, 5, 6, 7}},
		{sql("p = 1"), 0, []int64{1, 3, 5}},
		{sql("p = 0 AND TAGS <> 'a'"), 0, []int64{2, 7}},
		{sql("q IS NULL"), 0, []int64{0, 1, 2, 3, 4, 5, 6, 7}},
		{sql("NOT q = 1"), 0, nil}, // unknown is not true
	} {
		got := f.pull(pulling(tt.filter, 0, tt.from))
		if len(got) != 1 || got[0].Err != nil || got[0].Next != 8 || got[0].End != 8 || !slices.Equal(offsetsOf(t, got[0]), tt.want) {
			t.Errorf("%v from %d: got %+v, want %v", tt.filter, tt.from, got, tt.want)
		}
	}
	got := f.pull(pulling(tag("a"), 0, 0))
	if h, err := batch.ParseHeader(got[0].Batches); err != nil || h.Span() != h.Count {
		t.Errorf("a batch that matches as a whole is not as it was stored: %+v, %v", h, err)
	}
}

func TestFilteredPull_BesideAnUnfilteredOne(t *testing.T) {
	f := newFiltering(t)
	f.send(0, "a", "b")
	f.send(1, "a", "b")
	r := pulling(tag("b"), 0, 0, 0)
	r.Queues[1].Filter = 0
	got := f.pull(r)
	if len(got) != 2 || !slices.Equal(offsetsOf(t, got[0]), []int64{1}) || !slices.Equal(offsetsOf(t, got[1]), []int64{0, 1}) {
		t.Errorf("got %+v", got)
	}
}

func TestFilteredPull_BadFiltersAreRefused(t *testing.T) {
	f := newFiltering(t)
	for filter, says := range map[protocol.Filter]string{
		sql("p = AND"):                  "column 5",
		sql(strings.Repeat("NOT ", 99)): "nested more than 64 deep",
		sql(""):                         "column 1",
		tag("a ||"):                     "column 5",
		{Kind: "class", Text: "x"}:      "kind",
	} {
		_, err := tryCall[protocol.PullResponse](f, protocol.ClassPull, pulling(filter, 0, 0))
		if !errors.Is(err, protocol.InvalidArgument) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: got %v, want %q in it", filter, err, says)
		}
	}
}

// start makes a pull that waits.
func (f *filtering) start(r *protocol.PullRequest) <-chan []protocol.PulledQueue {
	answer := make(chan []protocol.PulledQueue, 1)
	f.conn.Start(f.Context(), protocol.BrokerSubject("broker-a", 0, protocol.ClassPull), r, func(b []byte, err error) {
		var resp protocol.PullResponse
		if err == nil {
			err = protocol.Unmarshal(b, &resp)
		}
		if err != nil {
			resp.Queues = []protocol.PulledQueue{{Err: protocol.AsError(err)}}
		}
		answer <- resp.Queues
	})
	return answer
}

// What a filter passes over is told at once by a pull that begins before the end, and
// later by one that waits there: what matches ends the wait, and what does not is
// told beside it.
func TestFilteredPull_TellsWhatItPassesOver(t *testing.T) {
	f := newFiltering(t)
	f.send(0, "a")
	got := f.pull(pulling(tag("b"), protocol.MaxPullWaitMillis, 0, 0))
	if len(got) != 1 || got[0].Index != 0 || got[0].Next != 1 || len(got[0].Batches) != 0 || got[0].Err != nil {
		t.Fatalf("before the end: got %+v", got)
	}
	waiting := f.start(pulling(tag("b"), protocol.MaxPullWaitMillis, 1, 0))
	f.send(0, "a", "a")
	f.send(1, "b")
	harness.Eventually(t, "an answer", func() bool { return len(waiting) > 0 })
	got = <-waiting
	for _, q := range got {
		if want := map[int]int64{0: 3, 1: 1}[q.Index]; q.Err != nil || q.Next != want {
			t.Errorf("queue %d: got %+v, want next %d", q.Index, q, want)
		}
	}
}

// A pull that waits tells within a second that it has passed messages over, so that
// the group's offset moves on.
func TestFilteredPull_DoesNotKeepItToItself(t *testing.T) {
	f := newFiltering(t)
	waiting := f.start(pulling(tag("b"), protocol.MaxPullWaitMillis, 0, 0))
	f.send(0, "a", "a")
	harness.Eventually(t, "an answer", func() bool { return len(waiting) > 0 })
	if got := <-waiting; len(got) != 1 || got[0].Next != 2 || len(got[0].Batches) != 0 {
		t.Errorf("got %+v", got)
	}
	if got := f.pull(pulling(tag("b"), 1, 2, 0)); len(got) != 0 { // nothing to pass over: the wait is in vain
		t.Errorf("got %+v", got)
	}
}

// One pull looks at a bounded number of messages, though none matches.
func TestFilteredPull_IsBounded(t *testing.T) {
	f := newFiltering(t)
	tags := make([]string, 5000)
	for i := range tags {
		tags[i] = []string{"a", "b"}[i%2]
	}
	for range 10 {
		f.send(0, tags...)
	}
	pulls, next := 0, int64(0)
	for next < 50_000 {
		got := f.pull(pulling(tag("c"), protocol.MaxPullWaitMillis, next))
		if len(got) != 1 || got[0].Next <= next || got[0].Next > next+25_000 || len(got[0].Batches) != 0 || got[0].End != 50_000 {
			t.Fatalf("at %d: got %+v", next, got)
		}
		pulls, next = pulls+1, got[0].Next
	}
	if pulls < 2 {
		t.Errorf("%d pull looked at 50,000 messages", pulls)
	}
}

// Two clients of one id: one owner, whatever the other asks for.
func TestClientID_IsOneClients(t *testing.T) {
	f := newFiltering(t)
	beat := func(incarnation uint64, topics ...string) error {
		_, err := tryCall[protocol.HeartbeatResponse](f, protocol.ClassClient, &protocol.HeartbeatRequest{ClientID: "c", Inbox: "rmq.c.x",
			Incarnation: incarnation, Consumers: []protocol.Subscription{{Group: "g", Topics: topics}}})
		return err
	}
	sync := func(incarnation uint64) ([]protocol.Lease, error) {
		resp, err := tryCall[protocol.SyncLeasesResponse](f, protocol.ClassClient, &protocol.SyncLeasesRequest{
			ClientID: "c", Group: "g", Topic: "orders", Queues: []int{0, 1}, Incarnation: incarnation})
		if err != nil {
			return nil, err
		}
		return resp.Leases, nil
	}
	leave := func(incarnation uint64) {
		callOf[protocol.Empty](f, protocol.ClassClient, &protocol.LeaveGroupRequest{ClientID: "c", Group: "g", Incarnation: incarnation})
	}
	if err := beat(1, "orders"); err != nil {
		t.Fatal(err)
	}
	leases, err := sync(1)
	if err != nil || len(leases) != 2 {
		t.Fatalf("got %v, %v", leases, err)
	}
	if err := beat(2, "orders"); !errors.Is(err, protocol.Conflict) {
		t.Errorf("the second client: got %v", err)
	}
	if got, err := sync(2); !errors.Is(err, protocol.UnknownMember) {
		t.Errorf("the second client gets the leases %v, %v", got, err)
	}
	leave(2)
	if again, err := sync(1); err != nil || !slices.Equal(again, leases) {
		t.Errorf("the first client has %v, %v, it had %v", again, err, leases)
	}
	leave(1)
	if err := beat(2, "orders"); err != nil {
		t.Errorf("when the first has left: %v", err)
	}
	if got, err := sync(2); err != nil || len(got) != 2 || got[0].Fence <= leases[0].Fence {
		t.Errorf("got %v, %v", got, err)
	}
}

// A group's flag lets members have different topics; it is kept over a restart.
func TestGroup_PerMemberSubscriptions(t *testing.T) {
	f := newFiltering(t)
	beat := func(client string, filters []protocol.TopicFilter, topics ...string) error {
		_, err := tryCall[protocol.HeartbeatResponse](f, protocol.ClassClient, &protocol.HeartbeatRequest{ClientID: client, Inbox: "rmq.c.x",
			Consumers: []protocol.Subscription{{Group: "g", Topics: topics, Filters: filters}}})
		return err
	}
	if err := errors.Join(beat("a", nil, "orders"), beat("b", nil, "orders")); err != nil {
		t.Fatal(err)
	}
	if err := beat("b", nil, "bills"); !errors.Is(err, protocol.Conflict) {
		t.Errorf("other topics: got %v", err)
	}
	callOf[protocol.Empty](f, protocol.ClassAdmin, &protocol.PutGroupRequest{Mode: protocol.PutAlter,
		Group: protocol.GroupConfig{Name: "g", ConsumeEnabled: true, PerMemberSubscriptions: true}})
	f.cluster.Restart()
	f.conn = f.dial()
	if err := errors.Join(beat("a", nil, "orders"), beat("b", nil, "bills", "orders")); err != nil {
		t.Errorf("other topics: got %v", err)
	}
	if err := beat("c", []protocol.TopicFilter{{Topic: "orders", Kind: protocol.FilterTag, Text: "x"}}, "orders"); !errors.Is(err, protocol.Conflict) {
		t.Errorf("another filter: got %v", err)
	}
}
