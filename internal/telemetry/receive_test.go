package telemetry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/rmqio/rmq/message"
)

// heard is a consumer's telemetry with providers that keep what they hear.
type heard struct {
	*testing.T
	*Receives
	spans  *tracetest.InMemoryExporter
	reader *sdkmetric.ManualReader
	now    time.Time
}

func newHeard(t *testing.T, change func(*Config)) *heard {
	t.Helper()
	h := &heard{T: t, spans: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader(), now: time.UnixMilli(1_700_000_000_000)}
	cfg := Config{
		Scope: "test", ClientID: "c", Group: "g", Now: func() time.Time { return h.now },
		Address:        func(broker string) string { return map[string]string{"a": "host-a:1", "b": "host-b:2"}[broker] },
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(h.spans)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(h.reader)),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if h.Receives, err = NewReceives(cfg); err != nil {
		t.Fatal(err)
	}
	return h
}

// take returns the spans that ended since the last call.
func (h *heard) take() tracetest.SpanStubs {
	defer h.spans.Reset()
	return h.spans.GetSpans()
}

// points are the numbers of a metric with their attributes.
func (h *heard) points(name string) (points []string) {
	h.Helper()
	var rm metricdata.ResourceMetrics
	if err := h.reader.Collect(h.Context(), &rm); err != nil {
		h.Fatal(err)
	}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					points = append(points, fmt.Sprint(textOf(p.Attributes.ToSlice()), " = ", p.Value))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					points = append(points, fmt.Sprint(textOf(p.Attributes.ToSlice()), " = ", p.Sum, "s in ", p.Count))
				}
			}
		}
	}
	slices.Sort(points)
	return points
}

// textOf is attributes in one line, without the part of names that all have.
func textOf(all []attribute.KeyValue) string {
	var texts []string
	for _, kv := range all {
		texts = append(texts, strings.TrimPrefix(string(kv.Key), "messaging.")+"="+kv.Value.String())
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

// sent is a stored message that carries the context of a producer's span.
func sent(topic, broker string, queue int, span byte) *message.Stored {
	m := &message.Stored{Message: message.Message{Topic: topic, ID: message.MakeID(1, uint64(span)), Body: []byte("hello")}, Queue: message.Queue{Topic: topic, Broker: broker, ID: queue}}
	if span != 0 {
		m.Properties = map[string]string{"traceparent": fmt.Sprintf("00-0af7651916cd43dd8448eb211c80319c-%016x-01", span)}
	}
	return m
}

func linked(span tracetest.SpanStub) (ids []string) {
	for _, l := range span.Links {
		ids = append(ids, strings.TrimLeft(l.SpanContext.SpanID().String(), "0"))
	}
	return ids
}

const ofClient = "client.id=c consumer.group.name=g "

func TestProcess_IsAChildOfTheOneThatSentTheMessage(t *testing.T) {
	h := newHeard(t, nil)
	m := sent("t", "a", 3, 7)
	m.Tag, m.Keys, m.Group, m.CorrelationID = "paid", []string{"k"}, "lane", "r"
	ctx, x := h.Process(t.Context(), m)
	h.now = h.now.Add(2 * time.Second)
	x.End(Failure{})
	spans := h.take()
	if len(spans) != 1 {
		t.Fatalf("got %d spans, want 1", len(spans))
	}
	span := spans[0]
	if span.Name != "process t" || span.SpanKind != trace.SpanKindConsumer || span.EndTime.Sub(span.StartTime) != 2*time.Second {
		t.Errorf("got %q of kind %v for %v", span.Name, span.SpanKind, span.EndTime.Sub(span.StartTime))
	}
	if span.Parent.SpanID() != (trace.SpanID{7: 7}) || !span.Parent.IsRemote() || !slices.Equal(linked(span), []string{"7"}) || len(span.Links[0].Attributes) != 0 {
		t.Errorf("got parent %v and links %v, want the producer's span as both", span.Parent.SpanID(), span.Links)
	}
	if trace.SpanContextFromContext(ctx).SpanID() != span.SpanContext.SpanID() {
		t.Error("the handler's context has another span")
	}
	want := ofClient + "destination.name=t destination.partition.id=3 message.body.size=5 message.conversation_id=r message.id=" + m.ID.String() +
		" operation.name=process operation.type=process rocketmq.message.group=lane rocketmq.message.keys=[\"k\"] rocketmq.message.tag=paid" +
		" rocketmq.message.type=fifo rocketmq.namespace= server.address=host-a server.port=1 system=rocketmq"
	if got := textOf(span.Attributes); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestProcess_IsAChildOfTheSpanThatThereIs(t *testing.T) {
	h := newHeard(t, nil)
	ctx, sc := ambient(t)
	_, x := h.Process(ctx, sent("t", "a", 3, 7))
	x.End(Failure{})
	span := h.take()[0]
	if span.Parent.SpanID() != sc.SpanID() || !slices.Equal(linked(span), []string{"7"}) {
		t.Errorf("got parent %v and links %v", span.Parent.SpanID(), linked(span))
	}
}

// A trace of several messages would be that of one of them.
func TestProcess_OfSeveralIsLinkedAlone(t *testing.T) {
	h := newHeard(t, nil)
	_, x := h.Process(t.Context(), sent("t", "a", 1, 7), sent("t", "b", 1, 0), sent("t", "b", 2, 8))
	x.End(Failure{})
	span := h.take()[0]
	if span.Parent.IsValid() || !slices.Equal(linked(span), []string{"7", "8"}) {
		t.Errorf("got parent %v and links %v", span.Parent.SpanID(), linked(span))
	}
	if got, want := textOf(span.Links[1].Attributes), "message.id="+message.MakeID(1, 8).String(); got != want {
		t.Errorf("got link %q, want %q", got, want)
	}
	want := "batch.message_count=3 " + ofClient + "destination.name=t operation.name=process operation.type=process rocketmq.namespace= system=rocketmq"
	if got := textOf(span.Attributes); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := h.points("messaging.client.consumed.messages"); len(got) != 1 || !strings.HasSuffix(got[0], " = 3") {
		t.Errorf("got %v, want 3 messages", got)
	}
}

func TestProcess_OfAMessageWithoutContextIsARoot(t *testing.T) {
	h := newHeard(t, nil)
	for _, m := range []*message.Stored{sent("t", "a", 1, 0), {Message: message.Message{Topic: "t", Properties: map[string]string{"traceparent": "nonsense"}}}} {
		_, x := h.Process(t.Context(), m)
		x.End(Failure{})
		if span := h.take()[0]; span.Parent.IsValid() || len(span.Links) != 0 {
			t.Errorf("got parent %v and links %v", span.Parent.SpanID(), span.Links)
		}
	}
}

func TestProcess_IsMeasured(t *testing.T) {
	h := newHeard(t, nil)
	for _, f := range []Failure{{}, {}, {Name: "timeout", Err: errors.New("late")}} {
		_, x := h.Process(t.Context(), sent("t", "a", 1, 7))
		h.now = h.now.Add(time.Second)
		x.End(f)
	}
	common := "consumer.group.name=g destination.name=t "
	ended := "operation.name=process operation.type=process server.address=host-a server.port=1 system=rocketmq = "
	for name, want := range map[string][]string{
		"messaging.process.duration":          {common + ended + "2s in 2", common + "error.type=timeout " + ended + "1s in 1"},
		"messaging.client.consumed.messages":  {common + ended + "2", common + "error.type=timeout " + ended + "1"},
		"messaging.client.operation.duration": nil,
	} {
		slices.Sort(want)
		if got := h.points(name); !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	spans := h.take()
	if last := spans[2]; last.Status.Description != "late" || !slices.Contains(last.Attributes, attribute.String("error.type", "timeout")) {
		t.Errorf("got status %v of %v", last.Status, last.Attributes)
	}
	if spans[0].Status.Description != "" {
		t.Errorf("got status %v without a failure", spans[0].Status)
	}
}

func TestSettle_IsMeasuredAndLinked(t *testing.T) {
	h := newHeard(t, nil)
	ctx, sc := ambient(t)
	ctx, x := h.Settle(ctx, "nack", sent("t", "a", 1, 7))
	h.now = h.now.Add(time.Second)
	x.End(Failure{Name: "SYSTEM_BUSY", Err: errors.New("busy")})
	spans := h.take()
	if len(spans) != 1 {
		t.Fatalf("got %d spans, want 1", len(spans))
	}
	span := spans[0]
	if span.Name != "nack t" || span.SpanKind != trace.SpanKindClient || span.Parent.SpanID() != sc.SpanID() || !slices.Equal(linked(span), []string{"7"}) {
		t.Errorf("got %q of kind %v, parent %v, links %v", span.Name, span.SpanKind, span.Parent.SpanID(), linked(span))
	}
	if trace.SpanContextFromContext(ctx).SpanID() != span.SpanContext.SpanID() {
		t.Error("the request's context has another span")
	}
	if !slices.Contains(span.Attributes, attribute.String("messaging.operation.type", "settle")) {
		t.Errorf("got %v", span.Attributes)
	}
	want := "consumer.group.name=g destination.name=t error.type=SYSTEM_BUSY operation.name=nack operation.type=settle server.address=host-a server.port=1 system=rocketmq = 1s in 1"
	if got := h.points("messaging.client.operation.duration"); !slices.Equal(got, []string{want}) {
		t.Errorf("got %v, want %s", got, want)
	}
	if got := h.points("messaging.client.consumed.messages"); got != nil {
		t.Errorf("got %v: settling consumes nothing", got)
	}
	_, x = h.Settle(t.Context(), "commit")
	x.End(Failure{})
	want = ofClient + "operation.name=commit operation.type=settle rocketmq.namespace= system=rocketmq"
	if span := h.take()[0]; span.Name != "commit" || textOf(span.Attributes) != want {
		t.Errorf("got %q, %s; want %s", span.Name, textOf(span.Attributes), want)
	}
}

func TestReceive_EndsWithWhatItWasGiven(t *testing.T) {
	h := newHeard(t, nil)
	a, b, c := sent("t", "a", 1, 7), sent("t", "a", 2, 8), sent("u", "b", 1, 0)
	count, ended := "batch.message_count=", "operation.name=receive operation.type=receive rocketmq.namespace= "
	for _, tc := range []struct {
		name  string
		f     Failure
		ms    []*message.Stored
		links []string
		want  string
	}{
		{"receive", Failure{}, []*message.Stored{a, b, c}, []string{"7", "8"}, count + "3 " + ofClient + ended + "system=rocketmq"},
		{"receive t", Failure{}, []*message.Stored{a, b}, []string{"7", "8"}, count + "2 " + ofClient + "destination.name=t " + ended + "server.address=host-a server.port=1 system=rocketmq"},
		{"receive", Failure{Name: "STORAGE_CORRUPT", Err: errors.New("bits")}, nil, nil, count + "0 " + ofClient + "error.type=STORAGE_CORRUPT " + ended + "system=rocketmq"},
		{"receive u", Failure{}, []*message.Stored{c}, nil, ofClient + "destination.name=u destination.partition.id=1 message.body.size=5 message.id=" + c.ID.String() +
			" operation.name=receive operation.type=receive rocketmq.message.type=normal rocketmq.namespace= server.address=host-b server.port=2 system=rocketmq"},
	} {
		x := h.Receive(t.Context())
		h.now = h.now.Add(time.Second)
		x.EndReceive(tc.f, tc.ms...)
		spans := h.take()
		if len(spans) != 1 {
			t.Fatalf("%s: got %d spans, want 1", tc.want, len(spans))
		}
		span := spans[0]
		if span.Name != tc.name || span.SpanKind != trace.SpanKindClient || span.EndTime.Sub(span.StartTime) != time.Second || span.Parent.IsValid() {
			t.Errorf("got %q of kind %v for %v, parent %v", span.Name, span.SpanKind, span.EndTime.Sub(span.StartTime), span.Parent)
		}
		if got := textOf(span.Attributes); got != tc.want || !slices.Equal(linked(span), tc.links) {
			t.Errorf("got links %v and\n%s\nwant %v and\n%s", linked(span), got, tc.links, tc.want)
		}
	}
	base := "consumer.group.name=g destination.name=%s operation.name=receive operation.type=receive server.address=%s system=rocketmq = %s"
	want := []string{fmt.Sprintf(base, "t", "host-a server.port=1", "4"), fmt.Sprintf(base, "u", "host-b server.port=2", "2")}
	if got := h.points("messaging.client.consumed.messages"); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if got := h.points("messaging.client.operation.duration"); len(got) != 4 || !strings.Contains(strings.Join(got, "\n"), "error.type=STORAGE_CORRUPT") {
		t.Errorf("got\n%s\nwant one of each call", strings.Join(got, "\n"))
	}
}

// Whoever wants metrics alone gets no spans, and the handler the context as it was.
func TestReceives_WithoutTracer(t *testing.T) {
	h := newHeard(t, func(c *Config) { c.TracerProvider = tracenoop.NewTracerProvider() })
	ctx := t.Context()
	got, x := h.Process(ctx, sent("t", "a", 1, 7))
	x.End(Failure{Name: "panic", Err: errors.New("x")})
	settling, y := h.Settle(ctx, "nack", sent("t", "a", 1, 7))
	y.End(Failure{})
	h.Receive(ctx).EndReceive(Failure{}, sent("t", "a", 1, 7))
	if got != ctx || settling != ctx {
		t.Error("the context has changed")
	}
	if n := len(h.points("messaging.client.consumed.messages")); n != 2 {
		t.Errorf("got %d series of messages, want 2", n)
	}
}

func TestReceives_AreIdleWithoutProviders(t *testing.T) {
	h := newHeard(t, func(c *Config) {
		c.TracerProvider, c.MeterProvider = tracenoop.NewTracerProvider(), metricnoop.NewMeterProvider()
	})
	for name, r := range map[string]*Receives{"noop": h.Receives, "nil": nil} {
		ctx, m := context.WithValue(t.Context(), t, name), sent("t", "a", 1, 7)
		if !r.Idle(ctx) {
			t.Errorf("%s: not idle", name)
		}
		if n := testing.AllocsPerRun(100, func() {
			got, x := r.Process(ctx, m)
			x.End(Failure{})
			_, y := r.Settle(ctx, "nack", m)
			y.End(Failure{})
			r.Receive(ctx).EndReceive(Failure{}, m)
			if got != ctx || x != nil || y != nil {
				t.Error("something happened")
			}
		}); n != 0 {
			t.Errorf("%s: got %v allocations, want none", name, n)
		}
	}
}
