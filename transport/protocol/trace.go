package protocol

// The payloads in this file are JSON.

// Bounds of a trace.
const (
	// DefaultTraceRecords is how many records of a broker's log a trace looks at if
	// the request does not say.
	DefaultTraceRecords = 1 << 20
	// MaxTraceEvents bounds the events of one answer.
	MaxTraceEvents = 4096
)

// TraceMessageRequest asks a broker for all that its log and its views say of one
// message. NotFound when they say nothing.
type TraceMessageRequest struct {
	ID string `json:"id"`
	// MaxRecords bounds how many records of the log are looked at, from the first one
	// that has the message; 0: DefaultTraceRecords.
	MaxRecords int64 `json:"maxRecords,omitempty"`
}

func (*TraceMessageRequest) RequestCode() Code { return TraceMessage }

// TraceMessageResponse is the journey of a message.
type TraceMessageResponse struct {
	// Events are what happened, in the order of the log.
	Events []TraceStep `json:"events"`
	// States are how it is now, whatever the log was looked at for.
	States []TraceState `json:"states"`
	// Until is the last record of the log that was looked at, and Last the last one
	// that there was: when they differ, there may be later events. Where the message
	// was stored is told all the same.
	Until uint64 `json:"until"`
	Last  uint64 `json:"last"`
	// Damage says what could not be searched; empty: nothing.
	Damage string `json:"damage,omitempty"`
}

// TraceKind says what happened to a message.
type TraceKind string

// What can happen to a message.
const (
	TraceStored       TraceKind = "stored"       // in its queue, where consumers see it
	TraceDelayed      TraceKind = "delayed"      // held back until its time
	TraceDue          TraceKind = "due"          // shown in its queue, or in that of retries, at its time
	TraceRecalled     TraceKind = "recalled"     // taken back by its producer
	TracePrepared     TraceKind = "prepared"     // held back as a half message
	TraceAsked        TraceKind = "asked"        // its producers were asked for the outcome
	TraceParked       TraceKind = "parked"       // nobody is asked any more; a copy is there for people
	TraceCommitted    TraceKind = "committed"    // shown in its queue by its producer's decision
	TraceRolledBack   TraceKind = "rolledBack"   // forgotten by its producer's decision
	TraceLeased       TraceKind = "leased"       // a client got the queue, and the message was not acknowledged
	TraceFreed        TraceKind = "freed"        // the client lost it again before the message was acknowledged
	TraceAcked        TraceKind = "acked"        // the group's offset passed it
	TracePopped       TraceKind = "popped"       // handed out to a member, and invisible for a time
	TracePostponed    TraceKind = "postponed"    // given another time by the one who has it
	TraceFiltered     TraceKind = "filtered"     // passed over by a pop, whose filter did not let it through
	TraceSkipped      TraceKind = "skipped"      // the group's offset was set behind it
	TraceReset        TraceKind = "reset"        // the group's offset was set back to it, or before it
	TraceRetrying     TraceKind = "retrying"     // given back; a copy waits for its time
	TraceDead         TraceKind = "dead"         // given up; a copy is a dead letter
	TraceResent       TraceKind = "resent"       // sent again from the dead letters
	TraceTopicDeleted TraceKind = "topicDeleted" // with the message in it
	TraceGroupDeleted TraceKind = "groupDeleted" // with its offsets
)

// TraceStep is one thing that happened to a message.
type TraceStep struct {
	Kind TraceKind `json:"kind"`
	// Millis is when the log took the record that says so, LogIndex which one it is.
	Millis   int64  `json:"millis"`
	LogIndex uint64 `json:"logIndex"`
	// Topic, Queue and Offset are where the message stands, or will; Offset is -1 while
	// it is held back. Topic is empty where the record does not say.
	Topic  string `json:"topic,omitempty"`
	Queue  int    `json:"queue"`
	Offset int64  `json:"offset"`
	// Group is the consumer group, or that of the producers of a half message.
	Group string `json:"group,omitempty"`
	// Client holds the lease of the queue, with Fence. An acknowledgement without
	// a lease has neither; one whose lease the log has forgotten has no client. With
	// messages that are popped Fence is that of the handle, and nobody has a lease.
	Client string `json:"client,omitempty"`
	Fence  uint64 `json:"fence,omitempty"`
	// Attempt is how often the message failed before, or was popped.
	Attempt int `json:"attempt,omitempty"`
	// DeliverAtMillis is until when it is held back, or invisible.
	DeliverAtMillis int64 `json:"deliverAtMillis,omitempty"`
	// Error is what its handler said that failed.
	Error string `json:"error,omitempty"`
	Bytes int    `json:"bytes,omitempty"` // of the body as it is stored
}

// TraceState is how a message is at one place now, for a group or for everybody.
type TraceState struct {
	// State is TraceDelayed, TracePrepared or TraceRetrying of one that is held back,
	// TraceAcked when the group's offset is behind it or it was acknowledged alone,
	// TracePopped while it is handed out, TraceDead of a dead letter of the group, else
	// "waiting".
	State  TraceKind `json:"state"`
	Topic  string    `json:"topic"`
	Queue  int       `json:"queue"`
	Offset int64     `json:"offset"` // -1: held back
	Group  string    `json:"group,omitempty"`
	// Client holds the lease of the queue now.
	Client string `json:"client,omitempty"`
	// Committed is the group's offset; -1: none.
	Committed       int64 `json:"committed"`
	DeliverAtMillis int64 `json:"deliverAtMillis,omitempty"`
}

// TraceWaiting is the state of a message that a group has not acknowledged.
const TraceWaiting TraceKind = "waiting"
