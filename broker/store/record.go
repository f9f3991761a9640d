package store

// Type says what a record is. The numbers are on disk.
type Type uint8

// The types of records. The log itself looks into BatchRecord and
// TopicDeleteRecord only; the others are for the views.
const (
	BatchRecord       Type = 1 // messages of one queue, a batch of package message/batch
	TopicRecord       Type = 2 // a topic was created or changed
	TopicDeleteRecord Type = 3 // a topic was deleted; Record.Queue.Topic says which
	GroupRecord       Type = 4 // a group was created or changed
	GroupDeleteRecord Type = 5
	OffsetsRecord     Type = 6  // consumer offsets of a group
	LeasesRecord      Type = 7  // leases given or ended
	TimerRecord       Type = 8  // messages that wait for their time
	RecallRecord      Type = 9  // one of them was taken back
	HalfRecord        Type = 10 // messages that wait for their producer's decision
	DecisionRecord    Type = 11 // one of them was rolled back, or its producers were asked
	CarryRecord       Type = 12 // messages of a timer or half record, once more, so that the older record can go
	QuotaRecord       Type = 13 // a quota was set
	PopRecord         Type = 14 // messages were handed out to a member of a group
	AckRecord         Type = 15 // some of them were acknowledged, or given another time
	SubscribeRecord   Type = 16 // the members of a group subscribe otherwise than before
)

// MaxRecordBytes bounds one record.
const MaxRecordBytes = 8 << 20

// QueueKey is a queue as the log knows it: the topic's number, which is never
// used again after the topic was deleted, and the queue within the topic.
type QueueKey struct {
	Topic uint64
	Queue uint32
}

// Record is one entry of the log. The log keeps Data until the record was
// applied; the caller does not touch it after Append.
type Record struct {
	Type Type
	// Queue is set for a BatchRecord, and for records of messages that are held
	// back: they are not in the queue. Its Topic also for a TopicDeleteRecord.
	Queue QueueKey
	// Count and TagHash are the batch's, from its header.
	Count   uint32
	TagHash uint32
	Data    []byte
	// Waits says that done waits for the disk and the views with AsyncFlush, too.
	Waits bool
}

// Committed is a record that is on disk, with what the log gave it.
type Committed struct {
	Record
	// Index is the record's place in the log, from 1.
	Index uint64
	// BaseOffset is the queue offset of a batch's first message.
	BaseOffset int64
	// StoreMillis is when the log took the record, in Unix milliseconds; it never
	// decreases within a log.
	StoreMillis int64
}

// Located says where a record of messages that are held back stands. Such a
// record is carried forward before its segment is dropped.
type Located struct {
	Origin uint64 // the log index that it had first
	At     uint64 // the log index that it has now
	Bytes  uint32 // of its data, at Origin
}
