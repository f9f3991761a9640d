package broker_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// lagging is a cluster whose groups a test reads with in the wire's own words: topic
// "t" has two queues.
type lagging struct{ *deciding }

func newLagging(t *testing.T) *lagging {
	t.Helper()
	l := &lagging{newClocked(t)}
	l.topic("t", 2)
	return l
}

// store stores n messages in a queue, one a second.
func (l *lagging) store(queue, n int) {
	l.Helper()
	for range n {
		l.check(l.storeOne(queue))
	}
}

func (l *lagging) storeOne(queue int) error {
	lead := batch.Lead{Topic: "t", Queue: queue}
	req := &protocol.SendRequest{Batches: encoded(lead, &message.Message{ID: l.ids.Next(), Body: []byte("x")})}
	resp, err := call[protocol.SendResponse](l.deciding, l.conn, protocol.ClassSend, req)
	l.pass(time.Second)
	if err == nil && resp.Results[0].Err != nil {
		err = resp.Results[0].Err
	}
	return err
}

// join makes a client a member of group g for topic t.
func (l *lagging) join(client string, start *protocol.Start) error {
	_, err := call[protocol.HeartbeatResponse](l.deciding, l.conn, protocol.ClassClient, &protocol.HeartbeatRequest{
		ClientID: client, Language: "go", Version: "v1", Inbox: l.conn.Inbox(),
		Consumers: []protocol.Subscription{{Group: "g", Topics: []string{"t"}, Start: start}},
	})
	return err
}

func (l *lagging) leave(client string) {
	l.Helper()
	must[protocol.Empty](l.deciding, protocol.ClassClient, &protocol.LeaveGroupRequest{ClientID: client})
}

// own has a client take up queues.
func (l *lagging) own(client string, queues ...int) []protocol.Lease {
	l.Helper()
	req := &protocol.SyncLeasesRequest{ClientID: client, Group: "g", Topic: "t", Queues: queues}
	return must[protocol.SyncLeasesResponse](l.deciding, protocol.ClassClient, req).Leases
}

func (l *lagging) commit(groupName string, queue int, offset int64) error {
	req := &protocol.CommitOffsetsRequest{Group: groupName, ClientID: "c", Offsets: []protocol.CommitOffset{{Topic: "t", Queue: queue, Offset: offset}}}
	resp, err := call[protocol.CommitOffsetsResponse](l.deciding, l.conn, protocol.ClassClient, req)
	if err == nil && len(resp.Refused) > 0 {
		return resp.Refused[0].Err
	}
	return err
}

func (l *lagging) group(name string) protocol.GroupStatus {
	l.Helper()
	return must[protocol.ListGroupsResponse](l.deciding, protocol.ClassAdmin, &protocol.ListGroupsRequest{Group: name}).Groups[0]
}

// want wants the lag of group g in both queues, as "committed:lag/seconds", or
// nothing for a group that is not known.
func (l *lagging) want(text string) {
	l.Helper()
	var got []string
	for _, q := range l.group("g").Queues {
		got = append(got, fmt.Sprintf("%d:%d/%d", q.Committed, q.Lag, q.LagMillis/1000))
	}
	if strings.Join(got, " ") != text {
		l.Errorf("got %q, want %q", strings.Join(got, " "), text)
	}
}

func (l *lagging) reset(r protocol.ResetOffsetsRequest) (*protocol.ResetOffsetsResponse, error) {
	return call[protocol.ResetOffsetsResponse](l.deciding, l.conn, protocol.ClassAdmin, &r)
}

// In a queue without a committed offset the lag is what would be read.
func TestLag_GoesFromWhereMembersBegin(t *testing.T) {
	l := newLagging(t)
	base := l.clock.Load()
	l.store(0, 10) // at second 0 to 9
	starts := []struct {
		start *protocol.Start
		want  string
	}{
		{nil, "-1:10/10 -1:0/0"},
		{&protocol.Start{Target: protocol.ResetToEarliest}, "-1:10/10 -1:0/0"},
		{&protocol.Start{Target: protocol.ResetToLatest}, "-1:0/0 -1:0/0"},
		{&protocol.Start{Target: protocol.ResetToOffset, Value: 7}, "-1:3/3 -1:0/0"},
		{&protocol.Start{Target: protocol.ResetToOffset, Value: 70}, "-1:0/0 -1:0/0"},
		{&protocol.Start{Target: protocol.ResetToTime, Value: base + 3001}, "-1:6/6 -1:0/0"},
		{&protocol.Start{Target: protocol.ResetToTime, Value: base + 60_000}, "-1:0/0 -1:0/0"},
		{&protocol.Start{Target: protocol.ResetToTime, Value: -1 << 60}, "-1:10/10 -1:0/0"},
	}
	for _, s := range starts {
		l.check(l.join("c", s.start))
		l.want(s.want)
		l.leave("c")
	}
	for _, bad := range []*protocol.Start{{}, {Target: "soon"}, {Target: protocol.ResetToOffset, Value: -1}} {
		if err := l.join("c", bad); !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("start %+v: %v", bad, err)
		}
	}
}

// While nobody owns a queue, the member that would read most of it counts; then its
// owner; and when something is committed, nobody does.
func TestLag_OfSeveralMembers(t *testing.T) {
	l := newLagging(t)
	l.store(0, 10)
	l.store(1, 10) // 10 to 19 s
	l.check(l.join("a", &protocol.Start{Target: protocol.ResetToLatest}))
	l.check(l.join("b", &protocol.Start{Target: protocol.ResetToOffset, Value: 4}))
	l.check(l.join("c", &protocol.Start{Target: protocol.ResetToOffset, Value: 7}))
	l.want("-1:6/16 -1:6/6")
	l.own("a", 0)
	l.own("c", 1)
	l.want("-1:0/0 -1:3/3")
	l.leave("a")
	l.leave("b")
	l.want("-1:3/13 -1:3/3")
	lease := l.own("c", 1)[0]
	must[protocol.CommitOffsetsResponse](l.deciding, protocol.ClassClient, &protocol.CommitOffsetsRequest{
		Group: "g", ClientID: "c", Offsets: []protocol.CommitOffset{{Topic: "t", Queue: 1, Offset: 9, Fence: lease.Fence}},
	})
	l.want("-1:3/13 9:1/1")
	l.leave("c")
	l.want("-1:10/20 9:1/1") // nobody says any more where the group begins
}

// Another broker may know the group, and this one only its topics.
func TestLag_OfAGroupThatNeverReadHere(t *testing.T) {
	l := newLagging(t)
	l.topic("other", 1)
	l.store(1, 3)
	l.check(l.commit("g", 1, 1))
	resp := must[protocol.ListGroupsResponse](l.deciding, protocol.ClassAdmin, &protocol.ListGroupsRequest{Reading: []protocol.GroupTopics{
		{Group: "new", Topics: []string{"t", "nowhere"}}, {Group: "g", Topics: []string{"other", "t"}}, {Group: "none"},
	}})
	var got []string
	for _, g := range resp.Groups {
		for _, q := range g.Queues {
			got = append(got, fmt.Sprintf("%s %s/%d %d:%d", g.Name, q.Topic, q.Queue, q.Committed, q.Lag))
		}
	}
	want := []string{"new t/0 -1:0", "new t/1 -1:3", "g other/0 -1:0", "g t/0 -1:0", "g t/1 1:2"}
	if !slices.Equal(got, want) || len(resp.Groups) != 3 {
		t.Errorf("got %q, want %q", got, want)
	}
}

// No offset passes the end and none goes back without a reset.
func TestOffsets_StayInTheQueue(t *testing.T) {
	l := newLagging(t)
	l.store(0, 10)
	l.check(l.commit("g", 0, 6))
	for _, offset := range []int64{-1, 11, 1 << 62} {
		if err := l.commit("g", 0, offset); !errors.Is(err, protocol.OffsetOutOfRange) {
			t.Errorf("commit of %d: %v", offset, err)
		}
	}
	l.check(l.commit("g", 0, 2))
	l.want("6:4/4 -1:0/0")
	for _, c := range []struct {
		to      int64
		after   int64
		skipped int64
	}{{0, 0, -6}, {99, 10, 10}, {1 << 62, 10, 0}, {3, 3, -7}} {
		resp, err := l.reset(protocol.ResetOffsetsRequest{Group: "g", Topic: "t", Queue: 0, Target: protocol.ResetToOffset, Value: c.to})
		l.check(err)
		if q := resp.Queues[0]; len(resp.Queues) != 1 || q.After != c.after || q.Skipped != c.skipped {
			t.Errorf("reset to %d: got %+v", c.to, resp.Queues)
		}
	}
	l.want("3:7/7 -1:0/0")
}

func TestReset_Refuses(t *testing.T) {
	l := newLagging(t)
	l.store(0, 3)
	l.check(l.commit("g", 0, 1))
	for _, c := range []struct {
		code protocol.ErrorCode
		r    protocol.ResetOffsetsRequest
	}{
		{protocol.GroupNotFound, protocol.ResetOffsetsRequest{Group: "nope", Topic: "t", Queue: -1, Target: protocol.ResetToEarliest}},
		{protocol.TopicNotFound, protocol.ResetOffsetsRequest{Group: "g", Topic: "nope", Queue: -1, Target: protocol.ResetToEarliest}},
		{protocol.QueueNotFound, protocol.ResetOffsetsRequest{Group: "g", Topic: "t", Queue: 2, Target: protocol.ResetToEarliest}},
		{protocol.QueueNotFound, protocol.ResetOffsetsRequest{Group: "g", Topic: "t", Queue: -2, Target: protocol.ResetToEarliest}},
		{protocol.InvalidArgument, protocol.ResetOffsetsRequest{Group: "g", Topic: "t", Queue: -1, Target: protocol.ResetToOffset, Value: -1}},
		{protocol.InvalidArgument, protocol.ResetOffsetsRequest{Group: "g", Topic: "t", Queue: -1, Target: "middle"}},
		{protocol.InvalidArgument, protocol.ResetOffsetsRequest{Group: "a.b", Topic: "t", Queue: -1, Target: protocol.ResetToEarliest, CreateGroup: true}},
	} {
		if _, err := l.reset(c.r); !errors.Is(err, c.code) {
			t.Errorf("%+v: got %v, want %v", c.r, err, c.code)
		}
	}
	l.want("1:2/2 -1:0/0")
}

// A group that another broker knows may be set here, and is not created by a look.
func TestReset_CreatesTheGroup(t *testing.T) {
	l := newLagging(t)
	l.store(0, 3)
	r := protocol.ResetOffsetsRequest{Group: "g", Topic: "t", Queue: -1, Target: protocol.ResetToLatest, CreateGroup: true, DryRun: true}
	_, err := l.reset(r)
	l.check(err)
	if n := len(must[protocol.ListGroupsResponse](l.deciding, protocol.ClassAdmin, &protocol.ListGroupsRequest{}).Groups); n != 0 {
		t.Errorf("a dry run created %d groups", n)
	}
	r.DryRun = false
	_, err = l.reset(r)
	l.check(err)
	l.want("3:0/0 0:0/0")
}

func TestReset_EndsTheLease(t *testing.T) {
	l := newLagging(t)
	l.store(0, 3)
	l.check(l.join("c", nil))
	before := l.own("c", 0)[0]
	_, err := l.reset(protocol.ResetOffsetsRequest{Group: "g", Topic: "t", Queue: -1, Target: protocol.ResetToOffset, Value: 2})
	l.check(err)
	late := &protocol.CommitOffsetsRequest{Group: "g", ClientID: "c", Offsets: []protocol.CommitOffset{{Topic: "t", Queue: 0, Offset: 3, Fence: before.Fence}}}
	resp := must[protocol.CommitOffsetsResponse](l.deciding, protocol.ClassClient, late)
	if len(resp.Refused) != 1 || resp.Refused[0].Err.Code != protocol.Fenced {
		t.Errorf("a commit of before the reset: %+v", resp)
	}
	if after := l.own("c", 0)[0]; after.Fence <= before.Fence || after.Committed != 2 {
		t.Errorf("got %+v after %+v", after, before)
	}
}

func (l *lagging) clone(r protocol.CloneOffsetsRequest) (*protocol.CloneOffsetsResponse, error) {
	return call[protocol.CloneOffsetsResponse](l.deciding, l.conn, protocol.ClassAdmin, &r)
}

func TestClone(t *testing.T) {
	l := newLagging(t)
	l.store(0, 10)
	l.store(1, 10)
	l.check(l.commit("from", 0, 4))
	wantClone := func(r protocol.CloneOffsetsRequest, want string) {
		t.Helper()
		resp, err := l.clone(r)
		l.check(err)
		var got []string
		for _, q := range resp.Queues {
			got = append(got, fmt.Sprintf("%s/%d %d->%d %+d", q.Topic, q.Queue, q.Before, q.After, q.Skipped))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%+v: got %q, want %q", r, got, want)
		}
	}
	wantClone(protocol.CloneOffsetsRequest{From: "from", To: "g", DryRun: true}, "t/0 -1->4 +4")
	wantClone(protocol.CloneOffsetsRequest{From: "from", To: "g"}, "t/0 -1->4 +4")
	wantClone(protocol.CloneOffsetsRequest{From: "from", To: "g"}, "t/0 4->4 +0") // again is safe
	l.want("4:6/16 -1:10/10")
	l.check(l.commit("g", 0, 8))
	if _, err := l.clone(protocol.CloneOffsetsRequest{From: "from", To: "g"}); !errors.Is(err, protocol.Conflict) {
		t.Errorf("offsets of its own: %v", err)
	}
	l.want("8:2/12 -1:10/10")
	l.topic("other", 1)
	wantClone(protocol.CloneOffsetsRequest{From: "from", To: "g", Topic: "other"}, "")
	wantClone(protocol.CloneOffsetsRequest{From: "from", To: "g", Force: true, Topic: "t"}, "t/0 8->4 -4")
}

func TestClone_Refuses(t *testing.T) {
	l := newLagging(t)
	l.store(0, 10)
	l.check(l.commit("from", 0, 4))
	for _, c := range []struct {
		code protocol.ErrorCode
		r    protocol.CloneOffsetsRequest
	}{
		{protocol.GroupNotFound, protocol.CloneOffsetsRequest{From: "nope", To: "g"}},
		{protocol.TopicNotFound, protocol.CloneOffsetsRequest{From: "from", To: "g", Topic: "nope"}},
		{protocol.InvalidArgument, protocol.CloneOffsetsRequest{From: "from", To: "from", Force: true}},
		{protocol.InvalidArgument, protocol.CloneOffsetsRequest{From: "from", To: "a.b"}},
	} {
		if _, err := l.clone(c.r); !errors.Is(err, c.code) {
			t.Errorf("%+v: got %v, want %v", c.r, err, c.code)
		}
	}
	l.check(l.join("c", nil))
	online := protocol.CloneOffsetsRequest{From: "from", To: "g", Force: true}
	if _, err := l.clone(online); !errors.Is(err, protocol.Conflict) || !strings.Contains(err.Error(), `client "c"`) {
		t.Errorf("online: %v", err)
	}
	l.own("c", 0)
	l.restart() // who held queues may come back
	if _, err := l.clone(online); !errors.Is(err, protocol.Conflict) || !strings.Contains(err.Error(), `client "c"`) {
		t.Errorf("online before a restart: %v", err)
	}
	l.leave("c")
	if _, err := l.clone(online); err != nil {
		t.Errorf("offline: %v", err)
	}
}

// Under load an offset is never above the end that is told with it, and at rest the
// lag is what was stored and not committed.
func TestLag_UnderLoad(t *testing.T) {
	l := newLagging(t)
	const n = 120
	var stored, committed [2]atomic.Int64
	var storing, watching sync.WaitGroup
	for q := range 2 {
		storing.Go(func() {
			for range n {
				err := l.storeOne(q)
				end := stored[q].Add(1)
				if err == nil && end%3 == 0 {
					err = l.commit("g", q, end)
					committed[q].Store(end)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	looks := 0
	watching.Go(func() {
		for {
			low := [2]int64{committed[0].Load(), committed[1].Load()}
			resp, err := call[protocol.ListGroupsResponse](l.deciding, l.conn, protocol.ClassAdmin, &protocol.ListGroupsRequest{})
			if err != nil {
				t.Error(err)
				return
			}
			for _, g := range resp.Groups {
				looks++
				for _, q := range g.Queues {
					if next := max(q.Committed, 0); q.Committed > q.End || q.Lag != q.End-next || next < low[q.Queue] || q.Lag < 0 || (q.Lag == 0 && q.LagMillis != 0) {
						t.Errorf("got %+v, committed before: %d", q, low[q.Queue])
					}
				}
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	storing.Wait()
	close(done)
	watching.Wait()
	l.check(l.commit("g", 0, n-17)) // which is behind
	l.store(0, 5)
	for i, want := range []int64{5, 0} {
		if q := l.group("g").Queues[i]; q.Lag != want || q.End-q.Committed != want {
			t.Errorf("at rest: got %+v, want a lag of %d", q, want)
		}
	}
	if looks == 0 {
		t.Error("nobody looked")
	}
}

func TestClients_AreListedInPages(t *testing.T) {
	l := newLagging(t)
	const n = protocol.MaxListClients + 40
	for i := range n {
		l.check(l.join(fmt.Sprintf("c%03d", i), &protocol.Start{Target: protocol.ResetToLatest}))
	}
	must[protocol.HeartbeatResponse](l.deciding, protocol.ClassClient, &protocol.HeartbeatRequest{
		ClientID: "p", Language: "java", Version: "5", Inbox: l.conn.Inbox(), Producers: []string{"shop", "bank"}, Checkers: []string{"bank"},
	})
	since := l.clock.Load()
	l.own("c001", 1)
	l.pass(3 * time.Second)
	list := func(r protocol.ListClientsRequest) ([]protocol.ClientStatus, bool) {
		t.Helper()
		resp := must[protocol.ListClientsResponse](l.deciding, protocol.ClassAdmin, &r)
		return resp.Clients, resp.More
	}
	first, more := list(protocol.ListClientsRequest{Max: protocol.MaxListClients})
	if len(first) != protocol.MaxListClients || !more || first[0].ClientID != "c000" {
		t.Fatalf("got %d clients, more %t", len(first), more)
	}
	if c := first[1]; len(c.Leases) != 1 || c.Leases[0].Group != "g" || c.Leases[0].Topic != "t" || c.Leases[0].Queue != 1 || c.Leases[0].Fence == 0 ||
		len(c.Consumers) != 1 || *c.Consumers[0].Start != (protocol.Start{Target: protocol.ResetToLatest}) || c.HeartbeatAgeMillis != 3000 || c.SinceMillis != since {
		t.Errorf("got %+v", c)
	}
	rest, more := list(protocol.ListClientsRequest{Max: protocol.MaxListClients, After: first[len(first)-1].ClientID})
	if len(rest) != 41 || more || rest[40].ClientID != "p" || !slices.Equal(rest[40].Producers, []string{"shop", "bank"}) || !slices.Equal(rest[40].Checkers, []string{"bank"}) || rest[40].Language != "java" {
		t.Errorf("got %d clients, more %t", len(rest), more)
	}
	for _, c := range []struct {
		r    protocol.ListClientsRequest
		want int
	}{
		{protocol.ListClientsRequest{Max: 1, ClientID: "p"}, 1},
		{protocol.ListClientsRequest{Max: 1, ClientID: "p", Group: "g"}, 0},
		{protocol.ListClientsRequest{Max: 1, ClientID: "p", After: "p"}, 0},
		{protocol.ListClientsRequest{Max: 1, ClientID: "q"}, 0},
		{protocol.ListClientsRequest{Max: 256, Group: "g", After: "c255"}, 40},
		{protocol.ListClientsRequest{Max: 1, Group: "nope"}, 0},
	} {
		if got, more := list(c.r); len(got) != c.want || more {
			t.Errorf("%+v: got %d clients, more %t", c.r, len(got), more)
		}
	}
	for _, max := range []int{0, -1, protocol.MaxListClients + 1} {
		if _, err := call[protocol.ListClientsResponse](l.deciding, l.conn, protocol.ClassAdmin, &protocol.ListClientsRequest{Max: max}); !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("%d clients: %v", max, err)
		}
	}
}

// Clients with much to say come in smaller pages, none of them above what a frame
// may have.
func TestClients_PagesAreBounded(t *testing.T) {
	l := newLagging(t)
	var topics []string
	for i := range group.MaxTopics {
		topics = append(topics, fmt.Sprintf("%0127d", i))
	}
	const n = 12
	for i := range n {
		must[protocol.HeartbeatResponse](l.deciding, protocol.ClassClient, &protocol.HeartbeatRequest{
			ClientID: fmt.Sprintf("c%02d", i), Inbox: l.conn.Inbox(), Consumers: []protocol.Subscription{{Group: "g", Topics: topics}},
		})
	}
	req := &protocol.ListClientsRequest{Max: protocol.MaxListClients}
	pages, clients := 0, 0
	for more := true; more; pages++ {
		resp := must[protocol.ListClientsResponse](l.deciding, protocol.ClassAdmin, req)
		clients, more = clients+len(resp.Clients), resp.More
		req.After = resp.Clients[len(resp.Clients)-1].ClientID
	}
	if clients != n || pages < 2 {
		t.Errorf("got %d clients on %d pages", clients, pages)
	}
}
