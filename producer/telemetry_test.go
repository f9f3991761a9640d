package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// observed is a producer with providers that keep what they hear.
type observed struct {
	*testing.T
	*Producer
	broker *standIn
	spans  *tracetest.InMemoryExporter
	tracer trace.Tracer
	reader *sdkmetric.ManualReader
}

func newObserved(t *testing.T, change func(*Config)) *observed {
	t.Helper()
	s := startSite(t)
	o := &observed{T: t, broker: s.broker("a", 1), spans: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(o.spans))
	o.tracer = tp.Tracer("test")
	o.Producer = newProducer(t, s, func(c *Config) {
		c.ClientID, c.TracerProvider, c.MeterProvider = "client-1", tp, sdkmetric.NewMeterProvider(sdkmetric.WithReader(o.reader))
		if change != nil {
			change(c)
		}
	})
	return o
}

// take returns the spans that ended since the last call.
func (o *observed) take() tracetest.SpanStubs {
	o.Helper()
	if err := o.Flush(o.Context()); err != nil {
		o.Fatal(err)
	}
	defer o.spans.Reset()
	return o.spans.GetSpans()
}

func attributes(all []attribute.KeyValue) map[string]string {
	got := map[string]string{}
	for _, kv := range all {
		got[string(kv.Key)] = kv.Value.String()
	}
	return got
}

// has checks a span; an expected value of "*" is any.
func (o *observed) has(span tracetest.SpanStub, name string, kind trace.SpanKind, want map[string]string) {
	o.Helper()
	got := attributes(span.Attributes)
	if span.Name != name || span.SpanKind != kind {
		o.Errorf("got span %q of kind %v, want %q of kind %v", span.Name, span.SpanKind, name, kind)
	}
	for key, value := range want {
		if v, ok := got[key]; !ok || value != "*" && v != value {
			o.Errorf("span %q: got %s=%q, %v; want %q", name, key, v, ok, value)
		}
	}
	for key := range got {
		if _, ok := want[key]; !ok {
			o.Errorf("span %q: got %s=%q, which is not expected", name, key, got[key])
		}
	}
}

func (o *observed) server() (address, port string) {
	address, port, _ = strings.Cut(o.broker.site.server.Addr(), ":")
	return address, port
}

func parentOf(m message.Stored) string { return m.Properties["traceparent"] }

// carried is the property that carries a span's context.
func carried(span tracetest.SpanStub) string {
	return fmt.Sprintf("00-%s-%s-01", span.SpanContext.TraceID(), span.SpanContext.SpanID())
}

func TestTrace_Send(t *testing.T) {
	o := newObserved(t, nil)
	host, port := o.server()
	rich := &message.Message{
		Topic: "t", Tag: "paid", Keys: []string{"k1", "k2"}, Group: "g", Body: []byte("hello"),
		Properties: map[string]string{"mine": "x"},
	}
	for i, mode := range []func(ctx context.Context) error{
		func(ctx context.Context) error { _, err := o.Send(ctx, rich); return err },
		func(ctx context.Context) error {
			errs := make(chan error, 1)
			o.SendAsync(ctx, rich, func(_ Receipt, err error) { errs <- err })
			return <-errs
		},
		func(ctx context.Context) error { return o.SendOneway(ctx, rich) },
	} {
		ctx, ambient := o.tracer.Start(t.Context(), "ambient")
		if err := mode(ctx); err != nil {
			t.Fatal(err)
		}
		spans := o.take()
		ambient.End()
		o.spans.Reset()
		if len(spans) != 1 {
			t.Fatalf("mode %d: got %d spans, want 1", i, len(spans))
		}
		stored := o.broker.in(0)[i]
		o.has(spans[0], "send t", trace.SpanKindProducer, map[string]string{
			"messaging.system": "rocketmq", "messaging.operation.name": "send", "messaging.operation.type": "send",
			"messaging.destination.name": "t", "messaging.destination.partition.id": "0",
			"messaging.message.id": stored.ID.String(), "messaging.message.body.size": "5", "messaging.client.id": "client-1",
			"messaging.rocketmq.namespace": "", "messaging.rocketmq.message.type": "fifo", "messaging.rocketmq.message.tag": "paid",
			"messaging.rocketmq.message.keys": `["k1","k2"]`, "messaging.rocketmq.message.group": "g",
			"server.address": host, "server.port": port,
		})
		if spans[0].Parent.SpanID() != ambient.SpanContext().SpanID() || len(spans[0].Links) != 0 {
			t.Errorf("mode %d: the span is not the child of the sender's", i)
		}
		if parentOf(stored) != carried(spans[0]) || stored.Properties["mine"] != "x" {
			t.Errorf("mode %d: got %v, want the span's context", i, stored.Properties)
		}
	}
	if len(rich.Properties) != 1 || !rich.ID.IsZero() {
		t.Errorf("the caller's message was changed: %+v", rich)
	}
}

func TestTrace_BodySizeIsThatBeforeCompression(t *testing.T) {
	o := newObserved(t, nil)
	if _, err := o.Send(t.Context(), &message.Message{Topic: "t", Body: prose(9000)}); err != nil {
		t.Fatal(err)
	}
	if got := attributes(o.take()[0].Attributes)["messaging.message.body.size"]; got != "9000" || o.broker.in(0)[0].Compression == message.None {
		t.Errorf("got a size of %s, want 9000", got)
	}
}

func TestTrace_UsersOwnContextStays(t *testing.T) {
	const own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	o := newObserved(t, nil)
	for _, tc := range []struct {
		traceparent string
		links       int
	}{{own, 1}, {"nonsense", 0}, {"", 0}, {"00-00000000000000000000000000000000-b7ad6b7169203331-01", 0}} {
		m := msg("x")
		m.Properties = map[string]string{"traceparent": tc.traceparent, "tracestate": "a=b"}
		for _, send := range []func() error{
			func() error { _, err := o.Send(t.Context(), m); return err },
			func() error { _, err := o.SendBatch(t.Context(), []*message.Message{m}); return err },
		} {
			before := len(o.broker.in(0))
			if err := send(); err != nil {
				t.Fatal(err)
			}
			spans := o.take()
			if len(spans) != 1 || spans[0].SpanKind != trace.SpanKindClient || len(spans[0].Links) != tc.links {
				t.Fatalf("%q: got %d spans, the first %v with %d links; want one of kind client with %d", tc.traceparent, len(spans), spans[0].SpanKind, len(spans[0].Links), tc.links)
			}
			if tc.links > 0 && spans[0].Links[0].SpanContext.SpanID().String() != "b7ad6b7169203331" {
				t.Errorf("got a link to %v", spans[0].Links[0].SpanContext)
			}
			got := o.broker.in(0)[before].Properties
			if len(got) != 2 || got["traceparent"] != tc.traceparent || got["tracestate"] != "a=b" {
				t.Errorf("%q became %v", tc.traceparent, got)
			}
		}
	}
}

func TestTrace_Batch(t *testing.T) {
	o := newObserved(t, nil)
	host, port := o.server()
	rs, err := o.SendBatch(t.Context(), []*message.Message{msg("one"), msg("three")})
	if err != nil {
		t.Fatal(err)
	}
	spans := o.take()
	if len(spans) != 3 {
		t.Fatalf("got %d spans, want 3", len(spans))
	}
	for i, m := range o.broker.in(0) {
		o.has(spans[i], "create t", trace.SpanKindProducer, map[string]string{
			"messaging.system": "rocketmq", "messaging.operation.name": "create", "messaging.operation.type": "create",
			"messaging.destination.name": "t", "messaging.message.id": rs[i].MessageID.String(), "messaging.client.id": "client-1",
			"messaging.message.body.size": fmt.Sprint(len(m.Body)), "messaging.rocketmq.namespace": "", "messaging.rocketmq.message.type": "normal",
		})
		if parentOf(m) != carried(spans[i]) {
			t.Errorf("message %d carries %s, want %s", i, parentOf(m), carried(spans[i]))
		}
		link := spans[2].Links[i]
		if link.SpanContext.SpanID() != spans[i].SpanContext.SpanID() || attributes(link.Attributes)["messaging.message.id"] != rs[i].MessageID.String() {
			t.Errorf("got link %d to %v with %v", i, link.SpanContext, link.Attributes)
		}
	}
	o.has(spans[2], "send t", trace.SpanKindClient, map[string]string{
		"messaging.system": "rocketmq", "messaging.operation.name": "send", "messaging.operation.type": "send",
		"messaging.destination.name": "t", "messaging.batch.message_count": "2", "messaging.client.id": "client-1",
		"messaging.rocketmq.namespace": "", "server.address": host, "server.port": port,
	})
}

func TestTrace_Failure(t *testing.T) {
	o := newObserved(t, nil)
	o.broker.setScript(firstN(1<<30, protocol.Errorf(protocol.InvalidArgument, "scripted")))
	for _, send := range []func() error{
		func() error { _, err := o.Send(t.Context(), msg("x")); return err },
		func() error { return o.SendOneway(t.Context(), &message.Message{Topic: "t", Keys: []string{"a b"}}) },
	} {
		err := send()
		if err == nil {
			t.Fatal("the broker has taken what it refuses")
		}
		span := o.take()[0]
		if got := attributes(span.Attributes)["error.type"]; got != protocol.CodeOf(err).String() || span.Status.Description != err.Error() {
			t.Errorf("got error.type %q and status %v, want those of %v", got, span.Status, err)
		}
	}
}

func TestTrace_ARefusalIsNoSend(t *testing.T) {
	o := newObserved(t, func(c *Config) { c.Interceptors = []Interceptor{refusing(errors.New("no"))} })
	if _, err := o.Send(t.Context(), msg("x")); !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
	if spans := o.take(); len(spans) != 0 {
		t.Errorf("got %d spans, want none", len(spans))
	}
}

func TestTrace_ShowsWhatInterceptorsMade(t *testing.T) {
	o := newObserved(t, func(c *Config) { c.Interceptors = []Interceptor{(&trail{}).marking("AB")} })
	if _, err := o.Send(t.Context(), msg("x")); err != nil {
		t.Fatal(err)
	}
	if got := attributes(o.take()[0].Attributes)["messaging.message.body.size"]; got != "3" {
		t.Errorf("got a body of %s bytes, want 3", got)
	}
}

// points lists the attributes of a metric with its values.
func (o *observed) points(name string) []string {
	o.Helper()
	var rm metricdata.ResourceMetrics
	if err := o.reader.Collect(o.Context(), &rm); err != nil {
		o.Fatal(err)
	}
	var all []string
	line := func(set attribute.Set, value any) {
		keys := attributes(set.ToSlice())
		var parts []string
		for k, v := range keys {
			parts = append(parts, k+"="+v)
		}
		slices.Sort(parts)
		all = append(all, fmt.Sprint(strings.Join(parts, " "), " ", value))
	}
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					line(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					if p.Bounds[0] != 0.0005 || p.Bounds[len(p.Bounds)-1] != 10 || p.Sum <= 0 || m.Unit != "s" {
						o.Errorf("%s: got bounds %v, sum %v %s", name, p.Bounds, p.Sum, m.Unit)
					}
					line(p.Attributes, p.Count)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

func TestMetrics(t *testing.T) {
	o := newObserved(t, func(c *Config) { c.Retries, c.TracerProvider = -1, nil })
	for range 3 {
		if _, err := o.Send(t.Context(), msg("x")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := o.SendBatch(t.Context(), []*message.Message{msg("x"), msg("y")}); err != nil {
		t.Fatal(err)
	}
	o.broker.setScript(firstN(1, protocol.Errorf(protocol.SystemError, "scripted")))
	o.SendAsync(t.Context(), msg("x"), nil)
	if err := o.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	host, port := o.server()
	common := "messaging.destination.name=t messaging.operation.name=send messaging.operation.type=send messaging.system=rocketmq server.address=" + host + " server.port=" + port + " "
	for name, want := range map[string][]string{
		"messaging.client.sent.messages":      {"error.type=SYSTEM_ERROR " + common + "1", common + "5"},
		"messaging.client.operation.duration": {"error.type=SYSTEM_ERROR " + common + "1", common + "4"},
	} {
		if got := o.points(name); !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// Without a provider a send allocates what it would without telemetry: accept,
// which looks for somebody to tell, against take, which does not.
func TestTelemetry_CostsNothingWithoutAProvider(t *testing.T) {
	s := startSite(t)
	s.broker("a", 1)
	p := newProducer(t, s, nil)
	if err := p.Close(t.Context()); err != nil { // so that each send is refused in the same way
		t.Fatal(err)
	}
	ctx, m := context.WithValue(t.Context(), key{}, 1), msg("x")
	done := func(Receipt, error) {}
	took := testing.AllocsPerRun(1000, func() { p.take(ctx, entry{m: m, done: done}, nil, nil) })
	for name, send := range map[string]func(){
		"accept": func() { p.accept(ctx, entry{m: m, done: done}, nil, nil) },
		"async":  func() { p.SendAsync(ctx, m, done) },
		"oneway": func() { p.SendOneway(ctx, m) },
	} {
		if got := testing.AllocsPerRun(1000, send); got != took {
			t.Errorf("%s: got %v allocations, want %v", name, got, took)
		}
	}
	if !p.telemetry.Idle(ctx) {
		t.Error("telemetry is not idle without a provider")
	}
	if n := testing.AllocsPerRun(1000, func() { p.telemetry.Idle(ctx); p.traced(nil, Receipt{}, nil) }); n != 0 {
		t.Errorf("to look for a provider takes %v allocations", n)
	}
}

type key struct{}
