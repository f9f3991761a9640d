package telemetry

import (
	"context"
	"maps"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/rmqio/rmq/message"
)

// traceparent is the property that makes a trace context; tracestate adds to it.
const traceparent = "traceparent"

// hasContext reports whether the message has a trace context, good or bad, which
// is left as it is.
func hasContext(m *message.Message) bool {
	_, has := m.Properties[traceparent]
	return has
}

// pass returns a copy of the message that carries the trace context of ctx; the
// message itself when there is none, when it has one already, or when it would
// grow over the limit of properties: the message matters more than its trace.
func pass(ctx context.Context, m *message.Message) *message.Message {
	if hasContext(m) || !trace.SpanContextFromContext(ctx).IsValid() {
		return m
	}
	properties := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, properties)
	maps.Copy(properties, m.Properties) // the user's own remain
	carrying := *m
	carrying.Properties = properties
	if carrying.PropertiesBytes() > message.MaxPropertiesBytes {
		return m
	}
	return &carrying
}

// linkTo is the link to the trace context that a message carries; none when it
// carries none or a malformed one.
func linkTo(ctx context.Context, m *message.Message) []trace.Link {
	nowhere := trace.ContextWithSpanContext(ctx, trace.SpanContext{})
	link := trace.LinkFromContext(propagation.TraceContext{}.Extract(nowhere, propagation.MapCarrier(m.Properties)))
	if !link.SpanContext.IsValid() {
		return nil
	}
	return []trace.Link{link}
}

// namedLinkTo is linkTo that says which of several messages it is for.
func namedLinkTo(ctx context.Context, m *message.Message) []trace.Link {
	links := linkTo(ctx, m)
	for i := range links {
		links[i].Attributes = []attribute.KeyValue{semconv.MessagingMessageID(m.ID.String())}
	}
	return links
}
