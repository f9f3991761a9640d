package nameserver

import (
	"net"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// checkRegistration holds a registration to the rules of names and numbers;
// the error is InvalidArgument and says which field is wrong.
func checkRegistration(req *protocol.RegisterBrokerRequest) error {
	if err := checkIdentity(req.BrokerIdentity); err != nil {
		return err
	}
	if len(req.Addresses) == 0 {
		return invalid("broker %s has no address", req.Broker)
	}
	for _, a := range req.Addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return invalid("address %q of broker %s is not host:port", a, req.Broker)
		}
	}
	return checkTopics(req.Topics)
}

func checkTopics(topics []protocol.TopicConfig) error {
	seen := make(map[string]bool, len(topics))
	for _, t := range topics {
		if seen[t.Name] {
			return invalid("topic %q is named twice", t.Name)
		}
		seen[t.Name] = true
		if err := checkTopic(t); err != nil {
			return err
		}
	}
	return nil
}

func checkIdentity(id protocol.BrokerIdentity) error {
	if err := message.CheckBroker(id.Cluster); err != nil {
		return invalid("cluster: %v", err)
	}
	if err := message.CheckBroker(id.Broker); err != nil {
		return invalid("%v", err)
	}
	if id.ID < 0 {
		return invalid("broker id %d is below 0", id.ID)
	}
	return nil
}

func checkTopic(t protocol.TopicConfig) error {
	if err := message.CheckAnyTopic(t.Name); err != nil {
		return invalid("%v", err)
	}
	if t.ReadQueues < 0 || t.WriteQueues < 0 {
		return invalid("topic %s has %d read and %d write queues", t.Name, t.ReadQueues, t.WriteQueues)
	}
	if !t.Perm.Valid() {
		return invalid("topic %s has permission %d", t.Name, int(t.Perm))
	}
	return nil
}

func invalid(format string, args ...any) error {
	return protocol.Errorf(protocol.InvalidArgument, format, args...)
}
