package telemetry

import (
	"context"
	"fmt"
	"slices"
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

// Sends observes what one producer sends. It is safe for concurrent use.
type Sends struct {
	scope
	sent     messagingconv.ClientSentMessages
	duration messagingconv.ClientOperationDuration
}

// NewSends prepares instruments; the error is that of the meter.
func NewSends(cfg Config) (_ *Sends, err error) {
	s := &Sends{}
	meter := s.open(cfg)
	if s.sent, err = messagingconv.NewClientSentMessages(meter); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	if s.duration, err = messagingconv.NewClientOperationDuration(meter, metric.WithExplicitBucketBoundaries(buckets()...)); err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	return s, nil
}

func (s *Sends) metering(ctx context.Context) bool {
	return s.sent.Enabled(ctx) || s.duration.Enabled(ctx)
}

// Idle reports whether Begin and BeginBatch would do nothing.
func (s *Sends) Idle(ctx context.Context) bool {
	return !s.tracing() && !s.metering(ctx) && !trace.SpanContextFromContext(ctx).IsValid()
}

// Send is one call that sends, on its way. Nil means that nobody listens.
type Send struct {
	sends *Sends
	ctx   context.Context // of the span
	span  trace.Span      // nil: nobody wants spans
	topic string
	begun time.Time
}

// Outcome is how the sending of one message ended.
type Outcome struct {
	// Queue is where the message went; zero when it went nowhere.
	Queue message.Queue
	// Server is the broker's host:port, empty when it is not known.
	Server string
	// Failure is the name of the error's code, empty for success, and Err the error.
	Failure string
	Err     error
}

// Begin observes the sending of one message. It returns the message to send, which
// is a copy when it carries a trace context or was given an id, and what to End.
func (s *Sends) Begin(ctx context.Context, m *message.Message) (*message.Message, *Send) {
	tracing, x := s.begin(ctx, m.Topic)
	if !tracing {
		return pass(ctx, m), x
	}
	m = s.named(m)
	kind, links := trace.SpanKindProducer, []trace.Link(nil)
	if hasContext(m) {
		kind, links = trace.SpanKindClient, linkTo(ctx, m)
	}
	x.start(kind, links, s.describe(m, sendName))
	return pass(x.ctx, m), x
}

// BeginBatch observes the sending of several messages of one topic by one call: a
// span "create" for each message, whose context it carries, and a span "send" with
// links to them.
func (s *Sends) BeginBatch(ctx context.Context, ms []*message.Message) ([]*message.Message, *Send) {
	if s.Idle(ctx) {
		return ms, nil
	}
	tracing, x := s.begin(ctx, ms[0].Topic)
	sent := make([]*message.Message, len(ms))
	var links []trace.Link
	for i, m := range ms {
		if !tracing {
			sent[i] = pass(ctx, m)
			continue
		}
		sent[i] = s.create(ctx, s.named(m))
		links = append(links, namedLinkTo(ctx, sent[i])...)
	}
	if tracing {
		x.start(trace.SpanKindClient, links, append(s.span(x.topic, sendName), semconv.MessagingBatchMessageCount(len(ms))))
	}
	return sent, x
}

// begin reports whether somebody wants a span; without a Send nobody wants
// metrics either.
func (s *Sends) begin(ctx context.Context, topic string) (tracing bool, x *Send) {
	tracing = s.tracing()
	if !tracing && !s.metering(ctx) {
		return false, nil
	}
	return tracing, &Send{sends: s, ctx: ctx, topic: topic, begun: s.cfg.Now()}
}

func (x *Send) start(kind trace.SpanKind, links []trace.Link, all []attribute.KeyValue) {
	x.ctx, x.span = x.sends.tracer.Start(x.ctx, sendName+" "+x.topic, trace.WithSpanKind(kind),
		trace.WithLinks(links...), trace.WithAttributes(all...), trace.WithTimestamp(x.begun))
}

// create makes the span of a message within a batch, unless the message has a
// context of its own.
func (s *Sends) create(ctx context.Context, m *message.Message) *message.Message {
	if hasContext(m) {
		return m
	}
	now := trace.WithTimestamp(s.cfg.Now())
	ctx, span := s.tracer.Start(ctx, createName+" "+m.Topic, trace.WithSpanKind(trace.SpanKindProducer),
		trace.WithAttributes(s.describe(m, createName)...), now)
	defer span.End(now)
	return pass(ctx, m)
}

// named is the message, or a copy with an id when it has none.
func (s *Sends) named(m *message.Message) *message.Message {
	if !m.ID.IsZero() {
		return m
	}
	named := *m
	named.ID = s.cfg.NextID()
	return &named
}

// End tells how the send ended: an outcome for each message, one at least.
func (x *Send) End(outcomes ...Outcome) {
	if x == nil {
		return
	}
	now, o := x.sends.cfg.Now(), summary(outcomes)
	if x.sends.metering(x.ctx) {
		x.count(outcomes, x.sends.set(series{sendName, x.topic, o.Server, o.Failure}), now.Sub(x.begun))
	}
	if x.span != nil {
		x.finish(o, len(outcomes) == 1)
		x.span.End(trace.WithTimestamp(now))
	}
}

// count adds to the metrics: a duration for the call, and a number for each
// different outcome of its messages.
func (x *Send) count(outcomes []Outcome, of attribute.Set, took time.Duration) {
	x.sends.duration.RecordSet(x.ctx, took.Seconds(), of)
	if len(outcomes) == 1 {
		x.sends.sent.AddSet(x.ctx, 1, of)
		return
	}
	numbers := map[series]int64{}
	for _, o := range outcomes {
		numbers[series{sendName, x.topic, o.Server, o.Failure}]++
	}
	for of, n := range numbers {
		x.sends.sent.AddSet(x.ctx, n, x.sends.set(of))
	}
}

// finish adds to the span what is known at its end. The queue is that of one
// message.
func (x *Send) finish(o Outcome, single bool) {
	if !x.span.IsRecording() {
		return
	}
	all := outcome(o.Server, o.Failure)
	if single && o.Queue != (message.Queue{}) {
		all = append(all, semconv.MessagingDestinationPartitionID(strconv.Itoa(o.Queue.ID)))
	}
	x.span.SetAttributes(all...)
	if o.Failure != "" {
		x.span.SetStatus(codes.Error, o.Err.Error())
	}
}

// summary is the first failure, or else the first outcome; without a server when
// there were several.
func summary(outcomes []Outcome) Outcome {
	failed := max(0, slices.IndexFunc(outcomes, func(o Outcome) bool { return o.Failure != "" }))
	o := outcomes[failed]
	if slices.ContainsFunc(outcomes, func(other Outcome) bool { return other.Server != o.Server }) {
		o.Server = ""
	}
	return o
}
