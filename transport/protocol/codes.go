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
	ListMembers   Code = 38
	SyncLeases    Code = 41
	PutGroup      Code = 200
	ListGroups    Code = 201
	DeleteGroup   Code = 207
	DeleteTopic   Code = 215
	ResetOffsets  Code = 222
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

// Events: frames that nobody answers.
const (
	// MembersChanged tells a member of a group that another joined or left, or
	// that a queue became free (RocketMQ's NOTIFY_CONSUMER_IDS_CHANGED).
	MembersChanged Code = 40
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
	BrokerHeartbeat: "BROKER_HEARTBEAT", MembersChanged: "MEMBERS_CHANGED", RouteChanged: "ROUTE_CHANGED",
}

func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return "CODE_" + strconv.Itoa(int(c))
}
