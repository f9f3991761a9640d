package tests

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// consumption is a cluster with a topic of some queues, a producer, and a
// record of what consumers got.
type consumption struct {
	*testing.T
	cluster  *harness.Cluster
	producer *producer.Producer
	admin    *admin.Admin
	broker   string
	sent     int
	listener // that of all consumers which have none of their own
}

// listener is what consumers got.
type listener struct {
	mu  sync.Mutex
	got map[string]int // deliveries by body
}

func (l *listener) handle(_ context.Context, d *consumer.Delivery) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.got == nil {
		l.got = map[string]int{}
	}
	l.got[string(d.Body)]++
	return nil
}

// deliveries counts the messages that came, and how often one came again.
func (l *listener) deliveries() (distinct, again int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.got {
		again += n - 1
	}
	return len(l.got), again
}

const consumedTopic = "orders"

func newConsumption(t *testing.T, queues int, change ...func(*broker.Config)) *consumption {
	t.Helper()
	c := &consumption{T: t, cluster: harness.Start(t, change...)}
	var err error
	if c.producer, err = producer.New(t.Context(), producer.Config{NameServers: c.cluster.NameServers, SendTimeout: harness.Timeout}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.check(c.producer.Close(context.WithoutCancel(t.Context()))) })
	if c.admin, err = admin.New(t.Context(), admin.Config{NameServers: c.cluster.NameServers}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.admin.Close)
	_, err = c.admin.CreateTopic(t.Context(), admin.TopicSpec{Name: consumedTopic, ReadQueues: queues, WriteQueues: queues}, admin.Target{})
	c.check(err)
	brokers, err := c.admin.Cluster(t.Context())
	if err != nil || len(brokers) != 1 {
		t.Fatalf("cluster: got %v, %v, want one broker", brokers, err)
	}
	c.broker = brokers[0].Broker
	return c
}

func (c *consumption) check(err error) {
	c.Helper()
	if err != nil {
		c.Error(err)
	}
}

// publish sends n messages to each queue; bodies count through the test.
func (c *consumption) publish(queues, n int, change ...func(*message.Message)) {
	c.Helper()
	errs := make(chan error, queues*n)
	for range n {
		for q := range queues {
			m := &message.Message{Topic: consumedTopic, Body: strconv.AppendInt(nil, int64(c.sent), 10)}
			for _, f := range change {
				f(m)
			}
			c.sent++
			to := producer.ToQueue(message.Queue{Broker: c.broker, ID: q})
			c.producer.SendAsync(c.Context(), m, func(_ producer.Receipt, err error) { errs <- err }, to)
		}
	}
	for range queues * n {
		c.check(<-errs)
	}
}

// allOnce waits until everything sent was delivered, and fails when something
// was delivered twice.
func (c *consumption) allOnce() {
	c.Helper()
	harness.Eventually(c, fmt.Sprintf("all of %d messages", c.sent), func() bool { n, _ := c.deliveries(); return n == c.sent })
	if _, again := c.deliveries(); again != 0 {
		c.Errorf("%d messages are delivered again", again)
	}
}

func (c *consumption) config() consumer.Config {
	return consumer.Config{
		NameServers: c.cluster.NameServers, Group: "billing", Subscriptions: []consumer.Subscription{{Topic: consumedTopic}},
		From: consumer.Earliest(), CommitInterval: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	}
}

// push runs a consumer until stop, and waits until it has its queues.
func (c *consumption) push(cfg consumer.Config, h consumer.Handler) (stop func()) {
	c.Helper()
	p, err := consumer.NewPush(c.Context(), cfg, h)
	if err != nil {
		c.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context()))
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // stop waits for it
	stop = sync.OnceFunc(func() {
		cancel()
		c.check(<-ran)
	})
	c.Cleanup(stop)
	consumptionWait(c, "the consumer has its queues", p.Ready())
	return stop
}

func consumptionWait[T any](t testing.TB, what string, ch <-chan T) {
	t.Helper()
	timer := time.NewTimer(harness.Timeout)
	defer timer.Stop()
	select {
	case <-ch:
	case <-timer.C:
		t.Fatalf("not within %v: %s", harness.Timeout, what)
	}
}

func (c *consumption) reader(from consumer.StartPosition) *consumer.Pull {
	c.Helper()
	p, err := consumer.NewPull(c.Context(), consumer.PullConfig{
		NameServers: c.cluster.NameServers, Subscriptions: []consumer.Subscription{{Topic: consumedTopic}}, From: from,
	})
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { c.check(p.Close(context.WithoutCancel(c.Context()))) })
	return p
}

// readToEnd returns the bodies from a position to the end, by queue.
func (c *consumption) readToEnd(from consumer.StartPosition) map[int][]string {
	c.Helper()
	read := map[int][]string{}
	for d, err := range c.reader(from).MessagesToEnd(c.Context()) {
		if err != nil {
			c.Fatal(err)
		}
		read[d.Queue.ID] = append(read[d.Queue.ID], string(d.Body))
	}
	return read
}

func (c *consumption) owners() map[string]int {
	c.Helper()
	g, err := c.admin.DescribeGroup(c.Context(), "billing", admin.Target{})
	if err != nil {
		c.Fatal(err)
	}
	return ownersOf(g)
}

// ownersOf counts the queues of each member.
func ownersOf(g *admin.Group) map[string]int {
	owners := map[string]int{}
	for _, q := range g.Queues {
		if q.Owner != "" {
			owners[q.Owner]++
		}
	}
	return owners
}

func TestConsumer_MembersShareJoinAndLeave(t *testing.T) {
	c := newConsumption(t, 8)
	stop1 := c.push(c.config(), c.handle)
	c.publish(8, 50)
	c.push(c.config(), c.handle)
	if got := slices.Collect(maps.Values(c.owners())); !slices.Equal(got, []int{4, 4}) {
		t.Errorf("queues of the members: got %v, want 4 and 4", got)
	}
	c.publish(8, 50)
	stop1()
	c.publish(8, 50)
	c.allOnce()
	harness.Eventually(t, "the one that stays has all queues", func() bool {
		return slices.Equal(slices.Collect(maps.Values(c.owners())), []int{8})
	})
}

// Members come and go while messages are sent: nothing is lost or comes twice.
func TestConsumer_RebalanceUnderLoad(t *testing.T) {
	c := newConsumption(t, 8)
	cfg := c.config()
	cfg.MaxPrefetch = 20
	c.push(cfg, c.handle)
	done := make(chan struct{})
	go func() { // waited for below
		defer close(done)
		for range 30 {
			c.publish(8, 20, func(m *message.Message) { m.Group = strconv.Itoa(c.sent % 5) })
		}
	}()
	for range 3 {
		c.push(cfg, c.handle)()
	}
	consumptionWait(t, "end of sending", done)
	c.allOnce()
}

func TestConsumer_ServerRestartOnTheSameDirectory(t *testing.T) {
	c := newConsumption(t, 8)
	cfg := c.config()
	cfg.CommitInterval = time.Hour // what is not kept in memory would come twice
	for range 3 {
		c.push(cfg, c.handle)
	}
	c.publish(8, 20)
	c.allOnce()
	before := c.owners()
	c.cluster.Restart()
	c.publish(8, 20)
	c.allOnce()
	harness.Eventually(t, "the one who asks is connected too", func() bool { return c.admin.Health(t.Context()).Healthy })
	if after := c.owners(); !maps.Equal(before, after) {
		t.Errorf("queues of the members: got %v, want %v as before", after, before)
	}
}

func TestConsumer_ResumesWhereTheGroupHasCommitted(t *testing.T) {
	c := newConsumption(t, 4)
	c.publish(4, 10)
	stop := c.push(c.config(), c.handle)
	c.allOnce()
	stop()
	c.publish(4, 10)
	c.cluster.Restart()
	c.push(c.config(), c.handle)
	c.allOnce()
}

func TestConsumer_StartPositions(t *testing.T) {
	c := newConsumption(t, 2)
	c.publish(2, 3) // 0 to 5, even ones in queue 0
	tick := time.NewTimer(5 * time.Millisecond)
	<-tick.C // the store time counts milliseconds
	middle := time.Now()
	c.publish(2, 2) // 6 to 9
	for _, p := range []struct {
		from consumer.StartPosition
		want map[int][]string
	}{
		{consumer.Earliest(), map[int][]string{0: {"0", "2", "4", "6", "8"}, 1: {"1", "3", "5", "7", "9"}}},
		{consumer.AtTime(middle), map[int][]string{0: {"6", "8"}, 1: {"7", "9"}}},
		{consumer.AtOffset(1), map[int][]string{0: {"2", "4", "6", "8"}, 1: {"3", "5", "7", "9"}}},
		{consumer.AtOffset(4), map[int][]string{0: {"8"}, 1: {"9"}}},
		{consumer.AtOffset(99), map[int][]string{}},
		{consumer.Latest(), map[int][]string{}},
	} {
		if got := c.readToEnd(p.from); !maps.EqualFunc(got, p.want, slices.Equal[[]string]) {
			t.Errorf("from %v: got %v, want %v", p.from, got, p.want)
		}
	}
	latest := c.reader(consumer.Latest())
	consumptionWait(t, "the reader has its queues", latest.Ready())
	c.publish(1, 1)
	for d, err := range latest.Messages(t.Context()) {
		if err != nil || string(d.Body) != "10" {
			t.Fatalf("from latest: got %v, %v, want the message sent afterwards", d, err)
		}
		break
	}
	stop := c.push(func() consumer.Config { cfg := c.config(); cfg.From = consumer.Latest(); return cfg }(), c.handle)
	c.publish(2, 1)
	harness.Eventually(t, "what is sent after a group started at the latest", func() bool { n, _ := c.deliveries(); return n == 2 })
	stop()
}

// lineWriter hands out what is logged, as far as it has room.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	select {
	case w <- string(p):
	default:
	}
	return len(p), nil
}

// Nothing sent to a topic that appears after the consumer is missed.
func TestConsumer_TopicThatAppearsLater(t *testing.T) {
	c := newConsumption(t, 1)
	cfg := c.config()
	cfg.From = consumer.Latest()
	cfg.Subscriptions = []consumer.Subscription{{Topic: "later"}}
	started := make(lineWriter, 100)
	cfg.Logger = slog.New(slog.NewTextHandler(started, nil))
	p, err := consumer.NewPush(t.Context(), cfg, c.handle)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // waited for below
	for !strings.Contains(<-started, "waiting for it") {
	}
	for i := range 20 {
		_, err := c.producer.Send(t.Context(), &message.Message{Topic: "later", Body: strconv.AppendInt(nil, int64(i), 10)})
		c.check(err)
	}
	c.sent = 20
	c.allOnce()
	cancel()
	c.check(<-ran)
}

func TestConsumer_DrainCommitsWhatIsFinished(t *testing.T) {
	c := newConsumption(t, 4)
	c.publish(4, 50)
	started, release := make(chan struct{}, 1000), make(chan struct{})
	cfg := c.config()
	cfg.Concurrency = 5
	stop := c.push(cfg, func(ctx context.Context, d *consumer.Delivery) error {
		started <- struct{}{}
		<-release
		return c.handle(ctx, d)
	})
	for range 5 {
		consumptionWait(t, "handlers run", started)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }() // waited for below
	close(release)
	consumptionWait(t, "the end of Run", stopped)
	if got := c.owners(); len(got) != 0 {
		t.Errorf("after Run: got owners %v, want none", got)
	}
	c.push(c.config(), c.handle)
	c.allOnce()
}

func TestConsumer_SlowHandlerBoundsThePrefetch(t *testing.T) {
	c := newConsumption(t, 2)
	c.publish(1, 500, func(m *message.Message) { m.Group = "slow"; m.Body = append(m.Body, make([]byte, 1000)...) })
	release := make(chan struct{})
	cfg := c.config()
	cfg.MaxPrefetch = 20
	c.push(cfg, func(ctx context.Context, d *consumer.Delivery) error {
		if d.Group == "slow" {
			<-release
		}
		return c.handle(ctx, d)
	})
	other := &message.Message{Topic: consumedTopic, Body: []byte("fast")}
	_, err := c.producer.Send(t.Context(), other, producer.ToQueue(message.Queue{Broker: c.broker, ID: 1}))
	c.check(err)
	c.sent++
	harness.Eventually(t, "the other queue goes on", func() bool { n, _ := c.deliveries(); return n == 1 })
	close(release)
	c.allOnce()
}

func TestConsumer_ResetWhileOnline(t *testing.T) {
	c := newConsumption(t, 4)
	c.publish(4, 10)
	c.push(c.config(), c.handle)
	c.allOnce()
	harness.Eventually(t, "the commit", func() bool { return c.lag() == 0 })
	_, err := c.admin.ResetOffsets(t.Context(), admin.Reset{Group: "billing", Topic: consumedTopic, To: protocol.ResetToOffset, Value: 7}, admin.Target{})
	c.check(err)
	harness.Eventually(t, "the last three of each queue again", func() bool { _, again := c.deliveries(); return again == 12 })
	harness.Eventually(t, "the commit", func() bool { return c.lag() == 0 })
	c.publish(4, 1)
	harness.Eventually(t, "what is sent afterwards", func() bool { n, again := c.deliveries(); return n == c.sent && again == 12 })
}

func (c *consumption) lag() (lag int64) {
	c.Helper()
	g, err := c.admin.DescribeGroup(c.Context(), "billing", admin.Target{})
	if err != nil {
		c.Fatal(err)
	}
	return g.Lag()
}

// Order per message group holds, with handlers that fail now and then.
func TestConsumer_OrderOfMessageGroups(t *testing.T) {
	c := newConsumption(t, 4)
	c.publish(4, 100, func(m *message.Message) { m.Group = strconv.Itoa(c.sent % 7) })
	last, attempts := map[string]int{}, map[int]int{}
	var mu sync.Mutex
	c.push(c.config(), func(ctx context.Context, d *consumer.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		n, err := strconv.Atoi(string(d.Body))
		c.check(err)
		lane := fmt.Sprint(d.Queue.ID, "/", d.Group)
		if attempts[n]++; n == 50 && attempts[n] == 1 {
			return fmt.Errorf("the first attempt at %d fails", n)
		}
		if before, ok := last[lane]; ok && n <= before {
			t.Errorf("group %s: %d comes after %d", lane, n, before)
		}
		last[lane] = n
		return c.handle(ctx, d)
	})
	c.allOnce()
}
