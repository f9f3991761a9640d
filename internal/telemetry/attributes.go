package telemetry

import (
	"net"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/rmqio/rmq/message"
)

// The names of operations. Those that settle messages are consumers' words.
const (
	createName  = "create"
	sendName    = "send"
	receiveName = "receive"
	processName = "process"
)

// typeOf is the conventions' type of an operation.
func typeOf(name string) attribute.KeyValue {
	switch name {
	case createName:
		return semconv.MessagingOperationTypeCreate
	case sendName:
		return semconv.MessagingOperationTypeSend
	case receiveName:
		return semconv.MessagingOperationTypeReceive
	case processName:
		return semconv.MessagingOperationTypeProcess
	}
	return semconv.MessagingOperationTypeSettle
}

// mostAttributes is how many a span has at its start at most.
const mostAttributes = 17

// operation is what every span and every series has. Without a topic there is
// no one destination.
func (s *scope) operation(topic, name string) []attribute.KeyValue {
	all := make([]attribute.KeyValue, 0, mostAttributes)
	all = append(all, semconv.MessagingSystemRocketMQ, semconv.MessagingOperationName(name), typeOf(name))
	if topic != "" {
		all = append(all, semconv.MessagingDestinationName(topic))
	}
	if s.cfg.Group != "" {
		all = append(all, semconv.MessagingConsumerGroupName(s.cfg.Group))
	}
	return all
}

// spanName is the conventions' name of a span.
func spanName(operation, topic string) string {
	if topic == "" {
		return operation
	}
	return operation + " " + topic
}

// describe is operation and what the span of one message says of it.
func (s *scope) describe(m *message.Message, name string) []attribute.KeyValue {
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
func (s *scope) span(topic, name string) []attribute.KeyValue {
	return append(s.operation(topic, name), semconv.MessagingRocketMQNamespace(""), semconv.MessagingClientID(s.cfg.ClientID))
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
