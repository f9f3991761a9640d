//go:build linux

// Package crash runs a program that writes to a log in a process of its own,
// ends the process at a chosen moment, and checks what is left. The program is
// the one that is running: it calls Main in the child.
//
// Every message is known by its queue and offset alone, so that a check needs
// nothing but the offsets that were acknowledged. The package owns the processes
// that it starts and no directory.
package crash

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

const (
	// Queues of the one topic that is written to.
	Queues    = 4
	topicName = "crash"
	topicID   = 7
)

func queueKey(queue int) store.QueueKey { return store.QueueKey{Topic: topicID, Queue: uint32(queue)} }

// body is the message at an offset of a queue.
func body(queue int, offset int64) []byte {
	random := rand.New(rand.NewPCG(uint64(queue), uint64(offset)))
	size := 24 + random.IntN(700)
	if random.IntN(40) == 0 {
		size *= 12 // a chunk of several pages
	}
	b := make([]byte, size)
	for i := copy(b, fmt.Sprintf("q%d-%d ", queue, offset)); i < len(b); i++ {
		b[i] = byte('a' + random.IntN(26))
	}
	return b
}

func messageAt(queue int, offset int64) *message.Message {
	return &message.Message{
		Topic: topicName, ID: message.MakeID(uint64(queue+1), uint64(offset)), BornTime: time.UnixMilli(1700000000000),
		Keys: []string{fmt.Sprint("key-", offset%64)}, Body: body(queue, offset),
	}
}

// record is a batch of messages of a queue.
func record(queue int, first int64, count int) store.Record {
	b := batch.NewBuilder(topicName, queue)
	for i := range count {
		b.Add(messageAt(queue, first+int64(i)))
	}
	data := b.Finish()
	return store.Record{Type: store.BatchRecord, Queue: queueKey(queue), Count: uint32(count), Data: data}
}

// readQueue reads a queue from its first offset to its end: offsets are dense,
// and every message is the one that belongs there.
func readQueue(l *store.Log, queue int) (first, end int64, err error) {
	first, end = l.Bounds(queueKey(queue))
	for next := first; next < end; {
		b, err := l.Read(queueKey(queue), next, 1<<20, 0)
		if err != nil {
			return first, next, err
		}
		if next, err = checkBatches(b.Data, queue, next); err != nil {
			return first, next, err
		}
		if next != b.Next {
			return first, next, fmt.Errorf("queue %d: batches end at %d, the log says %d", queue, next, b.Next)
		}
	}
	return first, end, nil
}

func checkBatches(data []byte, queue int, next int64) (int64, error) {
	if len(data) == 0 {
		return next, fmt.Errorf("queue %d: nothing at offset %d, which is below the end", queue, next)
	}
	for len(data) > 0 {
		found, rest, err := batch.Decode(nil, data, "")
		if err != nil {
			return next, err
		}
		for _, m := range found {
			if m.QueueOffset < next {
				continue // the batch begins before what was asked for
			}
			if err := checkMessage(&m, queue, next); err != nil {
				return next, err
			}
			next++
		}
		data = rest
	}
	return next, nil
}

var errWrongMessage = errors.New("wrong message")

func checkMessage(m *message.Stored, queue int, offset int64) error {
	want := messageAt(queue, offset)
	if m.QueueOffset == offset && m.ID == want.ID && bytes.Equal(m.Body, want.Body) {
		return nil
	}
	return fmt.Errorf("%w: queue %d offset %d has %v at %d, %.24q", errWrongMessage, queue, offset, m.ID, m.QueueOffset, m.Body)
}
