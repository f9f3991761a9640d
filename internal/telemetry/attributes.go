package telemetry

import (
	"net"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/rmqio/rmq/message"
)

// mostAttributes is how many a span has at its start at most.
const mostAttributes = 16

// operation is what every span and every series has.
func operation(topic, name string) []attribute.KeyValue {
	kind := semconv.MessagingOperationTypeSend
	if name == createName {
		kind = semconv.MessagingOperationTypeCreate
	}
	all := make([]attribute.KeyValue, 0, mostAttributes)
	return append(all, semconv.MessagingSystemRocketMQ, semconv.MessagingOperationName(name), kind, semconv.MessagingDestinationName(topic))
}

// describe is operation and what the span of one message says of it.
func (s *Sends) describe(m *message.Message, name string) []attribute.KeyValue {
	all := append(s.span(m.Topic, name),
		semconv.MessagingMessageID(m.ID.String()), semconv.MessagingMessageBodySize(len(m.Body)), kindOf(m))
	if m.Tag != "" {
		all = append(all, semconv.MessagingRocketMQMessageTag(m.Tag))
	}
	if len(m.Keys) > 0 {
		all = append(all, semconv.MessagingRocketMQMessageKeys(m.Keys...))
	}
	if m.Group != "" {
		all = append(all, semconv.MessagingRocketMQMessageGroup(m.Group))
	}
	if m.CorrelationID != "" {
		all = append(all, semconv.MessagingMessageConversationID(m.CorrelationID))
	}
	switch {
	case m.DelayLevel > 0:
		all = append(all, semconv.MessagingRocketMQMessageDelayTimeLevel(m.DelayLevel))
	case !m.DeliverAt.IsZero():
		all = append(all, semconv.MessagingRocketMQMessageDeliveryTimestamp(int(m.DeliverAt.UnixMilli())))
	case m.Delay > 0:
		all = append(all, semconv.MessagingRocketMQMessageDeliveryTimestamp(int(s.cfg.Now().Add(m.Delay).UnixMilli())))
	}
	return all
}

// span is operation and what else every span has. The conventions require a
// namespace; there is none here, which is RocketMQ's empty one.
func (s *Sends) span(topic, name string) []attribute.KeyValue {
	return append(operation(topic, name), semconv.MessagingRocketMQNamespace(""), semconv.MessagingClientID(s.cfg.ClientID))
}

// kindOf is one of the conventions' kinds, or our own word for priorities.
func kindOf(m *message.Message) attribute.KeyValue {
	return semconv.MessagingRocketMQMessageTypeKey.String(strings.ToLower(string(m.Kind())))
}

// outcome is what is known of a send at its end.
func outcome(server, failure string) []attribute.KeyValue {
	var all []attribute.KeyValue
	if host, port, err := net.SplitHostPort(server); err == nil {
		all = append(all, semconv.ServerAddress(host))
		if n, err := strconv.Atoi(port); err == nil {
			all = append(all, semconv.ServerPort(n))
		}
	}
	if failure != "" {
		all = append(all, semconv.ErrorTypeKey.String(failure))
	}
	return all
}
