package telemetry

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
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

func newSends(t *testing.T, cfg Config) *Sends {
	t.Helper()
	ids := message.NewIDSource()
	cfg.Scope, cfg.NextID = "test", ids.Next
	s, err := NewSends(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newTracing(t *testing.T) (*Sends, *tracetest.InMemoryExporter) {
	t.Helper()
	spans := tracetest.NewInMemoryExporter()
	return newSends(t, Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))}), spans
}

// ambient is a context with the span of somebody else.
func ambient(t *testing.T) (context.Context, trace.SpanContext) {
	t.Helper()
	state, err := trace.ParseTraceState("vendor=1")
	if err != nil {
		t.Fatal(err)
	}
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled, TraceState: state})
	return trace.ContextWithSpanContext(t.Context(), sc), sc
}

func TestIdle_UntilSomebodySetsTheGlobalProviders(t *testing.T) {
	s := newSends(t, Config{})
	m := &message.Message{Topic: "t"}
	begin := func() {
		if got, x := s.Begin(t.Context(), m); got != m || x != nil {
			t.Errorf("got %v, %v; want nothing to happen", got, x)
		}
		if got, x := s.BeginBatch(t.Context(), []*message.Message{m}); got[0] != m || x != nil {
			t.Errorf("batch: got %v, %v; want nothing to happen", got, x)
		}
	}
	if begin(); !s.Idle(t.Context()) {
		t.Error("telemetry is not idle")
	}
	ctx, ms := t.Context(), []*message.Message{m}
	if n := testing.AllocsPerRun(100, func() {
		_, x := s.Begin(ctx, m)
		x.End()
		_, x = s.BeginBatch(ctx, ms)
		x.End()
	}); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
	// The tests of this package that want nothing global come with providers.
	spans, reader := tracetest.NewInMemoryExporter(), sdkmetric.NewManualReader()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)))
	otel.SetMeterProvider(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)))
	if s.Idle(t.Context()) {
		t.Fatal("telemetry is idle after the program has set its providers")
	}
	_, x := s.Begin(t.Context(), m)
	x.End(Outcome{})
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	if len(spans.GetSpans()) != 1 || len(rm.ScopeMetrics) != 1 || len(rm.ScopeMetrics[0].Metrics) != 2 {
		t.Errorf("got %d spans and %v, want a span and two metrics", len(spans.GetSpans()), rm.ScopeMetrics)
	}
}

func TestIdle_WithProvidersThatWantNothing(t *testing.T) {
	s := newSends(t, Config{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider()})
	if !s.Idle(t.Context()) {
		t.Error("telemetry is not idle")
	}
}

// A program without a provider passes on the context that it was given.
func TestBegin_PassesTheContextOn(t *testing.T) {
	s := newSends(t, Config{TracerProvider: tracenoop.NewTracerProvider(), MeterProvider: metricnoop.NewMeterProvider()})
	ctx, sc := ambient(t)
	want := map[string]string{"traceparent": "00-" + sc.TraceID().String() + "-" + sc.SpanID().String() + "-01", "tracestate": "vendor=1"}
	m := &message.Message{Topic: "t"}
	got, x := s.Begin(ctx, m)
	batch, y := s.BeginBatch(ctx, []*message.Message{m})
	if !maps.Equal(got.Properties, want) || !maps.Equal(batch[0].Properties, want) || m.Properties != nil || x != nil || y != nil {
		t.Errorf("got %v and %v, want %v", got.Properties, batch[0].Properties, want)
	}
}

func TestBegin_OverwritesNothing(t *testing.T) {
	s, _ := newTracing(t)
	ctx, _ := ambient(t)
	m := &message.Message{Topic: "t", ID: message.MakeID(1, 2), Properties: map[string]string{"tracestate": "mine=1", "a": "b"}}
	got, x := s.Begin(ctx, m)
	if got.Properties["tracestate"] != "mine=1" || got.Properties["a"] != "b" || len(got.Properties["traceparent"]) != 55 || got.ID != m.ID {
		t.Errorf("got %v", got.Properties)
	}
	if len(m.Properties) != 2 {
		t.Errorf("the caller's properties are %v now", m.Properties)
	}
	x.End(Outcome{})
}

// A message with a context of its own, good or bad, gets nothing of another one,
// and nothing is linked that it does not name.
func TestBegin_MixesNoContexts(t *testing.T) {
	s, spans := newTracing(t)
	ctx, _ := ambient(t)
	for _, own := range []string{"", "nonsense", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"} {
		m := &message.Message{Topic: "t", Properties: map[string]string{"traceparent": own}}
		spans.Reset()
		got, x := s.Begin(ctx, m)
		x.End(Outcome{})
		batch, y := s.BeginBatch(ctx, []*message.Message{m})
		y.End(Outcome{})
		if !maps.Equal(got.Properties, m.Properties) || !maps.Equal(batch[0].Properties, m.Properties) {
			t.Errorf("%q: got %v and %v", own, got.Properties, batch[0].Properties)
		}
		for _, span := range spans.GetSpans() {
			if links := len(span.Links); links != 0 && len(own) != 55 || links == 1 && span.Links[0].SpanContext.SpanID().String() != own[36:52] {
				t.Errorf("%q: got links %v", own, span.Links)
			}
		}
	}
}

// The limit of properties holds for what the user has set: a message that has
// no room for its context goes without.
func TestBegin_LeavesOutWhatDoesNotFit(t *testing.T) {
	s, spans := newTracing(t)
	full := &message.Message{Topic: "t", Properties: map[string]string{"a": strings.Repeat("x", message.MaxPropertiesBytes-3)}}
	if err := full.Validate(); err != nil {
		t.Fatal(err)
	}
	got, x := s.Begin(t.Context(), full)
	x.End(Outcome{})
	if len(got.Properties) != 1 || got.Validate() != nil {
		t.Errorf("got %d properties, %v", len(got.Properties), got.Validate())
	}
	batch, y := s.BeginBatch(t.Context(), []*message.Message{full})
	y.End(Outcome{})
	if len(batch[0].Properties) != 1 || len(spans.GetSpans()) != 3 {
		t.Errorf("got %d properties and %d spans, want 1 and 3", len(batch[0].Properties), len(spans.GetSpans()))
	}
}

func TestBegin_DescribesKinds(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	now := time.UnixMilli(1_700_000_000_000)
	s := newSends(t, Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)), Now: func() time.Time { return now },
	})
	for _, tc := range []struct {
		m    message.Message
		want []attribute.KeyValue
	}{
		{message.Message{}, []attribute.KeyValue{attribute.String("messaging.rocketmq.message.type", "normal")}},
		{message.Message{Priority: 3}, []attribute.KeyValue{attribute.String("messaging.rocketmq.message.type", "priority")}},
		{message.Message{DelayLevel: 4}, []attribute.KeyValue{
			attribute.String("messaging.rocketmq.message.type", "delay"), attribute.Int("messaging.rocketmq.message.delay_time_level", 4)}},
		{message.Message{DeliverAt: now.Add(time.Second)}, []attribute.KeyValue{attribute.Int("messaging.rocketmq.message.delivery_timestamp", 1_700_000_001_000)}},
		{message.Message{Delay: 2 * time.Second}, []attribute.KeyValue{attribute.Int("messaging.rocketmq.message.delivery_timestamp", 1_700_000_002_000)}},
		{message.Message{CorrelationID: "c"}, []attribute.KeyValue{attribute.String("messaging.message.conversation_id", "c")}},
	} {
		tc.m.Topic = "t"
		spans.Reset()
		_, x := s.Begin(t.Context(), &tc.m)
		x.End(Outcome{})
		span := spans.GetSpans()[0]
		for _, want := range tc.want {
			if !slices.Contains(span.Attributes, want) {
				t.Errorf("%+v: got %v, want %v among them", tc.m, span.Attributes, want)
			}
		}
		if !span.StartTime.Equal(now) || !span.EndTime.Equal(now) {
			t.Errorf("got a span from %v to %v, want the clock's time", span.StartTime, span.EndTime)
		}
	}
}

func TestEnd_OfABatchSumsUp(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	spans := tracetest.NewInMemoryExporter()
	s := newSends(t, Config{
		TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans)),
		MeterProvider:  sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)),
	})
	m := &message.Message{Topic: "t"}
	_, x := s.BeginBatch(t.Context(), []*message.Message{m, m, m, m})
	fails := errors.New("no")
	x.End(Outcome{Server: "a:1"}, Outcome{Server: "b:2", Failure: "SYSTEM_BUSY", Err: fails}, Outcome{Server: "a:1"}, Outcome{Server: "b:2", Failure: "X", Err: fails})
	all := spans.GetSpans()
	span := all[len(all)-1]
	var failure, server string
	for _, kv := range span.Attributes {
		switch kv.Key {
		case "error.type":
			failure = kv.Value.AsString()
		case "server.address":
			server = kv.Value.AsString()
		}
	}
	if failure != "SYSTEM_BUSY" || server != "" || span.Status.Description != "no" {
		t.Errorf("got error.type %q, server %q, status %v; want those of the first failure and no server", failure, server, span.Status)
	}
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	sent := map[int64]int{}
	for _, metric := range rm.ScopeMetrics[0].Metrics {
		if data, ok := metric.Data.(metricdata.Sum[int64]); ok {
			for _, p := range data.DataPoints {
				sent[p.Value]++
			}
		}
	}
	if sent[2] != 1 || sent[1] != 2 {
		t.Errorf("got points by value %v, want one of 2 messages and two of 1", sent)
	}
}
