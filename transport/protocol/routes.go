package protocol

import "github.com/rmqio/rmq/message"

// BrokerIdentity names a broker process to the name servers.
type BrokerIdentity struct {
	Cluster string `json:"cluster"`
	Broker  string `json:"broker"`
	ID      int    `json:"id"` // 0: master
	// Incarnation tells one start of the broker from another; a later start has
	// a higher one, and messages of an earlier one are refused.
	Incarnation uint64 `json:"incarnation"`
}

// RegisterBrokerRequest puts a broker and all its topics into the routes.
type RegisterBrokerRequest struct {
	BrokerIdentity
	// Addresses are where clients reach the broker's NATS server, best first.
	Addresses []string      `json:"addresses"`
	Topics    []TopicConfig `json:"topics"`
	// DataVersion grows with every change of Topics.
	DataVersion uint64 `json:"dataVersion"`
}

func (*RegisterBrokerRequest) RequestCode() Code { return RegisterBroker }

// RegisterBrokerResponse says how long the registration lives without a heartbeat.
type RegisterBrokerResponse struct {
	TimeoutMillis int64 `json:"timeoutMillis"`
}

// BrokerHeartbeatRequest renews a registration, and may bring its topics from one
// data version to the next: a broker with many topics does not send all of them
// for each one that changes.
type BrokerHeartbeatRequest struct {
	BrokerIdentity
	DataVersion uint64 `json:"dataVersion"`
	// Base, when not 0, is the data version that Changed and Removed lead from.
	Base    uint64        `json:"base,omitempty"`
	Changed []TopicConfig `json:"changed,omitempty"`
	Removed []string      `json:"removed,omitempty"`
}

func (*BrokerHeartbeatRequest) RequestCode() Code { return BrokerHeartbeat }

// BrokerHeartbeatResponse asks for a registration when the name server does not
// know the broker or has another data version.
type BrokerHeartbeatResponse struct {
	Register bool `json:"register"`
}

// LeaveBrokerRequest takes a broker out of the routes.
type LeaveBrokerRequest struct{ BrokerIdentity }

func (*LeaveBrokerRequest) RequestCode() Code { return LeaveBroker }

// QueryRouteRequest asks who has a topic.
type QueryRouteRequest struct {
	Topic string `json:"topic"`
}

func (*QueryRouteRequest) RequestCode() Code { return QueryRoute }

// QueryRouteResponse is sorted by broker; TopicNotFound when nobody has the topic.
type QueryRouteResponse struct {
	Brokers []TopicRoute `json:"brokers"`
}

// TopicRoute is a topic on one broker.
type TopicRoute struct {
	Cluster     string       `json:"cluster"`
	Broker      string       `json:"broker"`
	ID          int          `json:"id"`
	Addresses   []string     `json:"addresses"`
	ReadQueues  int          `json:"readQueues"`
	WriteQueues int          `json:"writeQueues"`
	Perm        message.Perm `json:"perm"`
	// Type is the topic's; producers choose the queue by it.
	Type message.Kind `json:"type,omitempty"`
}

// QueryClusterRequest asks for all brokers.
type QueryClusterRequest struct{}

func (*QueryClusterRequest) RequestCode() Code { return QueryCluster }

// QueryClusterResponse is sorted by cluster, broker and id.
type QueryClusterResponse struct {
	Brokers []BrokerInfo `json:"brokers"`
}

// BrokerInfo is a broker as a name server knows it.
type BrokerInfo struct {
	BrokerIdentity
	Addresses   []string `json:"addresses"`
	Topics      int      `json:"topics"`
	DataVersion uint64   `json:"dataVersion"`
	// LastSeenMillis is when the last heartbeat came.
	LastSeenMillis int64 `json:"lastSeenMillis"`
}

// QueryTopicsRequest asks for the names of all topics.
type QueryTopicsRequest struct{}

func (*QueryTopicsRequest) RequestCode() Code { return QueryTopics }

// QueryTopicsResponse is sorted.
type QueryTopicsResponse struct {
	Topics []string `json:"topics"`
}

// RouteChangedEvent is the payload of RouteChanged: the topics whose routes
// changed, or none when any may have.
type RouteChangedEvent struct {
	Topics []string `json:"topics,omitempty"`
}
