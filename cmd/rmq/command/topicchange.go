package command

import (
	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

// topicSettings are a topic's settings on one broker. The fields are API.
type topicSettings struct {
	ReadQueues  int    `json:"readQueues"`
	WriteQueues int    `json:"writeQueues"`
	Perm        string `json:"perm"`
	// Retention is default, forever or a duration.
	Retention         string `json:"retention"`
	KeepUntilConsumed bool   `json:"keepUntilConsumed"`
	Type              string `json:"type"`
	MessagesPerSecond int64  `json:"messagesPerSecond"`
	BytesPerSecond    int64  `json:"bytesPerSecond"`
}

func newTopicSettings(c *protocol.TopicConfig) *topicSettings {
	if c == nil {
		return nil
	}
	return &topicSettings{
		ReadQueues: c.ReadQueues, WriteQueues: c.WriteQueues, Perm: c.Perm.String(),
		Retention: retentionText(c.RetentionMillis), KeepUntilConsumed: c.KeepUntilConsumed,
		Type: typeText(c.Type), MessagesPerSecond: c.Quota.MessagesPerSecond, BytesPerSecond: c.Quota.BytesPerSecond,
	}
}

// topicChangeRow is what happened to a topic on one broker. The fields are API.
type topicChangeRow struct {
	Topic  string         `json:"topic"`
	Broker string         `json:"broker"`
	Action string         `json:"action"`
	DryRun bool           `json:"dryRun"`
	Before *topicSettings `json:"before"`
	After  *topicSettings `json:"after"`
}

func (a *app) printTopicChanges(topic string, changes []admin.TopicChange, dryRun bool) error {
	rows := make([]topicChangeRow, len(changes))
	for i, c := range changes {
		rows[i] = topicChangeRow{
			Topic: topic, Broker: c.Broker, Action: actionOf(c.Before, c.After), DryRun: dryRun,
			Before: newTopicSettings(c.Before), After: newTopicSettings(c.After),
		}
	}
	return printList(a, rows, topicChangeTable())
}

// actionOf names a change by what was there before and is there after.
func actionOf[T comparable](before, after *T) string {
	switch {
	case before == nil:
		return "create"
	case after == nil:
		return "delete"
	case *before == *after:
		return "none"
	}
	return "alter"
}

func topicChangeTable() table[topicChangeRow] {
	setting := func(pick func(*topicSettings) string) func(topicChangeRow) string {
		return func(r topicChangeRow) string { return transition(r.Before, r.After, pick) }
	}
	return table[topicChangeRow]{
		name: func(r topicChangeRow) string { return r.Topic },
		columns: []column[topicChangeRow]{
			{title: "TOPIC", cell: func(r topicChangeRow) string { return r.Topic }},
			{title: "BROKER", cell: func(r topicChangeRow) string { return r.Broker }},
			{title: "ACTION", cell: func(r topicChangeRow) string { return actionText(r.Action, r.DryRun) }},
			{title: "READ", cell: setting(func(s *topicSettings) string { return number(s.ReadQueues) })},
			{title: "WRITE", cell: setting(func(s *topicSettings) string { return number(s.WriteQueues) })},
			{title: "PERM", cell: setting(func(s *topicSettings) string { return s.Perm })},
			{title: "RETENTION", cell: setting(func(s *topicSettings) string { return s.Retention })},
			{title: "KEEP", cell: setting(func(s *topicSettings) string { return keepText(s.KeepUntilConsumed) })},
			{title: "TYPE", cell: setting(func(s *topicSettings) string { return s.Type })},
			{title: "MESSAGES/S", cell: setting(func(s *topicSettings) string { return boundText(s.MessagesPerSecond) })},
			{title: "BYTES/S", cell: setting(func(s *topicSettings) string { return boundText(s.BytesPerSecond) })},
		},
	}
}

func actionText(action string, dryRun bool) string {
	if dryRun {
		return action + " (dry run)"
	}
	return action
}

// transition shows one setting: its value, or before->after when it changed.
func transition[T any](before, after *T, pick func(*T) string) string {
	switch {
	case before == nil && after == nil:
		return ""
	case before == nil:
		return pick(after)
	case after == nil, pick(before) == pick(after):
		return pick(before)
	}
	return pick(before) + "->" + pick(after)
}
