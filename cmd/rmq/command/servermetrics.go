package command

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/rmqio/rmq/broker"
)

const (
	// metricsAtOnce is how many may be given the metrics at once; to gather them takes
	// memory.
	metricsAtOnce = 2
	// metricsTimeout is Prometheus's default of a scrape.
	metricsTimeout = 10 * time.Second
)

// newMetrics makes what answers /metrics for a broker: its metrics in the text format
// of Prometheus, by the names and with the units that RocketMQ 5 gives them there.
func newMetrics(cfg serverConfig, b *broker.Broker) (http.Handler, error) {
	registry := prometheus.NewRegistry()
	exporter, err := otelprometheus.New(
		otelprometheus.WithRegisterer(registry), otelprometheus.WithProducer(b),
		otelprometheus.WithoutScopeInfo(), otelprometheus.WithoutTargetInfo(),
		otelprometheus.WithResourceAsConstantLabels(attribute.NewAllowKeysFilter("cluster", "node_type", "node_id")),
	)
	if err != nil {
		return nil, err
	}
	provider := sdkmetric.NewMeterProvider(
		sdkmetric.WithReader(exporter),
		sdkmetric.WithResource(resource.NewSchemaless(
			attribute.String("cluster", cfg.cluster), attribute.String("node_type", "broker"), attribute.String("node_id", cfg.name),
		)),
		sdkmetric.WithCardinalityLimit(0), // the broker has its own, which loses nothing of sums
	)
	if err := b.Observe(provider); err != nil {
		return nil, err
	}
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: metricsAtOnce, Timeout: metricsTimeout}), nil
}
