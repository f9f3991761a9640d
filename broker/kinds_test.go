package broker

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// headerOf is what a broker sees of a batch.
func headerOf(t *testing.T, purpose batch.Purpose, messages ...message.Message) *batch.Header {
	t.Helper()
	b := batch.NewBuilder("t", 0)
	b.Begin(&batch.Lead{Topic: "t", Purpose: purpose})
	for i := range messages {
		messages[i].ID, messages[i].BornTime = message.MakeID(1, uint64(i)), time.UnixMilli(1)
		b.Add(&messages[i])
	}
	h, err := batch.Check(b.Finish())
	if err != nil {
		t.Fatal(err)
	}
	return &h
}

// Each type takes batches of its kind and no others.
func TestCheckKind(t *testing.T) {
	plain, keyed := message.Message{}, message.Message{DedupKey: "k"}
	grouped, urgent := message.Message{Group: "g"}, message.Message{Priority: 3}
	delayed, urgentLater := message.Message{Delay: time.Second}, message.Message{Delay: time.Second, Priority: 3}
	all := []message.Kind{message.Normal, message.FIFO, message.Delayed, message.Transaction, message.Priority}
	for _, c := range []struct {
		what     string
		purpose  batch.Purpose
		messages []message.Message
		takes    []message.Kind // beside Mixed
		says     string
	}{
		{"plain", batch.ToQueue, []message.Message{plain, plain}, []message.Kind{message.Normal, message.Priority}, "a message without group, delay or priority"},
		{"some with a deduplication key", batch.ToQueue, []message.Message{plain, keyed}, []message.Kind{message.Normal, message.Priority}, "a message without group"},
		{"of a group", batch.ToQueue, []message.Message{grouped, grouped}, []message.Kind{message.FIFO}, "a message with a group"},
		{"some of a group", batch.ToQueue, []message.Message{grouped, plain}, nil, "some of which have a group"},
		{"some of a group, the last one", batch.ToQueue, []message.Message{plain, grouped}, nil, "some of which have a group"},
		{"of a priority", batch.ToQueue, []message.Message{urgent}, []message.Kind{message.Priority}, "a message with a priority"},
		{"some of a priority", batch.ToQueue, []message.Message{plain, urgent}, []message.Kind{message.Priority}, "some of which have a priority"},
		{"groups and priorities", batch.ToQueue, []message.Message{grouped, urgent}, nil, "some of which have a group and a priority"},
		{"delayed", batch.ToTimer, []message.Message{delayed}, []message.Kind{message.Delayed}, "a message with a delay"},
		{"delayed, of a priority", batch.ToTimer, []message.Message{urgentLater}, []message.Kind{message.Delayed}, "a message with a priority and a delay"},
		{"delayed, but to its queue", batch.ToQueue, []message.Message{delayed}, nil, "a message with a delay"},
		{"some delayed", batch.ToTimer, []message.Message{delayed, plain}, nil, "some of which have a delay"},
		{"half", batch.ToTransaction, []message.Message{plain}, []message.Kind{message.Transaction}, "a half message of a transaction"},
		{"half, of a group", batch.ToTransaction, []message.Message{grouped}, []message.Kind{message.Transaction}, "a half message of a transaction with a group"},
	} {
		h := headerOf(t, c.purpose, c.messages...)
		takes := map[message.Kind]bool{message.Mixed: true, "": true}
		for _, k := range c.takes {
			takes[k] = true
		}
		for _, kind := range append(all, message.Mixed, "") {
			err := checkKind(&topic.Topic{TopicConfig: protocol.TopicConfig{Name: "orders", Type: kind}}, h)
			if takes[kind] {
				if err != nil {
					t.Errorf("%s: type %q: %v", c.what, kind, err)
				}
				continue
			}
			want := `topic "orders" is of type ` + string(kind)
			if !errors.Is(err, protocol.IllegalMessage) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: type %q: got %v, want %q and %q", c.what, kind, err, want, c.says)
			}
		}
	}
}
