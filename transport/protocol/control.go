package protocol

import "github.com/rmqio/rmq/message"

// The payloads in this file are JSON. Times are Unix milliseconds.

// TopicConfig is a topic on one broker.
type TopicConfig struct {
	Name        string       `json:"name"`
	ReadQueues  int          `json:"readQueues"`
	WriteQueues int          `json:"writeQueues"`
	Perm        message.Perm `json:"perm"`
	// RetentionMillis is for how long messages can be read: KeepByDefault,
	// KeepForever, or at least MinRetentionMillis.
	RetentionMillis int64 `json:"retentionMillis,omitempty"`
	// KeepUntilConsumed keeps messages beyond that until every group that reads
	// the topic has consumed them, and while no group reads it.
	KeepUntilConsumed bool `json:"keepUntilConsumed,omitempty"`
	// Type is the kind of messages that the topic takes; empty: message.Mixed.
	Type message.Kind `json:"type,omitempty"`
	// Quota bounds what is sent to the topic on this broker.
	Quota Rates `json:"quota,omitzero"`
}

// Rates bound what is sent; 0: no bound.
type Rates struct {
	MessagesPerSecond int64 `json:"messagesPerSecond,omitempty"`
	BytesPerSecond    int64 `json:"bytesPerSecond,omitempty"`
}

// Values of TopicConfig.RetentionMillis that are no duration, and the shortest
// one.
const (
	KeepByDefault      = 0  // as long as the broker keeps messages by default
	KeepForever        = -1 // as long as the broker's limit of bytes and its disk allow
	MinRetentionMillis = 1000
)

// PutTopicRequest creates a topic or changes it.
type PutTopicRequest struct {
	Topic TopicConfig `json:"topic"`
	// Mode says what may happen.
	Mode PutMode `json:"mode"`
}

// PutMode says what a put may do.
type PutMode string

// The modes of a put.
const (
	// PutCreate fails with Conflict when it exists.
	PutCreate PutMode = "create"
	// PutAlter fails with TopicNotFound or GroupNotFound when it does not exist.
	PutAlter PutMode = "alter"
	// PutAuto creates with the broker's own settings when it does not exist and
	// the broker allows auto-creation; an existing one is left as it is. Only
	// the name is looked at.
	PutAuto PutMode = "auto"
)

func (*PutTopicRequest) RequestCode() Code { return PutTopic }

// PutTopicResponse is the topic as it is now.
type PutTopicResponse struct {
	Topic TopicConfig `json:"topic"`
}

// DeleteTopicRequest removes a topic with its messages and offsets.
type DeleteTopicRequest struct {
	Topic string `json:"topic"`
}

func (*DeleteTopicRequest) RequestCode() Code { return DeleteTopic }

// ListTopicsRequest asks a broker for its topics, or for one.
type ListTopicsRequest struct {
	// Topic, when set, is the only one wanted; then TopicNotFound is possible.
	Topic string `json:"topic,omitempty"`
	// Stats asks for the queues' offsets too.
	Stats bool `json:"stats,omitempty"`
}

func (*ListTopicsRequest) RequestCode() Code { return ListTopics }

// ListTopicsResponse is sorted by name.
type ListTopicsResponse struct {
	Topics []TopicStatus `json:"topics"`
}

// TopicStatus is a topic with, if asked for, its queues.
type TopicStatus struct {
	TopicConfig
	Queues []QueueStatus `json:"queues,omitempty"`
	// Traffic is set with the queues.
	Traffic *TopicTraffic `json:"traffic,omitempty"`
}

// TopicTraffic counts what was stored in a topic since the broker started, and what
// was given out of it, once for each group that it was given to. Bytes are those of
// batches as they are stored.
type TopicTraffic struct {
	InMessages  int64 `json:"inMessages"`
	InBytes     int64 `json:"inBytes"`
	OutMessages int64 `json:"outMessages"`
	OutBytes    int64 `json:"outBytes"`
}

// QueueStatus is where one queue begins and ends.
type QueueStatus struct {
	Queue int `json:"queue"`
	// Min is the first offset that is there, End the one after the last.
	Min int64 `json:"min"`
	End int64 `json:"end"`
	// LastStoreMillis is when the last message was stored; 0 for an empty queue.
	LastStoreMillis int64 `json:"lastStoreMillis"`
	// FirstStoreMillis is when the first one that is there was; 0 also when damage
	// keeps that from being known.
	FirstStoreMillis int64 `json:"firstStoreMillis"`
}

// GroupConfig is a consumer group on one broker.
type GroupConfig struct {
	Name string `json:"name"`
	// ConsumeEnabled off refuses all pulls of the group.
	ConsumeEnabled bool `json:"consumeEnabled"`
	// PerMemberSubscriptions lets members have different topics.
	PerMemberSubscriptions bool `json:"perMemberSubscriptions,omitempty"`
	// RetryMax is how often a message that fails is delivered again before it is a
	// dead letter; 0: 16, NoRetry: never.
	RetryMax int `json:"retryMax,omitempty"`
	// RetryPolicy says when.
	RetryPolicy RetryPolicy `json:"retryPolicy,omitzero"`
}

// PutGroupRequest creates a group or changes it.
type PutGroupRequest struct {
	Group GroupConfig `json:"group"`
	Mode  PutMode     `json:"mode"`
}

func (*PutGroupRequest) RequestCode() Code { return PutGroup }

// DeleteGroupRequest removes a group with its offsets, its subscription, and what
// waits for its retry; Conflict while it has members. Dead letters stay.
type DeleteGroupRequest struct {
	Group string `json:"group"`
	// WithDeadLetters removes the dead letters, too.
	WithDeadLetters bool `json:"withDeadLetters,omitempty"`
	DryRun          bool `json:"dryRun,omitempty"`
}

func (*DeleteGroupRequest) RequestCode() Code { return DeleteGroup }

// DeleteGroupResponse says what went with the group or, with DryRun, would go.
type DeleteGroupResponse struct {
	// Retries is how many messages failed and were to be delivered again.
	Retries int64 `json:"retries"`
	// DeadLetters is how many there are or, with WithDeadLetters, were.
	DeadLetters int64 `json:"deadLetters"`
}

// ListGroupsRequest asks a broker for its groups, or for one.
type ListGroupsRequest struct {
	Group string `json:"group,omitempty"`
	// Reading, when there is any, asks for these groups alone, and for what they
	// have to consume in these topics, whether this broker knows them or not:
	// another broker does.
	Reading []GroupTopics `json:"reading,omitempty"`
}

func (*ListGroupsRequest) RequestCode() Code { return ListGroups }

// ListGroupsResponse is sorted by name.
type ListGroupsResponse struct {
	Groups []GroupStatus `json:"groups"`
}

// GroupStatus is a group with its members and its progress on one broker.
type GroupStatus struct {
	GroupConfig
	Members []Member      `json:"members"`
	Queues  []GroupOffset `json:"queues"`
}

// GroupOffset is a group's progress in one queue.
type GroupOffset struct {
	Topic string `json:"topic"`
	Queue int    `json:"queue"`
	// Committed is the next offset to consume; -1 when nothing was committed.
	Committed int64 `json:"committed"`
	Min       int64 `json:"min"`
	End       int64 `json:"end"`
	// Lag is how many messages there are to consume. Without a committed offset
	// they count from where the members begin, and all of them while there is no
	// member. With a filter those count that it lets through.
	Lag int64 `json:"lag"`
	// LagMillis is the age of the oldest of them in the queue; 0 when there is none.
	LagMillis int64 `json:"lagMillis"`
	// Owner is the client that holds the queue's lease, if any.
	Owner string `json:"owner,omitempty"`
	// InFlight and Ready are of Lag, where the group pops: how many are handed out and
	// not acknowledged, and how many can be handed out now. The others wait for earlier
	// messages of their message groups.
	InFlight int64 `json:"inFlight,omitempty"`
	Ready    int64 `json:"ready,omitempty"`
	// Retrying is how many of them failed and wait for their time; only in the
	// group's retry topic.
	Retrying int64 `json:"retrying,omitempty"`
	// Filtered says that the group reads the topic with a filter, its members' or
	// while it has none the last that they had. FilterUnknown says that nobody knows
	// whether it does: all messages count.
	Filtered      bool `json:"filtered,omitempty"`
	FilterUnknown bool `json:"filterUnknown,omitempty"`
	// AtLeast says that not all could be looked at: Lag is at least this, LagMillis
	// at most. Who asks again is told more.
	AtLeast bool `json:"atLeast,omitempty"`
}

// HeartbeatRequest opens or renews a client's session at a broker.
type HeartbeatRequest struct {
	ClientID string `json:"clientId"`
	Language string `json:"language"`
	Version  string `json:"version"`
	// Producers are the producer groups of the client.
	Producers []string `json:"producers,omitempty"`
	// Checkers are those of them whose transactions the client can be asked for.
	Checkers []string `json:"checkers,omitempty"`
	// Consumers are the groups that the client is a member of. They replace
	// what an earlier heartbeat said.
	Consumers []Subscription `json:"consumers,omitempty"`
	// Inbox is the subject for events.
	Inbox string `json:"inbox"`
	// Incarnation tells the client from another one with its id. While one has a
	// session, the other is refused with Conflict; RetryAfterMillis then says when
	// that session would end if nothing more is heard of it.
	Incarnation uint64 `json:"incarnation,omitempty"`
}

// Subscription is what a member of a group wants.
type Subscription struct {
	Group  string   `json:"group"`
	Topics []string `json:"topics"`
	// Filters are those of topics of which not all messages are wanted. Members of
	// a group have the same topics, unless the group lets them differ, and the same
	// filters for those that they share; else Conflict.
	Filters []TopicFilter `json:"filters,omitempty"`
	// Start is where the member begins. Members may differ in it. None: nobody but
	// the member knows.
	Start *Start `json:"start,omitempty"`
	// Broadcast is set by a member that reads all queues, not a share of them, and
	// keeps its offsets elsewhere. All members of a group do, or none; else Conflict.
	Broadcast bool `json:"broadcast,omitempty"`
	// Suspended and RatePerHour are for people: whether the member has stopped handing
	// out messages, of some queues at least, and to how many an hour it has bound
	// itself; 0: as fast as they come.
	Suspended   bool  `json:"suspended,omitempty"`
	RatePerHour int64 `json:"ratePerHour,omitempty"`
}

func (*HeartbeatRequest) RequestCode() Code { return Heartbeat }

// HeartbeatResponse says for how long the session lives without another.
type HeartbeatResponse struct {
	SessionMillis int64 `json:"sessionMillis"`
}

// LeaveGroupRequest ends a client's membership: its leases are free at once.
// Without a group it ends the whole session.
type LeaveGroupRequest struct {
	ClientID string `json:"clientId"`
	Group    string `json:"group,omitempty"`
	// Incarnation is that of its heartbeats; of another one nothing ends.
	Incarnation uint64 `json:"incarnation,omitempty"`
}

func (*LeaveGroupRequest) RequestCode() Code { return LeaveGroup }

// ListMembersRequest asks who is in a group.
type ListMembersRequest struct {
	Group string `json:"group"`
}

func (*ListMembersRequest) RequestCode() Code { return ListMembers }

// ListMembersResponse is sorted by client id.
type ListMembersResponse struct {
	Members []Member `json:"members"`
}

// Member is a client in a group.
type Member struct {
	ClientID string   `json:"clientId"`
	Version  string   `json:"version"`
	Topics   []string `json:"topics"`
	// Broadcast is as in Subscription.
	Broadcast bool `json:"broadcast,omitempty"`
}

// SyncLeasesRequest says which queues of a topic a member wants to own on this
// broker. Owned queues that are not wanted become free; wanted ones that are
// free become the member's. UnknownMember without a session.
type SyncLeasesRequest struct {
	ClientID string `json:"clientId"`
	Group    string `json:"group"`
	Topic    string `json:"topic"`
	Queues   []int  `json:"queues"`
	// Incarnation is that of its heartbeats; of another one there is no session.
	Incarnation uint64 `json:"incarnation,omitempty"`
}

func (*SyncLeasesRequest) RequestCode() Code { return SyncLeases }

// SyncLeasesResponse says what the member owns now. What is wanted and missing
// belongs to another member still; MembersChanged tells when it is free.
type SyncLeasesResponse struct {
	Leases []Lease `json:"leases"`
}

// Lease is the right to consume a queue for a group.
type Lease struct {
	Queue int `json:"queue"`
	// Fence grows with every grant of the queue; each pull and commit carries it.
	Fence uint64 `json:"fence"`
	// Committed is where the group goes on; -1 when it never committed here.
	Committed int64 `json:"committed"`
}

// CommitOffsetsRequest moves a group's offsets. They may be set backwards only
// by ResetOffsets.
type CommitOffsetsRequest struct {
	Group    string         `json:"group"`
	ClientID string         `json:"clientId"`
	Offsets  []CommitOffset `json:"offsets"`
}

// CommitOffset is the next offset to consume in a queue.
type CommitOffset struct {
	Topic  string `json:"topic"`
	Queue  int    `json:"queue"`
	Offset int64  `json:"offset"`
	// Fence is the lease's; 0 commits without a lease, which is refused while
	// another client holds one.
	Fence uint64 `json:"fence,omitempty"`
}

func (*CommitOffsetsRequest) RequestCode() Code { return CommitOffsets }

// CommitOffsetsResponse has an entry for each offset that was refused; the
// others are on disk.
type CommitOffsetsResponse struct {
	Refused []RefusedOffset `json:"refused,omitempty"`
}

// RefusedOffset says why an offset was not committed.
type RefusedOffset struct {
	Topic string `json:"topic"`
	Queue int    `json:"queue"`
	Err   *Error `json:"error"`
}

// QueryOffsetsRequest asks for the offsets of queues.
type QueryOffsetsRequest struct {
	Queues []QueryOffset `json:"queues"`
	// Group, when set, asks for its committed offsets too.
	Group string `json:"group,omitempty"`
}

// QueryOffset is one queue.
type QueryOffset struct {
	Topic string `json:"topic"`
	Queue int    `json:"queue"`
	// AtMillis, when not 0, asks for the first offset stored at or after it.
	AtMillis int64 `json:"atMillis,omitempty"`
}

func (*QueryOffsetsRequest) RequestCode() Code { return QueryOffsets }

// QueryOffsetsResponse answers in the order of the request.
type QueryOffsetsResponse struct {
	Queues []QueueOffsets `json:"queues"`
}

// QueueOffsets are the offsets of one queue.
type QueueOffsets struct {
	Min int64 `json:"min"`
	End int64 `json:"end"`
	// Committed is -1 when the group never committed, or none was asked for.
	Committed int64 `json:"committed"`
	// At answers AtMillis: End when nothing is that young.
	At  int64  `json:"at"`
	Err *Error `json:"error,omitempty"`
}

// ResetOffsetsRequest sets a group's offsets in all queues of a topic on this
// broker. Members that own such a queue lose the lease and take it up again at
// the new offset.
type ResetOffsetsRequest struct {
	Group string `json:"group"`
	Topic string `json:"topic"`
	// Queue restricts it to one queue when it is not -1.
	Queue  int         `json:"queue"`
	Target ResetTarget `json:"target"`
	// Value is the offset of ResetToOffset or the time of ResetToTime.
	Value  int64 `json:"value,omitempty"`
	DryRun bool  `json:"dryRun,omitempty"`
	// CreateGroup lets the group be new here: another broker knows it.
	CreateGroup bool `json:"createGroup,omitempty"`
}

// ResetTarget says where offsets are set to.
type ResetTarget string

// The targets of a reset.
const (
	ResetToEarliest ResetTarget = "earliest"
	ResetToLatest   ResetTarget = "latest"
	ResetToOffset   ResetTarget = "offset" // clamped to what the queue has
	ResetToTime     ResetTarget = "time"   // Unix milliseconds
)

func (*ResetOffsetsRequest) RequestCode() Code { return ResetOffsets }

// ResetOffsetsResponse has every queue that was, or with DryRun would be, changed.
type ResetOffsetsResponse struct {
	Queues []OffsetChange `json:"queues"`
}

// OffsetChange is one queue's committed offset before and after.
type OffsetChange struct {
	Queue  int   `json:"queue"`
	Before int64 `json:"before"` // -1: none
	After  int64 `json:"after"`
	// Skipped is how many messages the group had to consume before After, and has
	// not any more; below 0: so many come again.
	Skipped int64 `json:"skipped"`
}

// BrokerStatusRequest asks how a broker is.
type BrokerStatusRequest struct{}

func (*BrokerStatusRequest) RequestCode() Code { return BrokerStatus }

// BrokerStatusResponse is how a broker is.
type BrokerStatusResponse struct {
	Cluster   string `json:"cluster"`
	Broker    string `json:"broker"`
	ID        int    `json:"id"`
	Version   string `json:"version"`
	StartedAt int64  `json:"startedAtMillis"`
	// Writable is false when the store refuses writes; Reason says why.
	Writable  bool   `json:"writable"`
	Reason    string `json:"reason,omitempty"`
	FlushMode string `json:"flushMode"`
	// FirstIndex and LastIndex bound the log's records that are on disk.
	FirstIndex uint64 `json:"firstIndex"`
	LastIndex  uint64 `json:"lastIndex"`
	DiskBytes  int64  `json:"diskBytes"`
	// DiskUsedPercent and DiskFreeBytes are those of the log's disk. DiskLevel
	// judges them: ok, warn, clean (old messages go early) or refuse (new ones are
	// refused); empty when the disk cannot be looked at.
	DiskUsedPercent int    `json:"diskUsedPercent"`
	DiskFreeBytes   int64  `json:"diskFreeBytes"`
	DiskLevel       string `json:"diskLevel"`
	Topics          int    `json:"topics"`
	Groups          int    `json:"groups"`
	Clients         int    `json:"clients"`
}

// MembersChangedEvent is the payload of MembersChanged.
type MembersChangedEvent struct {
	Broker string `json:"broker"`
	Group  string `json:"group"`
}
