package broker_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// letters are the bodies of the group's dead letters.
func (p *popping) letters() (bodies []string) {
	p.Helper()
	for _, t := range must[protocol.ListTopicsResponse](p.deciding, protocol.ClassAdmin, &protocol.ListTopicsRequest{}).Topics {
		if t.Name == message.DLQTopic("g") {
			for _, m := range p.stored(t.Name) {
				o := m.Origin
				bodies = append(bodies, fmt.Sprintf("%s from %s/%d@%d after %d: %s", m.Body, o.Topic, o.Queue, o.Offset, m.ReconsumeTimes, o.LastError))
			}
		}
	}
	return bodies
}

// A message that nobody acknowledges is a dead letter after the group's retries, once;
// those behind it go on.
func TestPop_DeadLetters(t *testing.T) {
	p := newPopping(t, 1)
	p.put(0, "0", "a/1", "a/2")
	p.ack(p.wantPop(1, "0:1")...)
	for attempt := 1; attempt <= 1+3; attempt++ { // the group has 3 retries
		p.wantPop(9, fmt.Sprintf("a/1:%d", attempt))
		p.pass(time.Minute)
		if len(p.letters()) != 0 {
			t.Fatalf("dead after %d", attempt)
		}
	}
	p.wantPop(9, "a/2:1")
	want := "a/1 from t/0@1 after 4: it was handed out 4 times and never acknowledged"
	if got := p.letters(); len(got) != 1 || got[0] != want {
		t.Errorf("got %q", got)
	}
	p.restart()
	p.check(p.join("c", nil))
	p.wantPop(9, "")
	if got := p.letters(); len(got) != 1 {
		t.Errorf("got %q", got)
	}
	if o := p.group("g").Queues[0]; o.Topic != "t" && o.Lag != 1 {
		t.Errorf("got %+v", o)
	}
}

// Each way of consuming keeps its hands off what the other has.
func TestPop_AndLeases(t *testing.T) {
	p := newPopping(t, 2)
	p.check(p.join("owner", nil))
	p.put(0, "1")
	p.put(1, "2")
	p.own("owner", 0)
	got, err := p.tryPop(p.request(9, time.Minute, 0))
	if !errors.Is(err, protocol.Conflict) || fmt.Sprint(got) != "[2:1]" || !strings.Contains(err.Error(), `"owner"`) {
		t.Fatalf("got %v, %v", got, err)
	}
	sync := &protocol.SyncLeasesRequest{ClientID: "owner", Group: "g", Topic: "t", Queues: []int{0, 1}}
	if _, err := call[protocol.SyncLeasesResponse](p.deciding, p.conn, protocol.ClassClient, sync); !errors.Is(err, protocol.Conflict) {
		t.Errorf("a lease of what is in flight: %v", err)
	}
	if err := p.commit("g", 1, 1); !errors.Is(err, protocol.Fenced) {
		t.Errorf("a commit of what is in flight: %v", err)
	}
	p.leave("owner")
	p.ack(p.wantPop(9, "1:1")...)
	if got := p.ack(got...); got != "ok" {
		t.Errorf("ack: %s", got)
	}
	p.put(1, "3", "4", "5")
	left := p.wantPop(9, "3:1 4:1 5:1")
	p.ack(left[1])
	p.pass(time.Minute)
	p.check(p.join("owner", nil))
	if leases := p.own("owner", 1); len(leases) != 1 || leases[0].Committed != 1 { // nothing is in flight
		t.Fatalf("leases %+v", leases)
	}
	if got := p.ack(left[0]); got != "expired" {
		t.Errorf("an ack after the lease: %s", got)
	}
	if o := p.group("g").Queues[1]; o.Lag != 3 || o.InFlight != 0 {
		t.Errorf("got %+v", o)
	}
	_, fence := p.leaseOf(1)
	commit := &protocol.CommitOffsetsRequest{Group: "g", ClientID: "owner", Offsets: []protocol.CommitOffset{{Topic: "t", Queue: 1, Offset: 3, Fence: fence}}}
	must[protocol.CommitOffsetsResponse](p.deciding, protocol.ClassClient, commit)
	p.leave("owner")
	p.wantPop(9, "5:1") // behind what the owner did
}

func (p *popping) leaseOf(queue int) (client string, fence uint64) {
	p.Helper()
	for _, l := range p.own("owner", queue) {
		return "owner", l.Fence
	}
	p.Fatal("no lease")
	return "", 0
}

// A reset forgets what was popped; handles of before are worth nothing.
func TestPop_AndOffsets(t *testing.T) {
	p := newPopping(t, 1)
	p.put(0, "1", "2", "3", "4")
	first := p.wantPop(2, "1:1 2:1")
	reset := func(target protocol.ResetTarget, value int64) {
		t.Helper()
		_, err := p.reset(protocol.ResetOffsetsRequest{Group: "g", Topic: "t", Queue: -1, Target: target, Value: value})
		p.check(err)
	}
	reset(protocol.ResetToOffset, 1)
	if got := p.ack(first...); got != "expired expired" {
		t.Errorf("acks: %s", got)
	}
	p.want("1:3/0")
	again := p.wantPop(9, "2:1 3:1 4:1")
	p.ack(again[0], again[2])
	p.want("2:1/0")
	clone := &protocol.CloneOffsetsRequest{From: "g", To: "h"}
	if c := must[protocol.CloneOffsetsResponse](p.deciding, protocol.ClassAdmin, clone); c.Queues[0].After != 2 {
		t.Errorf("got %+v", c)
	}
	reset(protocol.ResetToLatest, 0)
	p.want("4:0/0")
	p.pass(time.Minute)
	p.wantPop(9, "")
	reset(protocol.ResetToEarliest, 0)
	p.wantPop(9, "1:1 2:1 3:1 4:1")
	p.put(0, "5")
	p.leave("c")
	p.pass(time.Minute)
	p.check(p.commit("g", 0, 3)) // nothing is in flight
	p.want("3:2/120")
	p.check(p.join("c", nil))
	p.wantPop(9, "4:2 5:1")
}

// A group or a topic that is deleted leaves nothing behind.
func TestPop_Deleted(t *testing.T) {
	p := newPopping(t, 1)
	p.put(0, "1", "2")
	old := p.wantPop(1, "1:1")
	p.leave("c")
	must[protocol.DeleteGroupResponse](p.deciding, protocol.ClassAdmin, &protocol.DeleteGroupRequest{Group: "g"})
	must[protocol.Empty](p.deciding, protocol.ClassAdmin, &protocol.PutGroupRequest{Mode: protocol.PutCreate, Group: protocol.GroupConfig{Name: "g", ConsumeEnabled: true}})
	p.check(p.join("c", nil))
	if got := p.ack(old...); got != "NOT_FOUND" {
		t.Errorf("ack: %s", got)
	}
	p.wantPop(9, "1:1 2:1")
	must[protocol.Empty](p.deciding, protocol.ClassAdmin, &protocol.DeleteTopicRequest{Topic: "t"})
	p.topic("t", 1)
	p.put(0, "3")
	p.ack(p.wantPop(9, "3:1")...)
	p.restart()
	p.check(p.join("c", nil))
	p.wantPop(9, "")
	p.want("1:0/0")
}

// A new group begins where its members say, and stays there whatever comes.
func TestPop_BeginsWhereMembersSay(t *testing.T) {
	p := newPopping(t, 1)
	p.put(0, "1", "2")
	p.check(p.join("c", &protocol.Start{Target: protocol.ResetToLatest}))
	p.wantPop(9, "")
	p.put(0, "3")
	p.want("2:1/0")
	p.restart()
	p.check(p.join("c", &protocol.Start{Target: protocol.ResetToLatest}))
	p.ack(p.wantPop(9, "3:1")...)
	p.want("3:0/0")
}

// What retention drops is finished, whether it was handed out or waits.
func TestPop_RetentionDropsWhatIsUnfinished(t *testing.T) {
	p := newPopping(t, 1, func(c *broker.Config) {
		c.Retention = broker.Retention{MaxAge: time.Hour, Interval: 10 * time.Millisecond}
	})
	p.put(0, "a/1", "a/2", "3")
	old := p.wantPop(9, "3:1 a/1:1")
	p.pass(2 * time.Hour)
	p.put(0, "a/4")
	p.eventually("the first are dropped", func() bool { return p.group("g").Queues[0].Min == 3 })
	if o := p.group("g").Queues[0]; o.Lag != 1 || o.InFlight != 0 || o.Ready != 1 {
		t.Errorf("got %+v", o)
	}
	next := p.wantPop(9, "a/4:1")
	if got := p.ack(old...); got != "ok ok" {
		t.Errorf("acks: %s", got)
	}
	p.want("3:1/0")
	p.pass(2 * time.Hour)
	p.eventually("the last one is dropped, too", func() bool { return p.group("g").Queues[0].Min == 4 })
	p.wantPop(9, "") // the group's offset follows
	p.want("4:0/0")
	p.ack(next...)
	if got := p.letters(); len(got) != 0 {
		t.Errorf("dead letters %q", got)
	}
}

// Many members at once get each message once, from one queue.
func TestPop_ManyMembersAtOnce(t *testing.T) {
	p := newTimedPopping(t, 2)
	const members, messages, groups = 20, 2000, 50
	var mu sync.Mutex
	seen := map[string]int{}
	last := map[string]int{}
	busy := map[string]bool{}
	var done atomic.Int64
	var members1 sync.WaitGroup
	for i := range members {
		client := fmt.Sprint("m", i)
		p.check(p.join(client, nil))
		members1.Go(func() {
			for done.Load() < messages && !t.Failed() {
				r := p.request(1+i, harness.Timeout, 200*time.Millisecond)
				r.ClientID = client
				got, err := p.tryPop(r)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, h := range got {
					name, n, _ := strings.Cut(h.body, "/")
					number := 0
					fmt.Sscan(n, &number)
					if seen[h.body]++; name != "" && (busy[name] || last[name] > number) {
						t.Errorf("%s while %d is there: %v", h.body, last[name], busy[name])
					}
					if name != "" {
						busy[name], last[name] = true, number
					}
				}
				mu.Unlock()
				mu.Lock()
				for _, h := range got {
					name, _, _ := strings.Cut(h.body, "/")
					busy[name] = false
				}
				mu.Unlock()
				if len(got) > 0 {
					ack := acks(got)
					resp, err := call[protocol.AckResponse](p.deciding, p.conn, protocol.ClassClient, &ack)
					if err != nil || strings.Trim(settled(resp), "ok ") != "" {
						t.Errorf("acks: %v, %v", resp, err)
					}
					done.Add(int64(len(got)))
				}
			}
		})
	}
	for i := 0; i < messages; i += 10 {
		var texts []string
		for n := range 10 {
			name := ""
			if n%2 == 0 {
				name = fmt.Sprint("g", (i+n)%groups)
			}
			texts = append(texts, fmt.Sprintf("%s/%d", name, i+n))
		}
		p.put((i/10)%2, texts...)
	}
	members1.Wait()
	if n := slices.Max(slices.Collect(maps.Values(seen))); n != 1 || len(seen) != messages {
		t.Errorf("%d of %d messages came, one of them %d times", len(seen), messages, n)
	}
	if s := p.group("g"); s.Queues[0].Lag+s.Queues[1].Lag != 0 {
		t.Errorf("got %+v", s.Queues)
	}
}
