package broker_test

import (
	"testing"

	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/rmqio/rmq/transport/protocol"
)

// Whoever asks for what is behind an offset was given what is before it, by a broker
// that has been restarted since, too.
func TestInFlight_OfAMemberThatGoesOn(t *testing.T) {
	l := newLagging(t)
	l.store(0, 5)
	l.check(l.join("c", nil))
	fence := l.own("c", 0, 1)[0].Fence
	reader := sdkmetric.NewManualReader()
	l.check(l.cluster.Broker().Observe(sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))))
	gauge := func(name string) (sum int64) {
		var rm metricdata.ResourceMetrics
		l.check(reader.Collect(t.Context(), &rm))
		for _, scope := range rm.ScopeMetrics {
			for _, m := range scope.Metrics {
				if data, ok := m.Data.(metricdata.Gauge[int64]); ok && m.Name == name {
					for _, p := range data.DataPoints {
						sum += p.Value
					}
				}
			}
		}
		return sum
	}
	for _, asked := range []struct{ offset, inflight int64 }{{0, 1}, {2, 3}, {1, 3}, {5, 5}} {
		must[protocol.PullResponse](l.deciding, protocol.ClassPull, &protocol.PullRequest{
			Group: "g", ClientID: "c", MaxBytes: 1, Queues: []protocol.PullQueue{{Topic: "t", Queue: 0, Offset: asked.offset, Fence: fence}},
		})
		if lag, inflight := gauge("rocketmq_consumer_lag_messages"), gauge("rocketmq_consumer_inflight_messages"); lag != 5 || inflight != asked.inflight {
			t.Errorf("asked from %d: got %d in flight of %d, want %d of 5", asked.offset, inflight, lag, asked.inflight)
		}
	}
	l.cluster.Stop()
	if lag := gauge("rocketmq_consumer_lag_messages"); lag != 0 {
		t.Errorf("a broker that is closed tells of a lag of %d", lag)
	}
}
