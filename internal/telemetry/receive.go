package telemetry

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
	"go.opentelemetry.io/otel/trace"

	"github.com/rmqio/rmq/message"
)

// Receives observes what one consumer is delivered: receiving, processing and
// settling. It is safe for concurrent use; nil is one that nobody listens to.
type Receives struct {
	scope
	consumed  messagingconv.ClientConsumedMessages
	duration  messagingconv.ClientOperationDuration
	processed messagingconv.ProcessDuration
}

// NewReceives prepares instruments; the error is that of the meter.
func NewReceives(cfg Config) (_ *Receives, err error) {
	r := &Receives{}
	meter, bounds := r.open(cfg), metric.WithExplicitBucketBoundaries(buckets()...)
	if r.consumed, err = messagingconv.NewClientConsumedMessages(meter); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if r.duration, err = messagingconv.NewClientOperationDuration(meter, bounds); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if r.processed, err = messagingconv.NewProcessDuration(meter, bounds); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return r, nil
}

// Idle reports whether the other methods would do nothing.
func (r *Receives) Idle(ctx context.Context) bool {
	return r == nil || !r.tracing() && !r.metering(ctx)
}

func (r *Receives) metering(ctx context.Context) bool {
	return r.consumed.Enabled(ctx) || r.duration.Enabled(ctx) || r.processed.Enabled(ctx)
}

// Failure is why an operation failed.
type Failure struct {
	// Name is one of a few: it is the error.type of spans and series. Empty: nothing
	// failed.
	Name string
	Err  error
}

// Operation is something that is done with messages. Nil means that nobody listens.
type Operation struct {
	receives *Receives
	ctx      context.Context // of the span
	span     trace.Span      // nil: nobody wants spans, or it is made at the end
	series   series          // without a failure
	messages int             // that are delivered by it
	begun    time.Time
}

// Process observes a handler that is given messages, all of one topic and one at
// least. The context is the handler's: its span is a child of the span in ctx if
// there is one, else, for one message, of the span that made it. Every message is
// linked in any case.
func (r *Receives) Process(ctx context.Context, ms ...*message.Stored) (context.Context, *Operation) {
	if r.Idle(ctx) {
		return ctx, nil
	}
	x := r.begin(ctx, processName, ms)
	x.messages = len(ms)
	if !r.tracing() {
		return ctx, x
	}
	links := linksTo(ctx, ms)
	if len(ms) == 1 && len(links) == 1 && !trace.SpanContextFromContext(ctx).IsValid() {
		x.ctx = trace.ContextWithRemoteSpanContext(ctx, links[0].SpanContext)
	}
	x.start(trace.SpanKindConsumer, links, r.describeAll(x.series, ms))
	return x.ctx, x
}

// Settle observes that a broker is told what became of messages, of any topics, or
// without naming any. Operation is the consumer's word for it. The
// context is the request's.
func (r *Receives) Settle(ctx context.Context, operation string, ms ...*message.Stored) (context.Context, *Operation) {
	if r.Idle(ctx) {
		return ctx, nil
	}
	x := r.begin(ctx, operation, ms)
	if !r.tracing() {
		return ctx, x
	}
	x.start(trace.SpanKindClient, linksTo(ctx, ms), r.describeAll(x.series, ms))
	return x.ctx, x
}

// Receive observes a call that waits for messages. What to tell is known when it
// returns, so that it ends with EndReceive.
func (r *Receives) Receive(ctx context.Context) *Operation {
	if r.Idle(ctx) {
		return nil
	}
	return r.begin(ctx, receiveName, nil)
}

// EndReceive tells what a call of Receive has returned: messages, of any topics, or
// a failure.
func (x *Operation) EndReceive(f Failure, ms ...*message.Stored) {
	if x == nil {
		return
	}
	r, now := x.receives, x.receives.cfg.Now()
	x.series = r.common(receiveName, ms)
	if r.tracing() {
		x.start(trace.SpanKindClient, linksTo(x.ctx, ms), r.describeAll(x.series, ms))
		x.finish(f, now)
	}
	x.series.failure = f.Name
	r.duration.RecordSet(x.ctx, now.Sub(x.begun).Seconds(), r.set(x.series))
	numbers := map[series]int64{}
	for _, m := range ms {
		numbers[series{operation: receiveName, topic: m.Topic, server: r.cfg.Address(m.Queue.Broker)}]++
	}
	for of, n := range numbers {
		r.consumed.AddSet(x.ctx, n, r.set(of))
	}
}

// End tells how it ended.
func (x *Operation) End(f Failure) {
	if x == nil {
		return
	}
	r, now := x.receives, x.receives.cfg.Now()
	x.series.failure = f.Name
	took, set := now.Sub(x.begun).Seconds(), r.set(x.series)
	if x.messages > 0 {
		r.processed.RecordSet(x.ctx, took, set)
		r.consumed.AddSet(x.ctx, int64(x.messages), set)
	} else {
		r.duration.RecordSet(x.ctx, took, set)
	}
	if x.span != nil {
		x.finish(f, now)
	}
}

func (r *Receives) begin(ctx context.Context, operation string, ms []*message.Stored) *Operation {
	return &Operation{receives: r, ctx: ctx, series: r.common(operation, ms), begun: r.cfg.Now()}
}

func (x *Operation) start(kind trace.SpanKind, links []trace.Link, all []attribute.KeyValue) {
	x.ctx, x.span = x.receives.tracer.Start(x.ctx, spanName(x.series.operation, x.series.topic), trace.WithSpanKind(kind),
		trace.WithLinks(links...), trace.WithAttributes(all...), trace.WithTimestamp(x.begun))
}

func (x *Operation) finish(f Failure, now time.Time) {
	if f.Name != "" {
		x.span.SetAttributes(outcome("", f.Name)...)
		x.span.SetStatus(codes.Error, f.Err.Error())
	}
	x.span.End(trace.WithTimestamp(now))
}

// common is the topic and the broker that all messages have; empty where they differ.
func (r *Receives) common(operation string, ms []*message.Stored) series {
	s := series{operation: operation}
	if len(ms) == 0 {
		return s
	}
	topic, broker := ms[0].Topic, ms[0].Queue.Broker
	for _, m := range ms {
		if m.Topic != topic {
			topic = ""
		}
		if m.Queue.Broker != broker {
			broker = ""
		}
	}
	s.topic = topic
	if broker != "" {
		s.server = r.cfg.Address(broker)
	}
	return s
}

// describeAll is what a span says of one message, or of several together.
func (r *Receives) describeAll(s series, ms []*message.Stored) []attribute.KeyValue {
	all := outcome(s.server, "")
	if len(ms) == 1 {
		partition := semconv.MessagingDestinationPartitionID(strconv.Itoa(ms[0].Queue.ID))
		return append(append(all, partition), r.describe(&ms[0].Message, s.operation)...)
	}
	if len(ms) > 0 || s.operation == receiveName {
		all = append(all, semconv.MessagingBatchMessageCount(len(ms)))
	}
	return append(all, r.span(s.topic, s.operation)...)
}

// linksTo are the links to what made the messages.
func linksTo(ctx context.Context, ms []*message.Stored) (links []trace.Link) {
	if len(ms) == 1 {
		return linkTo(ctx, &ms[0].Message)
	}
	for _, m := range ms {
		links = append(links, namedLinkTo(ctx, &m.Message)...)
	}
	return links
}
