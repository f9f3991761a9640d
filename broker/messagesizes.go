package broker

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/instrumentation"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/rmqio/rmq/broker/meter"
)

// Produce returns the histogram rocketmq_message_size, whose numbers are counted
// before anybody asks: OpenTelemetry has no instrument for that, and lets a reader
// take it from a producer (sdk/metric.Producer), which Broker is. A batch counts as
// messages of its average size. It is safe for concurrent use, and needs nothing of
// the broker that Close ends. The error is always nil.
func (b *Broker) Produce(context.Context) ([]metricdata.ScopeMetrics, error) {
	exists := func(id uint64) bool { _, ok := b.state.topics.ByID(id); return ok }
	data := metricdata.Histogram[int64]{Temporality: metricdata.CumulativeTemporality}
	for _, t := range b.state.meters.Topics(exists) {
		labels, ok := b.topicLabels(t.ID)
		if !ok {
			continue
		}
		for k, in := range t.In {
			if in.Messages > 0 {
				typed := append(labels, attribute.String("message_type", meter.Kind(k).String()))
				data.DataPoints = append(data.DataPoints, b.sizePoint(attribute.NewSet(typed...), t.Sizes[k], in.Bytes))
			}
		}
	}
	return []metricdata.ScopeMetrics{{
		Scope: instrumentation.Scope{Name: metricScope},
		Metrics: []metricdata.Metrics{{
			Name: "rocketmq_message_size", Description: "Sizes of the messages that producers have sent", Data: data,
		}},
	}}, nil
}

func (b *Broker) sizePoint(labels attribute.Set, sizes meter.Sizes, sum int64) metricdata.HistogramDataPoint[int64] {
	p := metricdata.HistogramDataPoint[int64]{
		Attributes: labels, StartTime: b.started, Time: b.cfg.Now(), Bounds: meter.SizeBounds(), Sum: sum,
	}
	for _, n := range sizes {
		p.BucketCounts = append(p.BucketCounts, uint64(n))
		p.Count += uint64(n)
	}
	return p
}
