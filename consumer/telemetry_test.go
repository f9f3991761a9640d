package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// watched is a cluster with a producer, and providers that hear of both ends.
type watched struct {
	*testing.T
	cluster  *harness.Cluster
	producer *producer.Producer
	provider *sdktrace.TracerProvider
	spans    *tracetest.InMemoryExporter
	reader   *sdkmetric.ManualReader
	meters   *sdkmetric.MeterProvider
}

func startWatched(t *testing.T) *watched {
	t.Helper()
	w := &watched{T: t, cluster: harness.Start(t), spans: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	w.provider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(w.spans))
	w.meters = sdkmetric.NewMeterProvider(sdkmetric.WithReader(w.reader))
	var err error
	w.producer, err = producer.New(t.Context(), producer.Config{NameServers: w.cluster.NameServers, Group: "makers", TracerProvider: w.provider})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.producer.Close(context.WithoutCancel(t.Context())) })
	return w
}

func (w *watched) send(bodies ...string) {
	w.Helper()
	for _, b := range bodies {
		if _, err := w.producer.Send(w.Context(), &message.Message{Topic: "t", Body: []byte(b)}); err != nil {
			w.Fatal(err)
		}
	}
}

// named waits for so many spans of a name, and returns them in the order of their ends.
func (w *watched) named(name string, n int) (found []tracetest.SpanStub) {
	w.Helper()
	eventually(w.T, fmt.Sprintf("%d spans %q", n, name), func() bool {
		found = slices.DeleteFunc(w.spans.GetSpans(), func(s tracetest.SpanStub) bool { return s.Name != name })
		return len(found) >= n
	})
	if len(found) != n {
		w.Fatalf("got %d spans %q, want %d", len(found), name, n)
	}
	return found
}

// counts are the points of a metric, by operation and failure.
func (w *watched) counts(name string) map[string]int64 {
	w.Helper()
	var rm metricdata.ResourceMetrics
	if err := w.reader.Collect(w.Context(), &rm); err != nil {
		w.Fatal(err)
	}
	counts := map[string]int64{}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					operation, _ := p.Attributes.Value("messaging.operation.name")
					failure, _ := p.Attributes.Value("error.type")
					counts[strings.TrimSpace(operation.AsString()+" "+failure.AsString())] += p.Value
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					operation, _ := p.Attributes.Value("messaging.operation.name")
					failure, _ := p.Attributes.Value("error.type")
					counts[strings.TrimSpace(operation.AsString()+" "+failure.AsString())] += int64(p.Count)
				}
			}
		}
	}
	return counts
}

func (w *watched) check(name string, want map[string]int64) {
	w.Helper()
	eventually(w.T, fmt.Sprintf("%s %v", name, want), func() bool { return fmt.Sprint(w.counts(name)) == fmt.Sprint(want) })
}

func (w *watched) config() Config {
	return Config{
		NameServers: w.cluster.NameServers, Group: "g", Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest(),
		TracerProvider: w.provider, MeterProvider: w.meters,
	}
}

func attributeOf(s tracetest.SpanStub, key string) string {
	for _, kv := range s.Attributes {
		if string(kv.Key) == key {
			return kv.Value.String()
		}
	}
	return ""
}

// links reports whether the span is linked to the other alone.
func links(s, other tracetest.SpanStub) bool {
	return len(s.Links) == 1 && s.Links[0].SpanContext.SpanID() == other.SpanContext.SpanID()
}

// One message that fails, is given back, and becomes a dead letter: both deliveries
// belong to the trace of the producer, and what the broker is told to the delivery.
func TestTelemetry_OfAPush(t *testing.T) {
	w := startWatched(t)
	w.send("x")
	inside := make(chan trace.SpanContext, 2)
	_, stop := run(t, w.config(), func(ctx context.Context, d *Delivery) error {
		inside <- trace.SpanContextFromContext(ctx)
		if d.Attempt == 1 {
			return RetryAfter(0, errors.New("not yet"))
		}
		return fmt.Errorf("never: %w", ErrReject)
	})
	processed, nack, reject := w.named("process t", 2), w.named("nack t", 1)[0], w.named("reject t", 1)[0]
	stop()
	send := w.named("send t", 1)[0]
	for i, span := range processed {
		if span.Parent.SpanID() != send.SpanContext.SpanID() || !links(span, send) || span.SpanKind != trace.SpanKindConsumer {
			t.Errorf("delivery %d: got kind %v, parent %v, links %v", i, span.SpanKind, span.Parent.SpanID(), span.Links)
		}
		if got := <-inside; got.SpanID() != span.SpanContext.SpanID() {
			t.Errorf("delivery %d: the handler had the span %v", i, got.SpanID())
		}
		if span.Status.Code != codes.Error || attributeOf(span, "messaging.consumer.group.name") != "g" || attributeOf(span, "server.port") == "" {
			t.Errorf("delivery %d: got status %v, attributes %v", i, span.Status, span.Attributes)
		}
	}
	if a, b := attributeOf(processed[0], "error.type"), attributeOf(processed[1], "error.type"); a != "_OTHER" || b != "reject" {
		t.Errorf("got failures %q and %q", a, b)
	}
	for i, span := range []tracetest.SpanStub{nack, reject} {
		if span.Parent.SpanID() != processed[i].SpanContext.SpanID() || !links(span, send) || span.SpanKind != trace.SpanKindClient || span.Status.Code != codes.Unset {
			t.Errorf("%s: got kind %v, parent %v, links %v, status %v", span.Name, span.SpanKind, span.Parent.SpanID(), span.Links, span.Status)
		}
	}
	w.check("messaging.client.consumed.messages", map[string]int64{"process _OTHER": 1, "process reject": 1})
	w.check("messaging.process.duration", map[string]int64{"process _OTHER": 1, "process reject": 1})
	w.check("messaging.client.operation.duration", map[string]int64{"nack": 1, "reject": 1})
}

func TestTelemetry_OfABatch(t *testing.T) {
	w := startWatched(t)
	cfg := w.config()
	cfg.Concurrency = 1
	if _, err := w.producer.SendBatch(t.Context(), []*message.Message{{Topic: "t"}, {Topic: "t"}, {Topic: "t"}}); err != nil {
		t.Fatal(err)
	}
	c, err := NewPushBatch(t.Context(), cfg, func(context.Context, []*Delivery) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }() // received below
	w.check("messaging.client.consumed.messages", map[string]int64{"process": 3})
	cancel()
	if err := receive(t, "end of Run", ran); err != nil {
		t.Fatal(err)
	}
	created, linked := map[trace.SpanID]bool{}, 0
	for _, span := range w.named("create t", 3) {
		created[span.SpanContext.SpanID()] = true
	}
	for _, span := range w.spans.GetSpans() {
		if span.Name != "process t" {
			continue
		}
		if several := len(span.Links) > 1; several && span.Parent.IsValid() {
			t.Errorf("a batch has the parent %v", span.Parent.SpanID())
		}
		for _, l := range span.Links {
			linked++
			delete(created, l.SpanContext.SpanID())
		}
	}
	if linked != 3 || len(created) != 0 {
		t.Errorf("got %d links, none to %v", linked, created)
	}
}

func TestTelemetry_OfAPull(t *testing.T) {
	w := startWatched(t)
	w.send("a", "b", "c")
	p, err := NewPull(t.Context(), PullConfig{
		NameServers: w.cluster.NameServers, Group: "g", Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest(),
		ManualCommit: true, TracerProvider: w.provider, MeterProvider: w.meters,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	ctx, ambient := w.provider.Tracer("test").Start(t.Context(), "ambient")
	for n := 0; n < 3; {
		ds, err := p.Poll(ctx, 10)
		if err != nil {
			t.Fatal(err)
		}
		n += len(ds)
	}
	if err := p.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := p.Poll(ended, 10); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	linked := 0
	for _, span := range w.spans.GetSpans() {
		if !strings.HasPrefix(span.Name, "receive") {
			continue
		}
		linked += len(span.Links)
		if span.Name != "receive t" || span.SpanKind != trace.SpanKindClient || span.Parent.SpanID() != ambient.SpanContext().SpanID() || len(span.Links) == 0 {
			t.Errorf("got %q of kind %v, parent %v, links %v", span.Name, span.SpanKind, span.Parent.SpanID(), span.Links)
		}
	}
	if linked != 3 {
		t.Errorf("got %d links, want one for each message", linked)
	}
	commit := w.named("commit", 1)[0]
	if commit.SpanKind != trace.SpanKindClient || commit.Parent.SpanID() != ambient.SpanContext().SpanID() {
		t.Errorf("got %+v", commit)
	}
	w.check("messaging.client.consumed.messages", map[string]int64{"receive": 3})
	if n := w.counts("messaging.client.operation.duration")["commit"]; n != 1 {
		t.Errorf("got %d commits", n)
	}
}

func TestFailureOf(t *testing.T) {
	for want, err := range map[string]error{
		"":                nil,
		"_OTHER":          errors.New("x"),
		"reject":          fmt.Errorf("x: %w", ErrReject),
		"timeout":         fmt.Errorf("x: %w", context.DeadlineExceeded),
		"panic":           fmt.Errorf("x: %w", &handlerPanic{value: "x"}),
		"SYSTEM_ERROR":    protocol.Errorf(protocol.SystemError, "x"),
		"TOPIC_NOT_FOUND": &Error{Code: protocol.TopicNotFound, Err: protocol.Errorf(protocol.TopicNotFound, "x")},
		"UNKNOWN_OUTCOME": protocol.Errorf(protocol.UnknownOutcome, "x: %v", context.DeadlineExceeded),
	} {
		if f := failureOf(err); f.Name != want || f.Err != err {
			t.Errorf("%v: got %q, want %q", err, f.Name, want)
		}
	}
}

// Without a provider a message is handled with the allocations of its handler alone.
func TestTelemetry_CostsNothingWithoutAProvider(t *testing.T) {
	b := startFake(t, 1)
	cfg, _ := groupConfig(b, t)
	c := newTestPush(t, cfg, ignore)
	cl, err := c.settings.newClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := context.WithValue(t.Context(), b, t)
	e := newEngine(ctx, c.settings, cl, c.ready)
	it := &item{}
	it.Properties = map[string]string{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	took := testing.AllocsPerRun(1000, func() { c.call(ctx, e.open(it)) })
	if got := testing.AllocsPerRun(1000, func() { c.process(ctx, e, it) }); got != took {
		t.Errorf("got %v allocations, want %v", got, took)
	}
	p := &Pull{engine: e}
	done := func() bool { return true }
	took = testing.AllocsPerRun(1000, func() { p.await(ctx, 1, done) })
	if got := testing.AllocsPerRun(1000, func() { p.poll(ctx, 1, done) }); got != took {
		t.Errorf("poll: got %v allocations, want %v", got, took)
	}
	popped, told := &Popped{owner: &Simple{settings: c.settings}}, func(context.Context) error { return nil }
	if got := testing.AllocsPerRun(1000, func() { popped.owner.observe(ctx, ackOperation, []*Popped{popped}, told) }); got != 0 {
		t.Errorf("ack: got %v allocations more, want none", got)
	}
	if !e.telemetry.Idle(ctx) {
		t.Error("telemetry is not idle without a provider")
	}
}

func TestTelemetry_OfASimple(t *testing.T) {
	w := startWatched(t)
	w.send("a", "b", "c")
	s, err := NewSimple(t.Context(), SimpleConfig{
		NameServers: w.cluster.NameServers, Group: "g", Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest(),
		TracerProvider: w.provider, MeterProvider: w.meters,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	ctx, ambient := w.provider.Tracer("test").Start(t.Context(), "ambient")
	var ps []*Popped
	for len(ps) < 3 {
		some, err := s.Receive(ctx, 1, MaxInvisible)
		if err != nil {
			t.Fatal(err)
		}
		ps = append(ps, some...)
	}
	if err := errors.Join(ps[0].Ack(ctx), ps[1].ChangeInvisible(ctx, MaxInvisible), ps[2].Reject(ctx, errors.New("no")), s.Ack(ctx, ps[1])); err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{"receive t": 3, "ack t": 2, "change_invisible t": 1, "reject t": 1} {
		for _, span := range w.named(name, n) {
			if span.SpanKind != trace.SpanKindClient || len(span.Links) != 1 || span.Parent.SpanID() != ambient.SpanContext().SpanID() {
				t.Errorf("got %q of kind %v, parent %v, links %v", span.Name, span.SpanKind, span.Parent.SpanID(), span.Links)
			}
		}
	}
	w.check("messaging.client.consumed.messages", map[string]int64{"receive": 3})
	w.check("messaging.client.operation.duration", map[string]int64{"receive": 3, "ack": 2, "change_invisible": 1, "reject": 1})
}

// With a handler a message is processed, and not received: it is delivered once.
func TestTelemetry_OfASimpleThatRuns(t *testing.T) {
	w := startWatched(t)
	w.send("a")
	s, err := NewSimple(t.Context(), SimpleConfig{
		NameServers: w.cluster.NameServers, Group: "g", Subscriptions: []Subscription{{Topic: "t"}}, From: Earliest(),
		TracerProvider: w.provider, MeterProvider: w.meters,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	ran, inside := make(chan error, 1), make(chan trace.SpanContext, 1)
	go func() { // received below
		ran <- s.Run(ctx, func(ctx context.Context, _ *Delivery) error {
			inside <- trace.SpanContextFromContext(ctx)
			return nil
		})
	}()
	process, ack, send := w.named("process t", 1)[0], w.named("ack t", 1)[0], w.named("send t", 1)[0]
	cancel()
	if err := receive(t, "end of Run", ran); err != nil {
		t.Fatal(err)
	}
	if got := <-inside; got.SpanID() != process.SpanContext.SpanID() || process.Parent.SpanID() != send.SpanContext.SpanID() || !links(process, send) {
		t.Errorf("got process %+v, and %v inside", process, got.SpanID())
	}
	if ack.Parent.SpanID() != process.SpanContext.SpanID() || !links(ack, send) {
		t.Errorf("got ack %+v", ack)
	}
	w.check("messaging.client.consumed.messages", map[string]int64{"process": 1})
}
