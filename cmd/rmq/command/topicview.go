package command

import (
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

// topicView is a topic with its queues. The fields are API.
type topicView struct {
	Topic       string `json:"topic"`
	Perm        string `json:"perm"`
	ReadQueues  int    `json:"readQueues"`
	WriteQueues int    `json:"writeQueues"`
	Retention   string `json:"retention"`
	// KeepUntilConsumed says that every broker does so.
	KeepUntilConsumed bool `json:"keepUntilConsumed"`
	// Type, MessagesPerSecond and BytesPerSecond are as in topicRow.
	Type              string            `json:"type"`
	MessagesPerSecond int64             `json:"messagesPerSecond"`
	BytesPerSecond    int64             `json:"bytesPerSecond"`
	Messages          int64             `json:"messages"`
	Brokers           []topicBrokerView `json:"brokers"`
	Queues            []queueRow        `json:"queues"`
}

// topicBrokerView is a topic's settings on one broker. The fields are API.
type topicBrokerView struct {
	Broker string `json:"broker"`
	topicSettings
}

// queueRow is where one queue begins and ends. The fields are API.
type queueRow struct {
	Topic    string `json:"topic"`
	Broker   string `json:"broker"`
	Queue    int    `json:"queue"`
	Min      int64  `json:"min"`
	End      int64  `json:"end"`
	Messages int64  `json:"messages"`
	// FirstStoreTime and LastStoreTime are when the oldest message that is there was
	// stored, and the newest; null for none.
	FirstStoreTime *time.Time `json:"firstStoreTime"`
	LastStoreTime  *time.Time `json:"lastStoreTime"`
}

func newTopicView(t *admin.Topic) *topicView {
	row := newTopicRow(*t)
	v := &topicView{
		Topic: t.Name, Perm: row.Perm, ReadQueues: row.ReadQueues, WriteQueues: row.WriteQueues,
		Retention: row.Retention, KeepUntilConsumed: row.KeepUntilConsumed,
		Type: row.Type, MessagesPerSecond: row.MessagesPerSecond, BytesPerSecond: row.BytesPerSecond,
		Brokers: []topicBrokerView{}, Queues: []queueRow{},
	}
	for _, b := range t.Brokers {
		v.Brokers = append(v.Brokers, topicBrokerView{Broker: b.Broker, topicSettings: *newTopicSettings(&b.TopicConfig)})
		for _, q := range b.Queues {
			r := newQueueRow(t.Name, b.Broker, q)
			v.Messages += r.Messages
			v.Queues = append(v.Queues, r)
		}
	}
	return v
}

func newQueueRow(topic, broker string, q protocol.QueueStatus) queueRow {
	return queueRow{
		Topic: topic, Broker: broker, Queue: q.Queue, Min: q.Min, End: q.End,
		Messages: q.End - q.Min, FirstStoreTime: moment(q.FirstStoreMillis), LastStoreTime: moment(q.LastStoreMillis),
	}
}

func queueTable() table[queueRow] {
	return table[queueRow]{
		name: func(r queueRow) string { return r.Topic + "/" + r.Broker + "/" + number(r.Queue) },
		columns: []column[queueRow]{
			{title: "BROKER", cell: func(r queueRow) string { return r.Broker }},
			{title: "QUEUE", cell: func(r queueRow) string { return number(r.Queue) }},
			{title: "MIN", cell: func(r queueRow) string { return number(r.Min) }},
			{title: "END", cell: func(r queueRow) string { return number(r.End) }},
			{title: "MESSAGES", cell: func(r queueRow) string { return number(r.Messages) }},
			{title: "LAST STORED", cell: func(r queueRow) string { return momentText(r.LastStoreTime) }},
		},
	}
}
