// Package telemetry tells OpenTelemetry what the SDKs do: spans and metrics by
// the semantic conventions of messaging, of which it is the only importer, and
// the W3C trace context in the properties of messages.
//
// It uses the API of OpenTelemetry alone. As long as nobody has set a provider it
// makes nothing, allocates nothing, and leaves messages as they are. It never
// changes a message that it is given, only copies, and never a trace context that
// a message has already.
package telemetry

import (
	"reflect"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"

	"github.com/rmqio/rmq/message"
)

// Config says who is observed and who hears of it.
type Config struct {
	// Scope names the library: the import path of the package that is observed.
	Scope    string
	ClientID string
	// Group is the consumer group; empty: there is none.
	Group string
	// Address says where a broker is, as host:port; empty: it is not known. Receives
	// needs it.
	Address func(broker string) string
	// NextID gives an id to a message that has none, so that its span can name it.
	// Sends needs it.
	NextID func() message.ID
	// TracerProvider and MeterProvider are the global ones when nil, also when the
	// program sets those later.
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// scope is what is observed of one client: who it is, and who hears of it.
type scope struct {
	cfg    Config
	tracer trace.Tracer         // nil: nobody wants spans
	unset  trace.TracerProvider // nobody wants spans while it is the global one

	mu   sync.RWMutex
	sets map[series]attribute.Set // one for each operation, topic, broker and failure
}

// open sets the scope up and returns its meter.
func (s *scope) open(cfg Config) metric.Meter {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s.cfg, s.sets = cfg, map[series]attribute.Set{}
	tp, mp := cfg.TracerProvider, cfg.MeterProvider
	if tp == nil {
		tp = otel.GetTracerProvider()
		s.unset = ifUnset(tp)
	}
	if mp == nil {
		mp = otel.GetMeterProvider()
	}
	if _, silent := tp.(tracenoop.TracerProvider); !silent {
		s.tracer = tp.Tracer(cfg.Scope, trace.WithSchemaURL(semconv.SchemaURL))
	}
	return mp.Meter(cfg.Scope, metric.WithSchemaURL(semconv.SchemaURL))
}

// buckets are those of the conventions in seconds, and finer ones below: a broker
// nearby answers in less than their first.
func buckets() []float64 {
	return []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}
}

// ifUnset returns the provider if it only stands in for one that the program may
// set later. Its tracers make spans that cost and tell nobody anything, and the
// API has no other way to find out.
func ifUnset(tp trace.TracerProvider) trace.TracerProvider {
	t := reflect.TypeOf(tp)
	if t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "go.opentelemetry.io/otel/internal/global" {
		return tp
	}
	return nil
}

// tracing reports whether somebody may want spans. A tracer of the stand-in hands
// over to the provider that was set meanwhile.
func (s *scope) tracing() bool {
	return s.tracer != nil && (s.unset == nil || otel.GetTracerProvider() != s.unset)
}

// series is what the metrics of an operation are told apart by.
type series struct{ operation, topic, server, failure string }

func (s *scope) set(of series) attribute.Set {
	s.mu.RLock()
	set, known := s.sets[of]
	s.mu.RUnlock()
	if known {
		return set
	}
	set = attribute.NewSet(append(s.operation(of.topic, of.operation), outcome(of.server, of.failure)...)...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sets[of] = set
	return set
}
