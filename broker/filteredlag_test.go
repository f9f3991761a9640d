package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// put stores a message with a tag in a queue of topic "t", one a second.
func (l *lagging) put(queue int, tags ...string) {
	l.Helper()
	for _, tag := range tags {
		lead := batch.Lead{Topic: "t", Queue: queue}
		m := &message.Message{ID: l.ids.Next(), Tag: tag, Properties: map[string]string{"tag": tag}, Body: []byte("x")}
		resp := must[protocol.SendResponse](l.deciding, protocol.ClassSend, &protocol.SendRequest{Batches: encoded(lead, m)})
		if resp.Results[0].Err != nil {
			l.Fatal(resp.Results[0].Err)
		}
		l.pass(time.Second)
	}
}

// filter makes a client a member of group g for topic t with a filter.
func (l *lagging) filter(client string, f protocol.Filter, more ...string) error {
	sub := protocol.Subscription{Group: "g", Topics: append([]string{"t"}, more...), Start: &protocol.Start{Target: protocol.ResetToEarliest}}
	if f.Kind != "" {
		sub.Filters = []protocol.TopicFilter{{Topic: "t", Kind: f.Kind, Text: f.Text}}
	}
	_, err := call[protocol.HeartbeatResponse](l.deciding, l.conn, protocol.ClassClient, &protocol.HeartbeatRequest{
		ClientID: client, Inbox: l.conn.Inbox(), Consumers: []protocol.Subscription{sub},
	})
	return err
}

// wantKnown wants of each queue of topic t whether a filter counts: filtered, all, or
// unknown.
func (l *lagging) wantKnown(want string) {
	l.Helper()
	for _, q := range l.group("g").Queues {
		got := "all"
		if q.Filtered {
			got = "filtered"
		}
		if q.FilterUnknown {
			got = "unknown"
		}
		if got != want || q.AtLeast {
			l.Errorf("queue %d: got %s, want %s", q.Queue, got, want)
		}
	}
}

func TestLag_CountsWhatTheFilterLetsThrough(t *testing.T) {
	for _, f := range []protocol.Filter{tag("a"), sql("tag = 'a'"), sql("TAGS = 'a'")} {
		l := newLagging(t)
		l.put(0, "b", "a", "b", "a", "b") // at second 0 to 4
		l.put(1, "b", "b", "a")           // 5 to 7
		l.check(l.filter("c", f))
		l.want("-1:2/7 -1:1/1")
		l.wantKnown("filtered")
		l.own("c", 0, 1)
		l.want("-1:2/7 -1:1/1")
		l.leave("c")
		l.check(l.commit("g", 0, 2))
		l.want("2:1/5 -1:1/1") // the last filter counts while nobody is there
		l.check(l.commit("g", 0, 4))
		l.check(l.commit("g", 1, 3))
		l.want("4:0/0 3:0/0")
		l.put(0, "a", "b")
		l.restart()
		l.want("4:1/2 3:0/0") // and after a restart
		l.wantKnown("filtered")
		l.check(l.filter("d", protocol.Filter{}))
		l.want("4:3/6 3:0/0") // until others come that have none
		l.wantKnown("all")
	}
}

// Without a word of any member all messages count, and that is said.
func TestLag_SaysWhenNoFilterIsKnown(t *testing.T) {
	l := newLagging(t)
	l.put(0, "a", "b")
	l.check(l.commit("g", 0, 1))
	l.want("1:1/1 -1:0/0")
	l.wantKnown("unknown")
	l.check(l.filter("c", tag("*")))
	l.wantKnown("all") // which lets everything through
	l.check(l.filter("c", sql("a = ")))
	l.wantKnown("unknown") // nobody can read it
	l.topic("other", 1)
	l.leave("c")
	l.check(l.filter("c", protocol.Filter{}, "other"))
	resp := must[protocol.ListGroupsResponse](l.deciding, protocol.ClassAdmin, &protocol.ListGroupsRequest{Reading: []protocol.GroupTopics{{Group: "new", Topics: []string{"t"}}}})
	if q := resp.Groups[0].Queues[0]; !q.FilterUnknown || q.Lag != 2 {
		t.Errorf("of a group that another broker knows: %+v", q)
	}
}

// Members that may differ are remembered together, also those that have left.
func TestLag_OfMembersThatDiffer(t *testing.T) {
	l := newLagging(t)
	l.put(0, "a", "b", "b")
	cfg := protocol.GroupConfig{Name: "g", ConsumeEnabled: true, PerMemberSubscriptions: true}
	must[protocol.Empty](l.deciding, protocol.ClassAdmin, &protocol.PutGroupRequest{Group: cfg, Mode: protocol.PutCreate})
	l.topic("other", 1)
	l.check(l.commit("g", 0, 0))
	l.check(l.filter("c", tag("a")))
	other := &protocol.HeartbeatRequest{ClientID: "d", Inbox: l.conn.Inbox(), Consumers: []protocol.Subscription{{Group: "g", Topics: []string{"other"}}}}
	must[protocol.HeartbeatResponse](l.deciding, protocol.ClassClient, other)
	l.leave("c")
	other.Consumers[0].Topics = []string{"other", "later"}
	must[protocol.HeartbeatResponse](l.deciding, protocol.ClassClient, other)
	l.restart()
	for _, q := range l.group("g").Queues {
		if q.Topic == "t" && (!q.Filtered || q.Lag != int64(1-q.Queue)) {
			t.Errorf("got %+v", q)
		}
	}
	// What was subscribed of a topic that is deleted is forgotten with the next change.
	must[protocol.Empty](l.deciding, protocol.ClassAdmin, &protocol.DeleteTopicRequest{Topic: "t"})
	l.topic("third", 1)
	other.Consumers[0].Topics = []string{"other", "third"}
	must[protocol.HeartbeatResponse](l.deciding, protocol.ClassClient, other)
	l.topic("t", 1)
	resp := must[protocol.ListGroupsResponse](l.deciding, protocol.ClassAdmin, &protocol.ListGroupsRequest{Reading: []protocol.GroupTopics{{Group: "g", Topics: []string{"t", "third"}}}})
	if q := resp.Groups[0].Queues; len(q) != 2 || !q[0].FilterUnknown || q[1].FilterUnknown {
		t.Errorf("got %+v", q)
	}
}

// What failed and waits for its time is part of the lag.
func TestLag_CountsWhatWaitsForItsRetry(t *testing.T) {
	l := newLagging(t)
	l.put(0, "a", "b", "a")
	l.check(l.filter("c", tag("a")))
	lease := l.own("c", 0)[0]
	pulled := must[protocol.PullResponse](l.deciding, protocol.ClassPull, &protocol.PullRequest{
		Group: "g", ClientID: "c", MaxBytes: 1 << 20, Queues: []protocol.PullQueue{{Topic: "t", Fence: lease.Fence}},
	})
	for b := pulled.Queues[0].Batches; len(b) > 0; {
		messages, rest, err := batch.Decode(nil, b, "broker-a")
		l.check(err)
		for _, m := range messages {
			must[protocol.SendBackResponse](l.deciding, protocol.ClassClient, &protocol.SendBackRequest{
				Group: "g", ClientID: "c", Topic: "t", Offset: m.QueueOffset, Fence: lease.Fence, MessageID: m.ID.String(), DelayMillis: 10_000, Error: "no",
			})
		}
		b = rest
	}
	retries := func() string {
		var got []string
		for _, q := range l.group("g").Queues {
			got = append(got, fmt.Sprintf("%s/%d:%d/%d", strings.TrimSuffix(q.Topic, "g"), q.Queue, q.Lag, q.Retrying))
			if q.Topic == message.RetryTopic("g") && (q.FilterUnknown || q.Filtered || q.LagMillis > 0 && q.Retrying == q.Lag) {
				t.Errorf("got %+v", q)
			}
		}
		return strings.Join(got, " ")
	}
	if got, want := retries(), "%RETRY%/0:3/3 t/0:2/0 t/1:0/0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	l.pass(11 * time.Second)
	want := "%RETRY%/0:3/0 t/0:2/0 t/1:0/0"
	l.eventually("the messages are shown", func() bool { return retries() == want })
}

// After a restart those who held queues are not pushed out by who reports first.
func TestSubscription_SurvivesARestart(t *testing.T) {
	l := newLagging(t)
	l.check(l.filter("old", tag("a")))
	l.own("old", 0, 1)
	l.restart()
	var refusal *protocol.Error
	if err := l.filter("new", tag("b")); !errors.As(err, &refusal) || refusal.Code != protocol.Conflict || refusal.RetryAfterMillis == 0 || !strings.Contains(refusal.Remark, "tag a") {
		t.Errorf("who reports first: %v", err)
	}
	l.check(l.filter("old", tag("a")))
	l.leave("old")
	l.check(l.filter("new", tag("b")))
	l.restart() // new owns nothing, so that nobody is expected back
	l.check(l.filter("newer", tag("c")))
}

// A subscription that is too long for a record is taken all the same, and forgotten
// with the last member.
func TestSubscription_TooLongToBeRemembered(t *testing.T) {
	l := newLagging(t)
	l.put(0, "a", "b")
	l.check(l.commit("g", 0, 0))
	sub := protocol.Subscription{Group: "g", Topics: []string{"t"}, Filters: []protocol.TopicFilter{{Topic: "t", Kind: protocol.FilterTag, Text: "a"}}}
	for i := range 150 {
		name := fmt.Sprint("topic-", i)
		sub.Topics = append(sub.Topics, name)
		sub.Filters = append(sub.Filters, protocol.TopicFilter{Topic: name, Kind: protocol.FilterTag, Text: strings.Repeat("x", 8000)})
	}
	must[protocol.HeartbeatResponse](l.deciding, protocol.ClassClient, &protocol.HeartbeatRequest{ClientID: "c", Inbox: l.conn.Inbox(), Consumers: []protocol.Subscription{sub}})
	l.want("0:1/2 -1:0/0")
	l.leave("c")
	l.want("0:2/2 -1:0/0")
	l.wantKnown("unknown")
}

// Members are told that their group was changed, so that they see at once whether they
// may consume; a pull that waits gives nothing out any more.
func TestGroup_SwitchIsTold(t *testing.T) {
	l := newLagging(t)
	told := make(chan protocol.Frame, 16)
	conn := l.dial(func(f protocol.Frame) { told <- f })
	beat := &protocol.HeartbeatRequest{ClientID: "c", Inbox: conn.Inbox(), Consumers: []protocol.Subscription{{Group: "g", Topics: []string{"t"}}}}
	must[protocol.HeartbeatResponse](l.deciding, protocol.ClassClient, beat)
	<-told // that it has joined
	lease := l.own("c", 0)[0]
	pulled := make(chan error, 1)
	go func() {
		_, err := call[protocol.PullResponse](l.deciding, conn, protocol.ClassPull, &protocol.PullRequest{
			Group: "g", ClientID: "c", WaitMillis: protocol.MaxPullWaitMillis, MaxBytes: 1 << 20, Queues: []protocol.PullQueue{{Topic: "t", Fence: lease.Fence}},
		})
		pulled <- err
	}()
	must[protocol.Empty](l.deciding, protocol.ClassAdmin, &protocol.PutGroupRequest{Group: protocol.GroupConfig{Name: "g"}, Mode: protocol.PutAlter})
	if f := <-told; f.Code != protocol.MembersChanged {
		t.Errorf("told %v", f.Code)
	}
	l.put(0, "a")
	if err := <-pulled; !errors.Is(err, protocol.NoPermission) {
		t.Errorf("the pull that waits: %v", err)
	}
	_, err := call[protocol.SyncLeasesResponse](l.deciding, l.conn, protocol.ClassClient, &protocol.SyncLeasesRequest{ClientID: "c", Group: "g", Topic: "t", Queues: []int{0}})
	if !errors.Is(err, protocol.NoPermission) || !strings.Contains(err.Error(), `switched off for group "g"`) {
		t.Errorf("who asks for queues: %v", err)
	}
}
