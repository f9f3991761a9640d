// Package consumer reads topics: Push hands the messages of a group to a
// handler, Pull gives them to a program that asks.
//
// In a group, every queue has one owner at a time. Each member computes its
// queues by itself, with a Strategy (RocketMQ's "averagely" if none is given),
// and takes up the lease of each at its broker, with a fence that every pull and
// commit carries. A queue that goes to another member is finished first, then
// committed, then given back, so that a member that joins or leaves has nothing delivered twice. What may be
// delivered again is what was not committed when a consumer, or its connection
// to a broker for longer than its session, was cut off: a handler must bear that.
//
// Simple is the other way to be a group: its members share messages, not queues. A
// broker hands any message to any member that asks, for an invisible time, and remembers
// it until it is acknowledged. What of the above is about queues, leases and positions
// is not about Simple; a message comes again when its invisible time is over.
//
// A broker that is gone for a while takes nothing away: position, lease and
// prefetched messages stay, and go on when it is back.
//
// With Config.Broadcast every member gets everything. It keeps its offsets by itself, in
// a file or as those of a group of its own, and what fails stays with it.
//
// A subscription may have a filter. The broker leaves out what it does not let
// through, and the consumer looks again; offsets move past what was left out. All
// members of a group subscribe alike, or are refused.
//
// Of what was pulled, the message of the highest priority is handed out first; a
// message that is tried again keeps its priority. Low priorities may starve: as
// long as higher ones come faster than they are consumed, lower ones wait. In a
// topic of type PRIORITY each queue holds one band of priorities; in others a
// message waits behind those that are before it in its queue.
//
// The package owns the connections of its consumers (through internal/client)
// and their goroutines: a coordinator, a fetcher for each broker, a committer,
// and the handlers of Push; those of Simple are named there. The state of queues is kept in pure types without
// goroutines (processQueue, window, the strategies); buffer is the one place,
// behind one mutex, where goroutines share it.
//
// It never creates topics, never skips what cannot be read, and never commits
// past a message that is not finished.
package consumer
