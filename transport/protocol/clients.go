package protocol

// The payloads in this file are JSON.

// MaxListClients bounds the clients in one answer.
const MaxListClients = 256

// Start is where a member of a group begins in queues that the group has never
// committed an offset in.
type Start struct {
	Target ResetTarget `json:"target"`
	// Value is as in ResetOffsetsRequest.
	Value int64 `json:"value,omitempty"`
}

// ListClientsRequest asks for the clients that have a session at a broker, in the
// order of their ids.
type ListClientsRequest struct {
	ClientID string `json:"clientId,omitempty"` // the only one wanted; empty: all
	Group    string `json:"group,omitempty"`    // only members of this consumer group; empty: all
	// After goes on behind the last client of an earlier answer.
	After string `json:"after,omitempty"`
	Max   int    `json:"max"` // 1 to MaxListClients
}

func (*ListClientsRequest) RequestCode() Code { return ListClients }

// ListClientsResponse has a page of them.
type ListClientsResponse struct {
	Clients []ClientStatus `json:"clients"`
	More    bool           `json:"more"`
}

// ClientStatus is a client as one broker knows it.
type ClientStatus struct {
	ClientID string `json:"clientId"`
	Language string `json:"language"`
	Version  string `json:"version"`
	// Address is the host:port that the client's connection comes from, if the
	// broker knows it.
	Address string `json:"address,omitempty"`
	// Producers, Checkers and Consumers are what its last heartbeat said.
	Producers []string       `json:"producers,omitempty"`
	Checkers  []string       `json:"checkers,omitempty"`
	Consumers []Subscription `json:"consumers,omitempty"`
	// Leases are the queues of this broker that it owns.
	Leases []ClientLease `json:"leases,omitempty"`
	// SinceMillis is when its session began, HeartbeatAgeMillis how long ago its
	// last heartbeat came, both by the broker's clock.
	SinceMillis        int64 `json:"sinceMillis"`
	HeartbeatAgeMillis int64 `json:"heartbeatAgeMillis"`
}

// ClientLease is a queue that a client owns.
type ClientLease struct {
	Group string `json:"group"`
	Topic string `json:"topic"`
	Queue int    `json:"queue"`
	Fence uint64 `json:"fence"`
}

// CloneOffsetsRequest sets the offsets of one group on this broker to those of
// another. Conflict while the group that is set has members and, without Force,
// when it has other offsets in one of the queues.
type CloneOffsetsRequest struct {
	From string `json:"from"`
	To   string `json:"to"`
	// Topic restricts it to one topic.
	Topic  string `json:"topic,omitempty"`
	Force  bool   `json:"force,omitempty"`
	DryRun bool   `json:"dryRun,omitempty"`
}

func (*CloneOffsetsRequest) RequestCode() Code { return CloneOffsets }

// CloneOffsetsResponse has every queue that the group is set in, sorted by topic
// and queue.
type CloneOffsetsResponse struct {
	Queues []ClonedOffset `json:"queues"`
}

// ClonedOffset is one queue's offset before and after.
type ClonedOffset struct {
	Topic string `json:"topic"`
	OffsetChange
}

// GroupTopics are topics of a group.
type GroupTopics struct {
	Group  string   `json:"group"`
	Topics []string `json:"topics"`
}
