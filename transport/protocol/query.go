package protocol

import "encoding/binary"

// MaxQueryMessages bounds the messages that one query answers.
const MaxQueryMessages = 1024

// QueryMessagesRequest looks for messages by one of: Topic and Key, ID, or
// LogIndex. It is JSON.
type QueryMessagesRequest struct {
	Topic string `json:"topic,omitempty"`
	Key   string `json:"key,omitempty"`
	// ID is a message id.
	ID string `json:"id,omitempty"`
	// LogIndex is a record of the broker's log, which holds a batch.
	LogIndex uint64 `json:"logIndex,omitempty"`
	// Max is how many messages are wanted: 1 to MaxQueryMessages. What one record
	// has is not cut, so that some more may come.
	Max int `json:"max"`
	// Before, when not 0, is the Next of the answer before: the query goes on.
	Before uint64 `json:"before,omitempty"`
}

func (*QueryMessagesRequest) RequestCode() Code { return QueryMessages }

// QueryMessagesResponse has the matches of one or more records of the log.
type QueryMessagesResponse struct {
	// Next goes into Before of the next query; 0 when there is nothing older.
	Next uint64
	// Damage says what could not be searched; empty when everything was.
	Damage string
	// Batches have the messages, newest record first. A message that matches is a
	// batch of its own, or the batch that it was stored in is there as a whole,
	// where that is smaller: it may hold messages that do not match.
	Batches []byte
}

// AppendBinary implements encoding.BinaryAppender.
func (r *QueryMessagesResponse) AppendBinary(dst []byte) ([]byte, error) {
	dst = binary.AppendUvarint(dst, r.Next)
	dst = appendString(dst, r.Damage)
	return append(binary.AppendUvarint(dst, uint64(len(r.Batches))), r.Batches...), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. Batches share b's memory.
func (r *QueryMessagesResponse) UnmarshalBinary(b []byte) error {
	f := fields{b: b}
	r.Next, r.Damage, r.Batches = f.uvarint(), f.string(), f.bytes()
	return f.end(r)
}
