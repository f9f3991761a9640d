package consumer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
)

// prioritized makes messages of these priorities, with offsets from first on.
func prioritized(first int64, priorities ...int) []item {
	messages := stored(first, len(priorities))
	for i, p := range priorities {
		messages[i].Priority = p
	}
	return messages
}

func admitPriorities(b *buffer, q *processQueue, priorities ...int) {
	first := q.window.next
	b.admit(pulled{queue: q, items: prioritized(first, priorities...), next: first + int64(len(priorities)), bytes: 10})
}

// takePriorities takes all that is ready.
func takePriorities(b *buffer) []int {
	var got []int
	for it, _, _, _ := b.tryTake(time.Now); it != nil; it, _, _, _ = b.tryTake(time.Now) {
		got = append(got, it.Priority)
	}
	return got
}

func queueNumber(i int) message.Queue { return message.Queue{Topic: "t", Broker: "b", ID: i} }

func TestPriority_HighestFirstAndEqualOnesInTurn(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	low, highA, highB := holdIn(b, queueNumber(0), nil), holdIn(b, queueNumber(1), nil), holdIn(b, queueNumber(2), nil)
	admitPriorities(b, low, 0, 0)
	admitPriorities(b, highA, 9, 9, 1)
	admitPriorities(b, highB, 9, 9)
	var got []string
	for range 7 {
		it := mustTake(t, b)
		got = append(got, fmt.Sprint(it.queue.queue.ID, "/", it.Priority))
	}
	if want := "[1/9 2/9 1/9 2/9 1/1 0/0 0/0]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestPriority_ComesBackInAPauseAndAfter(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	low, high := holdIn(b, queueA, nil), holdIn(b, queueB, nil)
	admitPriorities(b, low, 0, 0, 0)
	admitPriorities(b, high, 5)
	b.pause(true, []message.Queue{queueB})
	if it := mustTake(t, b); it.Priority != 0 {
		t.Fatal("a paused queue hands a message out")
	}
	b.pause(false, []message.Queue{queueB})
	if got := fmt.Sprint(takePriorities(b)); got != "[5 0 0]" {
		t.Errorf("got %s after the pause", got)
	}
}

// What the program does to its Delivery does not change the message's place.
func TestPriority_SurvivesARetry(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	low, high := holdIn(b, queueA, nil), holdIn(b, queueB, nil)
	admitPriorities(b, low, 1, 1)
	admitPriorities(b, high, 9)
	it := mustTake(t, b)
	it.Priority = 0
	b.fail(it, time.Now().Add(-time.Second))
	if again := mustTake(t, b); again != it || again.Attempt != 2 {
		t.Fatalf("got %v, want the failed message before those of lower priority", again)
	}
	if got := fmt.Sprint(takePriorities(b)); got != "[1 1]" {
		t.Errorf("got %s of the others", got)
	}
}

func TestPriority_BeyondTheScaleIsTheHighest(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	admitPriorities(b, holdIn(b, queueA, nil), 9, -4)
	admitPriorities(b, holdIn(b, queueB, nil), 1<<40, 0)
	if got := fmt.Sprint(takePriorities(b)); got != "[9 1099511627776 -4 0]" {
		t.Errorf("got %s", got)
	}
}

// A drain drops the message in front; the one behind it has its own place.
func TestPriority_AfterADrain(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	mixed, middle := holdIn(b, queueA, nil), holdIn(b, queueB, nil)
	messages := prioritized(0, 9, 0, 9, 9)
	messages[0].Group, messages[1].Group = "g", "g"
	b.admit(pulled{queue: mixed, items: messages, next: 4, bytes: 10})
	first, third := mustTake(t, b), mustTake(t, b) // 0 and 2; 1 waits behind 0, 3 is in front
	admitPriorities(b, middle, 5)
	b.drain(queueA) // drops 3
	b.finish(first)
	b.finish(third)
	if got := fmt.Sprint(takePriorities(b)); got != "[5 0]" {
		t.Errorf("got %s", got)
	}
}

// orderModel is the simple model: queues in the order in which they lined up.
// The next one is the first of those with the highest priority in front; one that
// is paused loses its place when its turn comes.
type orderModel struct {
	queues map[message.Queue][]int // priorities that wait
	paused map[message.Queue]bool
	line   []message.Queue
}

func (m *orderModel) lineUp(q message.Queue) {
	if len(m.queues[q]) > 0 && !m.paused[q] && !slices.Contains(m.line, q) {
		m.line = append(m.line, q)
	}
}

// take takes a run of up to so many of the next queue, of no lower priority than the
// first of them.
func (m *orderModel) take(most int) (run []string) {
	var q message.Queue
	for found := false; !found; found = !m.paused[q] {
		if len(m.line) == 0 {
			return nil
		}
		q = slices.MaxFunc(m.line, func(a, b message.Queue) int { return cmp.Compare(m.queues[a][0], m.queues[b][0]) })
		m.line = slices.DeleteFunc(m.line, func(o message.Queue) bool { return o == q })
	}
	for first := m.queues[q][0]; len(run) < most && len(m.queues[q]) > 0 && m.queues[q][0] >= first; m.queues[q] = m.queues[q][1:] {
		run = append(run, placeText(q, m.queues[q][0]))
	}
	m.lineUp(q)
	return run
}

func (m *orderModel) takeMany(most int) (all []string) {
	for len(all) < most {
		run := m.take(most - len(all))
		if run == nil {
			break
		}
		all = append(all, run...)
	}
	return all
}

func placeText(q message.Queue, priority int) string { return fmt.Sprint(q.ID, "/", priority) }

func placesOf(items []*item) (all []string) {
	for _, it := range items {
		all = append(all, placeText(it.queue.queue, it.Priority))
	}
	return all
}

func TestPriority_TurnsAgainstAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBuffer(context.Background(), orderFree, bounds{count: 1000, bytes: 1 << 20})
		defer b.close()
		m := &orderModel{queues: map[message.Queue][]int{}, paused: map[message.Queue]bool{}}
		var queues []message.Queue
		held := map[message.Queue]*processQueue{}
		for i := range rapid.IntRange(1, 5).Draw(t, "queues") {
			queues = append(queues, queueNumber(i))
			held[queues[i]] = holdIn(b, queues[i], nil)
		}
		some := func(t *rapid.T) message.Queue { return rapid.SampledFrom(queues).Draw(t, "queue") }
		t.Repeat(map[string]func(*rapid.T){
			"admit": func(t *rapid.T) {
				q, priorities := some(t), rapid.SliceOfN(rapid.IntRange(0, 9), 1, 4).Draw(t, "priorities")
				admitPriorities(b, held[q], priorities...)
				m.queues[q] = append(m.queues[q], priorities...)
				m.lineUp(q)
			},
			"take": func(t *rapid.T) {
				it, _, _, err := b.tryTake(time.Now)
				var items []*item
				if it != nil {
					items = append(items, it)
				}
				if got, want := placesOf(items), m.take(1); err != nil || !slices.Equal(got, want) {
					t.Fatalf("got %v, %v; want %v", got, err, want)
				}
				b.finish(items...)
			},
			"take many": func(t *rapid.T) {
				most := rapid.IntRange(1, 6).Draw(t, "most")
				items, err := b.takeReady(most)
				if got, want := placesOf(items), m.takeMany(most); err != nil || !slices.Equal(got, want) {
					t.Fatalf("up to %d: got %v, %v; want %v", most, got, err, want)
				}
				b.finish(items...)
			},
			"pause": func(t *rapid.T) {
				q := some(t)
				m.paused[q] = !m.paused[q]
				b.pause(m.paused[q], []message.Queue{q})
				m.lineUp(q)
			},
			"lose": func(t *rapid.T) {
				q := some(t)
				b.lose(held[q], ErrLeaseLost)
				held[q] = holdIn(b, q, nil)
				delete(m.queues, q)
				delete(m.paused, q)
				m.line = slices.DeleteFunc(m.line, func(o message.Queue) bool { return o == q })
			},
		})
	})
}

// backlog is a cluster with a topic of priorities that has messages of all of
// them, the lowest sent first.
func backlog(t *testing.T, each int) *harness.Cluster {
	c := harness.Start(t)
	ad, err := admin.New(t.Context(), admin.Config{NameServers: c.NameServers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ad.Close)
	if _, err := ad.CreateTopic(t.Context(), admin.TopicSpec{Name: "t", ReadQueues: 10, WriteQueues: 10, Type: message.Priority}, admin.Target{}); err != nil {
		t.Fatal(err)
	}
	p, err := producer.New(t.Context(), producer.Config{NameServers: c.NameServers, SendTimeout: harness.Timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(context.WithoutCancel(t.Context())) })
	for priority := range message.MaxPriority + 1 {
		for i := range each {
			r, err := p.Send(t.Context(), &message.Message{Topic: "t", Priority: priority, Body: []byte(strconv.Itoa(i))})
			if err != nil || r.Queue.ID != priority {
				t.Fatalf("priority %d is sent to %v: %v", priority, r.Queue, err)
			}
		}
	}
	return c
}

// waits counts what the buffer has to hand out.
func (b *buffer) waits() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.queues {
		n += h.waiting
	}
	return n
}

func TestPriority_PullOfABacklog(t *testing.T) {
	const each = 20
	c := backlog(t, each)
	p, err := NewPull(t.Context(), PullConfig{NameServers: c.NameServers, Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(context.WithoutCancel(t.Context())) })
	harness.Eventually(t, "all is pulled", func() bool { return p.engine.buffer.waits() == 10*each })
	for i := range 10 * each {
		ds, err := p.Poll(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		if d := ds[0]; d.Priority != 9-i/each || string(d.Body) != strconv.Itoa(i%each) {
			t.Fatalf("message %d: got priority %d, %s", i, d.Priority, d.Body)
		}
	}
}

// The handler begins when everything is there. Then the priorities come from the
// highest to the lowest, and one that failed comes again before those below it.
func TestPriority_PushOfABacklog(t *testing.T) {
	const each = 20
	c := backlog(t, each)
	var e *engine
	seen, done := []int{}, make(chan struct{})
	handle := func(_ context.Context, d *Delivery) error {
		seen = append(seen, d.Priority)
		switch {
		case d.Priority == 7 && string(d.Body) == "0" && d.Attempt == 1:
			return RetryAfter(0, errors.New("once more"))
		case d.Priority == 6 && string(d.Body) == "0":
			harness.Eventually(t, "the copy is there", func() bool { return e.buffer.waits() == 7*each })
		case len(seen) == 10*each+1:
			close(done)
		}
		return nil
	}
	p, err := NewPush(t.Context(), Config{
		NameServers: c.NameServers, Group: "g", Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest(),
	}, handle)
	if err != nil {
		t.Fatal(err)
	}
	cl, err := p.settings.newClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	e = newEngine(t.Context(), p.settings, cl, p.ready)
	var running sync.WaitGroup
	running.Go(func() { e.run(ctx, t.Context(), newMembership(e)) })
	harness.Eventually(t, "all is pulled", func() bool { return e.buffer.waits() == 10*each })
	running.Go(func() { p.handle(t.Context(), e) })
	<-done
	stop()
	e.buffer.close()
	running.Wait()
	var want []int
	for priority := message.MaxPriority; priority >= 0; priority-- {
		want = append(want, slices.Repeat([]int{priority}, each)...)
	}
	want = slices.Insert(want, 3*each+1, 7)
	if !slices.Equal(seen, want) {
		t.Errorf("got %v", seen)
	}
}
