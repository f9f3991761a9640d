package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// measured is a server whose metrics are looked at.
type measured struct {
	*testing.T
	*running
	producer *producer.Producer
}

func startMeasured(t *testing.T) *measured {
	t.Helper()
	m := &measured{T: t, running: startServer(t, "--data", t.TempDir(), "--default-queues", "4", "--cluster", "c1", "--name", "b1")}
	var err error
	m.producer, err = producer.New(t.Context(), producer.Config{
		NameServers: []string{m.Listen}, Group: "makers", TransactionTopics: []string{"orders"},
		Checker: func(context.Context, *message.Stored) producer.Decision { return producer.Unknown },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.producer.Close(context.WithoutCancel(t.Context())) })
	return m
}

func (m *measured) send(messages ...*message.Message) {
	m.Helper()
	for _, msg := range messages {
		msg.Topic = "orders"
		if _, err := m.producer.Send(m.Context(), msg); err != nil {
			m.Fatal(err)
		}
	}
}

func (m *measured) transact(d producer.Decision) {
	m.Helper()
	_, err := m.producer.SendInTransaction(m.Context(), &message.Message{Topic: "orders", Body: []byte("tx")}, func(context.Context) (producer.Decision, error) { return d, nil })
	if err != nil {
		m.Fatal(err)
	}
}

// push runs a consumer of a group until the returned func is called.
func (m *measured) push(group string, h consumer.Handler) (stop func()) {
	m.Helper()
	c, err := consumer.NewPush(m.Context(), consumer.Config{
		NameServers: []string{m.Listen}, Group: group, Subscriptions: []consumer.Subscription{{Topic: "orders"}}, From: consumer.Earliest(),
		CommitInterval: 10 * time.Millisecond,
	}, h)
	if err != nil {
		m.Fatal(err)
	}
	ctx, cancel := context.WithCancel(m.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }() // the returned func waits for it
	return func() {
		cancel()
		if err := <-ran; err != nil {
			m.Error(err)
		}
	}
}

func (m *measured) scrape() map[string]*dto.MetricFamily {
	m.Helper()
	code, text := get(m.T, "http://"+m.HTTP+"/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if code != 200 || err != nil {
		m.Fatalf("%d, %v: %s", code, err, text)
	}
	return families
}

// value is the sum of the series of a metric whose labels hold the text.
func value(families map[string]*dto.MetricFamily, name, labels string) (sum float64, series int) {
	for _, s := range families[name].GetMetric() {
		if !strings.Contains(labelsOf(s), labels) {
			continue
		}
		series++
		sum += s.GetCounter().GetValue() + s.GetGauge().GetValue() + float64(s.GetHistogram().GetSampleCount())
	}
	return sum, series
}

func labelsOf(m *dto.Metric) string {
	var labels []string
	for _, l := range m.GetLabel() {
		labels = append(labels, l.GetName()+"="+l.GetValue())
	}
	return strings.Join(labels, " ")
}

// shows waits until metrics have these values: "name{labels}".
func (m *measured) shows(want map[string]float64) {
	m.Helper()
	var wrong string
	defer func() {
		if m.Failed() {
			m.Log(wrong)
		}
	}()
	harness.Eventually(m.T, fmt.Sprint(want), func() bool {
		families := m.scrape()
		wrong = ""
		for key, n := range want {
			name, labels, _ := strings.Cut(strings.TrimSuffix(key, "}"), "{")
			if got, series := value(families, name, labels); got != n || series == 0 {
				wrong += fmt.Sprintf("%s: got %v of %d series, want %v\n", key, got, series, n)
			}
		}
		return wrong == ""
	})
}

// busy sends messages of all kinds: 13, of which 10 can be consumed.
func (m *measured) busy() {
	m.Helper()
	m.send(&message.Message{Body: []byte("fine")}, &message.Message{Body: []byte("bad")}, &message.Message{Body: []byte("again")},
		&message.Message{Body: []byte("fine")}, &message.Message{Body: slices.Repeat([]byte("0123456789"), 200)},
		&message.Message{Group: "lane"}, &message.Message{Group: "lane"}, &message.Message{Priority: 3},
		&message.Message{Delay: time.Millisecond}, &message.Message{Delay: time.Hour})
	for _, d := range []producer.Decision{producer.Commit, producer.Rollback, producer.Unknown} {
		m.transact(d)
	}
}

func handleBusy(_ context.Context, d *consumer.Delivery) error {
	switch {
	case string(d.Body) == "bad":
		return consumer.ErrReject
	case string(d.Body) == "again" && d.Attempt == 1:
		return consumer.RetryAfter(0, errors.New("not yet"))
	}
	return nil
}

func TestMetrics_AreRight(t *testing.T) {
	m := startMeasured(t)
	m.busy()
	in := map[string]float64{
		"rocketmq_messages_in_total{message_type=normal":                              5,
		"rocketmq_messages_in_total{message_type=fifo":                                2,
		"rocketmq_messages_in_total{message_type=priority":                            1,
		"rocketmq_messages_in_total{message_type=delay":                               2,
		"rocketmq_messages_in_total{message_type=transaction":                         3,
		"rocketmq_message_size{message_type=normal":                                   5,
		"rocketmq_message_size{topic=orders":                                          13,
		"rocketmq_commit_messages_total{topic=orders":                                 1,
		"rocketmq_rollback_messages_total{topic=orders":                               1,
		"rocketmq_half_messages{topic=orders":                                         1,
		"rocketmq_timing_messages{topic=orders":                                       1,
		"rocketmq_timer_enqueue_total{topic=orders":                                   2,
		"rocketmq_timer_dequeue_total{topic=orders":                                   1,
		"rocketmq_producer_connections{version":                                       1,
		"rocketmq_broker_permission{cluster=c1 node_id=b1 node_type=broker":           6,
		"rocketmq_topic_number{cluster=c1 node_id=b1 node_type=broker":                1,
		"rocketmq_storage_flush_behind_bytes{storage_medium=disk storage_type=local}": 0,
	}
	m.shows(in)
	stop := m.push("fast", handleBusy)
	m.shows(map[string]float64{
		"rocketmq_messages_out_total{consumer_group=fast is_retry=false":    10,
		"rocketmq_messages_out_total{consumer_group=fast is_retry=true":     1,
		"rocketmq_send_to_dlq_messages_total{consumer_group=fast":           1,
		"rocketmq_consumer_lag_messages{consumer_group=fast":                0,
		"rocketmq_consumer_lag_latency_milliseconds{consumer_group=fast":    0,
		"rocketmq_consumer_inflight_messages{consumer_group=fast":           0,
		"rocketmq_consumer_ready_messages{consumer_group=fast":              0,
		"rocketmq_consumer_connections{consume_mode=push":                   1,
		"rocketmq_consumer_group_number{cluster=c1":                         1,
		"rocketmq_topic_number{cluster=c1":                                  3, // and those of retries and dead letters
		"rocketmq_timer_dequeue_total{topic=%RETRY%fast":                    1,
		"rocketmq_timer_enqueue_total{topic=%RETRY%fast":                    1,
		"rocketmq_consumer_queueing_latency_milliseconds{consumer_group=fa": 0,
	})
	families := m.scrape()
	sent, _ := value(families, "rocketmq_throughput_in_total", "message_type=normal")
	sized := 0.0
	for _, s := range families["rocketmq_message_size"].GetMetric() {
		if strings.Contains(labelsOf(s), "message_type=normal") {
			sized += s.GetHistogram().GetSampleSum()
			if n := s.GetHistogram().GetBucket(); n[0].GetCumulativeCount() != 4 || n[1].GetCumulativeCount() != 5 || n[0].GetUpperBound() != 1024 {
				t.Errorf("got buckets %v", n)
			}
		}
	}
	if sent < 2000 || sized != sent {
		t.Errorf("got %v bytes in, and a sum of sizes of %v", sent, sized)
	}
	stop()
	m.send(&message.Message{Body: []byte("fine")}, &message.Message{Body: []byte("fine")})
	m.shows(map[string]float64{
		"rocketmq_consumer_lag_messages{consumer_group=fast":      2,
		"rocketmq_consumer_ready_messages{consumer_group=fast":    2,
		"rocketmq_consumer_inflight_messages{consumer_group=fast": 0,
	})
	if late, _ := value(m.scrape(), "rocketmq_consumer_lag_latency_milliseconds", "consumer_group=fast"); late <= 0 {
		t.Errorf("the oldest message is %v ms old", late)
	}
}

// A member that was given messages and has not finished them has them in flight; when
// it is gone they are ready for another.
func TestMetrics_InFlight(t *testing.T) {
	m := startMeasured(t)
	batch := make([]*message.Message, 10)
	for i := range batch {
		batch[i] = &message.Message{Topic: "orders", Body: []byte("fine")}
	}
	if _, err := m.producer.SendBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	p, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: []string{m.Listen}, Group: "slow", Subscriptions: []consumer.Subscription{{Topic: "orders"}},
		From: consumer.Earliest(), ManualCommit: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	m.shows(map[string]float64{
		"rocketmq_consumer_lag_messages{consumer_group=slow":                  10,
		"rocketmq_consumer_inflight_messages{consumer_group=slow":             10,
		"rocketmq_consumer_ready_messages{consumer_group=slow":                0,
		"rocketmq_consumer_queueing_latency_milliseconds{consumer_group=slow": 0,
		"rocketmq_consumer_connections{consume_mode=pull consumer_group=slow": 1,
	})
	for n := 0; n < 4; {
		ds, err := p.Poll(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		n += len(ds)
	}
	if err := p.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.shows(map[string]float64{
		"rocketmq_consumer_lag_messages{consumer_group=slow":      6,
		"rocketmq_consumer_inflight_messages{consumer_group=slow": 6,
		"rocketmq_messages_out_total{consumer_group=slow":         10,
	})
	if code := m.end(errTerminated); code != exitOK {
		t.Fatalf("exit %d", code)
	}
	m.running = startServer(t, "--data", m.Data, "--listen", m.Listen)
	m.shows(map[string]float64{ // the member goes on
		"rocketmq_consumer_lag_messages{consumer_group=slow":      6,
		"rocketmq_consumer_inflight_messages{consumer_group=slow": 6,
	})
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.shows(map[string]float64{
		"rocketmq_consumer_lag_messages{consumer_group=slow":      6,
		"rocketmq_consumer_inflight_messages{consumer_group=slow": 0,
		"rocketmq_consumer_ready_messages{consumer_group=slow":    6,
	})
	if r := result0(t, "topic delete orders --yes -n "+m.Listen); r.exit != exitOK {
		t.Fatalf("%+v", r)
	}
	if _, series := value(m.scrape(), "rocketmq_messages_in_total", "topic=orders"); series != 0 {
		t.Error("a topic that was deleted has metrics")
	}
}

// The names, types and labels are what dashboards and alerts of RocketMQ 5 know, and
// docs/metrics.md has each of them.
func TestMetrics_GoldenList(t *testing.T) {
	m := startMeasured(t)
	m.busy()
	defer m.push("fast", handleBusy)()
	m.shows(map[string]float64{
		"rocketmq_messages_out_total{consumer_group=fast is_retry=true": 1, "rocketmq_send_to_dlq_messages_total{consumer_group=fast": 1,
	})
	var list strings.Builder
	families := m.scrape()
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		labels := map[string]bool{}
		for _, s := range f.GetMetric() {
			for _, l := range s.GetLabel() {
				labels[l.GetName()] = true
			}
		}
		for _, common := range []string{"cluster", "node_id", "node_type"} {
			if !labels[common] {
				t.Errorf("%s has no label %s", name, common)
			}
			delete(labels, common)
		}
		fmt.Fprintf(&list, "%s %s %s\n", name, strings.ToLower(f.GetType().String()), strings.Join(slices.Sorted(maps.Keys(labels)), ","))
	}
	golden(t, "metrics.txt", []byte(list.String()))
	if documented := documentedMetrics(t); documented != list.String() {
		t.Errorf("docs/metrics.md has\n%s\nwant\n%s", documented, list.String())
	}
}

// documentedMetrics are the rows of the tables in docs/metrics.md.
func documentedMetrics(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(r[a-z_]+)` \\| (\\w+) \\|([^|]*)\\|").FindAllStringSubmatch(string(text), -1) {
		labels := strings.NewReplacer("`", "", " ", "").Replace(row[3])
		lines = append(lines, row[1]+" "+row[2]+" "+labels+"\n")
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

func TestMetrics_OnlyBrokersHaveSome(t *testing.T) {
	s := startServer(t, "nameserver")
	if code, body := get(t, "http://"+s.HTTP+"/metrics"); code != 404 {
		t.Errorf("got %d: %s", code, body)
	}
}

// A group that pops has in flight what it was handed and has not acknowledged.
func TestMetrics_Pop(t *testing.T) {
	m := startMeasured(t)
	result0(t, "topic create orders --queues 1 -n "+m.Listen)
	for range 5 {
		m.send(&message.Message{Body: []byte("fine")})
	}
	s, err := consumer.NewSimple(t.Context(), consumer.SimpleConfig{
		NameServers: []string{m.Listen}, Group: "any", Subscriptions: []consumer.Subscription{{Topic: "orders"}}, From: consumer.Earliest(),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	var popped []*consumer.Popped
	for len(popped) < 3 {
		ps, err := s.Receive(t.Context(), 3-len(popped), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		popped = append(popped, ps...)
	}
	m.shows(map[string]float64{
		"rocketmq_consumer_lag_messages{consumer_group=any":                 5,
		"rocketmq_consumer_inflight_messages{consumer_group=any":            3,
		"rocketmq_consumer_ready_messages{consumer_group=any":               2,
		"rocketmq_messages_out_total{consumer_group=any":                    3,
		"rocketmq_consumer_connections{consume_mode=pop consumer_group=any": 1,
	})
	if err := s.Ack(t.Context(), popped[:2]...); err != nil {
		t.Fatal(err)
	}
	m.shows(map[string]float64{
		"rocketmq_consumer_lag_messages{consumer_group=any":      3,
		"rocketmq_consumer_inflight_messages{consumer_group=any": 1,
		"rocketmq_consumer_ready_messages{consumer_group=any":    2,
	})
	if age, _ := value(m.scrape(), "rocketmq_consumer_queueing_latency_milliseconds", "consumer_group=any"); age <= 0 {
		t.Errorf("the oldest message that is ready is %v ms old", age)
	}
	if err := errors.Join(s.Ack(t.Context(), popped[2]), s.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	p, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: []string{m.Listen}, Group: "any", Subscriptions: []consumer.Subscription{{Topic: "orders"}},
		From: consumer.Earliest(), ManualCommit: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	m.shows(map[string]float64{ // of queues, now
		"rocketmq_consumer_lag_messages{consumer_group=any":      2,
		"rocketmq_consumer_inflight_messages{consumer_group=any": 2,
		"rocketmq_consumer_ready_messages{consumer_group=any":    0,
	})
}

// What waits for its retry is neither ready nor in flight.
func TestMetrics_WaitingForTheRetry(t *testing.T) {
	m := startMeasured(t)
	m.send(&message.Message{Body: []byte("bad")})
	stop := m.push("slow", func(context.Context, *consumer.Delivery) error {
		return consumer.RetryAfter(time.Hour, errors.New("later"))
	})
	defer stop()
	m.shows(map[string]float64{
		"rocketmq_consumer_lag_messages{consumer_group=slow is_retry=true":      1,
		"rocketmq_consumer_inflight_messages{consumer_group=slow is_retry=true": 0,
		"rocketmq_consumer_ready_messages{consumer_group=slow is_retry=true":    0,
		"rocketmq_consumer_lag_messages{consumer_group=slow is_retry=false":     0,
		"rocketmq_timing_messages{topic=%RETRY%slow":                            1,
	})
}

// Of a group with a filter only what it lets through counts, in flight too.
func TestMetrics_Filtered(t *testing.T) {
	m := startMeasured(t)
	result0(t, "topic create orders --queues 1 -n "+m.Listen)
	for range 10 {
		m.send(&message.Message{Tag: "paid"}, &message.Message{Tag: "open"})
	}
	p, err := consumer.NewPull(t.Context(), consumer.PullConfig{
		NameServers: []string{m.Listen}, Group: "some", Subscriptions: []consumer.Subscription{{Topic: "orders", Tag: "paid"}},
		From: consumer.Earliest(), ManualCommit: true, MaxPrefetch: 8,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	harness.Eventually(t, "some are in flight", func() bool {
		families := m.scrape()
		of := func(name string) float64 { v, _ := value(families, name, "consumer_group=some"); return v }
		out, inflight, ready := of("rocketmq_messages_out_total"), of("rocketmq_consumer_inflight_messages"), of("rocketmq_consumer_ready_messages")
		late := of("rocketmq_consumer_queueing_latency_milliseconds")
		return out > 0 && out < 10 && inflight == out && ready == 10-out && late > 0 && of("rocketmq_consumer_lag_messages") == 10
	})
}

// OpenTelemetry's own limit of series, 2,000, would be too low.
func TestMetrics_ManySeries(t *testing.T) {
	m := startMeasured(t)
	conn, err := transport.Dial(m.Listen, transport.Options{Name: "many"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const n = 2100
	subject := protocol.BrokerSubject("b1", 0, protocol.ClassClient)
	const atOnce = 100 // so that all are there before the first session ends
	answers := make(chan error, n)
	for i := range n {
		req := &protocol.HeartbeatRequest{ClientID: fmt.Sprint("c", i), Inbox: conn.Inbox(), Version: fmt.Sprint("v", i), Language: "go", Producers: []string{"p"}}
		conn.Start(t.Context(), subject, req, func(_ []byte, err error) { answers <- err })
		if i < atOnce {
			continue
		}
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	for range atOnce {
		if err := <-answers; err != nil {
			t.Fatal(err)
		}
	}
	if _, series := value(m.scrape(), "rocketmq_producer_connections", "version=v"); series < n {
		t.Errorf("got %d series, want %d", series, n)
	}
}
