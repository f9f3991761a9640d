package protocol

import "strconv"

// Code says which request a frame carries. Numbers are RocketMQ's RequestCode
// where it has the request.
type Code uint16

// Requests to brokers.
const (
	SendMessage   Code = 10
	PullMessage   Code = 11
	QueryMessages Code = 12
	QueryOffsets  Code = 14
	CommitOffsets Code = 15
	PutTopic      Code = 17
	ListTopics    Code = 21
	BrokerStatus  Code = 28
	Heartbeat     Code = 34
	LeaveGroup    Code = 35
	// SendBack gives back what a consumer failed to process (RocketMQ's
	// CONSUMER_SEND_MSG_BACK).
	SendBack Code = 36
	// EndTransaction commits or rolls back a half message.
	EndTransaction Code = 37
	ListMembers    Code = 38
	SyncLeases     Code = 41
	PutGroup       Code = 200
	ListGroups     Code = 201
	DeleteGroup    Code = 207
	DeleteTopic    Code = 215
	ResetOffsets   Code = 222
	CloneOffsets   Code = 314
	// CheckTransactions has producers asked again for the outcome of half messages
	// (RocketMQ's RESUME_CHECK_HALF_MESSAGE).
	CheckTransactions Code = 323
	SendReply         Code = 325
	RecallMessage     Code = 370
)

// Requests to brokers whose numbers in RocketMQ (POP_MESSAGE 200050, ACK_MESSAGE
// 200051, CHANGE_MESSAGE_INVISIBLETIME 200053) do not fit into a frame.
const (
	PopMessage      Code = 2050
	AckMessage      Code = 2051
	ChangeInvisible Code = 2053
)

// Requests to brokers that RocketMQ does not have.
const (
	ListDelayed      Code = 3101
	ListTransactions Code = 3102
	PutQuota         Code = 3103
	ListQuotas       Code = 3104
	ListClients      Code = 3105
	ResendDeadLetter Code = 3106
	TraceMessage     Code = 3107
)

// Requests to name servers.
const (
	RegisterBroker  Code = 103
	LeaveBroker     Code = 104
	QueryRoute      Code = 105
	QueryCluster    Code = 106
	QueryTopics     Code = 206
	BrokerHeartbeat Code = 904
)

// PushReply is the one request of brokers to clients: it brings a reply to the
// client that sent the request (RocketMQ's PUSH_REPLY_MESSAGE_TO_CLIENT).
const PushReply Code = 326

// Events: frames that nobody answers.
const (
	// MembersChanged tells a member of a group that another joined or left, or
	// that a queue became free (RocketMQ's NOTIFY_CONSUMER_IDS_CHANGED).
	MembersChanged Code = 40
	// CheckTransaction asks a producer for the outcome of a half message
	// (RocketMQ's CHECK_TRANSACTION_STATE).
	CheckTransaction Code = 39
	// RouteChanged tells clients that routes changed.
	RouteChanged Code = 2001
)

var codeNames = map[Code]string{
	SendMessage: "SEND_MESSAGE", PullMessage: "PULL_MESSAGE", QueryMessages: "QUERY_MESSAGES",
	QueryOffsets:  "QUERY_OFFSETS",
	CommitOffsets: "COMMIT_OFFSETS", PutTopic: "PUT_TOPIC", ListTopics: "LIST_TOPICS",
	BrokerStatus: "BROKER_STATUS", Heartbeat: "HEARTBEAT", LeaveGroup: "LEAVE_GROUP",
	ListMembers: "LIST_MEMBERS", SyncLeases: "SYNC_LEASES", PutGroup: "PUT_GROUP",
	ListGroups: "LIST_GROUPS", DeleteGroup: "DELETE_GROUP", DeleteTopic: "DELETE_TOPIC",
	ResetOffsets: "RESET_OFFSETS", RegisterBroker: "REGISTER_BROKER", LeaveBroker: "LEAVE_BROKER",
	QueryRoute: "QUERY_ROUTE", QueryCluster: "QUERY_CLUSTER", QueryTopics: "QUERY_TOPICS",
	EndTransaction: "END_TRANSACTION", CheckTransactions: "CHECK_TRANSACTIONS", SendReply: "SEND_REPLY",
	RecallMessage: "RECALL_MESSAGE", ListDelayed: "LIST_DELAYED", ListTransactions: "LIST_TRANSACTIONS",
	PutQuota: "PUT_QUOTA", ListQuotas: "LIST_QUOTAS", CloneOffsets: "CLONE_OFFSETS", ListClients: "LIST_CLIENTS",
	PopMessage: "POP_MESSAGE", AckMessage: "ACK_MESSAGE", ChangeInvisible: "CHANGE_MESSAGE_INVISIBLETIME",
	SendBack: "CONSUMER_SEND_MSG_BACK", ResendDeadLetter: "RESEND_DEAD_LETTER", TraceMessage: "TRACE_MESSAGE",
	CheckTransaction: "CHECK_TRANSACTION", PushReply: "PUSH_REPLY",
	BrokerHeartbeat: "BROKER_HEARTBEAT", MembersChanged: "MEMBERS_CHANGED", RouteChanged: "ROUTE_CHANGED",
}

func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return "CODE_" + strconv.Itoa(int(c))
}
