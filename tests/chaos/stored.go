//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// content is what a topic holds, by queue and offset.
type content map[message.Queue][]sent

// queueReader reads one queue to its end, past what is damaged.
type queueReader struct {
	client  *client.Client
	queue   message.Queue
	first   int64 // offset of found[0]
	found   []sent
	damaged []int64 // offsets that were refused
}

// readTopic reads all of a topic. known is how far each queue reaches at least,
// if that is known: a refusal there is not the end.
func readTopic(ctx context.Context, nameServer string, known map[message.Queue]int64) (readers []*queueReader, err error) {
	c, err := client.New(ctx, client.Config{NameServers: []string{nameServer}})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	route, err := c.Route(ctx, loadTopic)
	if err != nil {
		return nil, err
	}
	for _, q := range route.ReadQueues() {
		r := &queueReader{client: c, queue: q}
		if err := r.read(ctx, known[q]); err != nil {
			return readers, fmt.Errorf("%v: %w", q, err)
		}
		readers = append(readers, r)
	}
	return readers, nil
}

// read goes from offset to offset. Only damage is passed over, and only up to
// what is known to have been there.
func (r *queueReader) read(ctx context.Context, known int64) error {
	for next := int64(0); ; {
		got, err := r.pull(ctx, next)
		switch {
		case err == nil && got == nil:
			return nil
		case err == nil:
			if next, err = r.take(got.Batches, next); err != nil {
				return err
			}
		case errors.Is(err, protocol.OffsetOutOfRange) && got != nil && got.Min > next && len(r.found)+len(r.damaged) == 0:
			r.first, next = got.Min, got.Min // retention
		case errors.Is(err, protocol.Damaged):
			r.damaged = append(r.damaged, next)
			if next++; next > known {
				return nil
			}
			r.found = append(r.found, sent{sender: -1})
		default:
			return fmt.Errorf("at offset %d: %w", next, err)
		}
	}
}

// pull asks for what begins at an offset; nothing is the queue's end.
func (r *queueReader) pull(ctx context.Context, offset int64) (*protocol.PulledQueue, error) {
	resp, err := client.Call[protocol.PullResponse](ctx, r.client, r.queue.Broker, protocol.ClassPull, &protocol.PullRequest{
		MaxBytes: 1 << 20, Queues: []protocol.PullQueue{{Topic: r.queue.Topic, Queue: r.queue.ID, Offset: offset}},
	})
	if err != nil || len(resp.Queues) == 0 {
		return nil, err
	}
	got := &resp.Queues[0]
	if got.Err != nil {
		return got, got.Err
	}
	return got, nil
}

// take checks messages: dense offsets, and bodies that somebody sent.
func (r *queueReader) take(batches []byte, next int64) (int64, error) {
	for len(batches) > 0 {
		var messages []message.Stored
		var err error
		if messages, batches, err = batch.Decode(nil, batches, r.queue.Broker); err != nil {
			return next, err
		}
		for i := range messages {
			m := &messages[i]
			if m.QueueOffset < next {
				continue
			}
			s, err := parseSent(m.Body)
			if err != nil || m.QueueOffset != next {
				return next, fmt.Errorf("offset %d where %d belongs: %w", m.QueueOffset, next, err)
			}
			r.found = append(r.found, s)
			next++
		}
	}
	return next, nil
}

// checkStored reads the topic and looks for everything that was acknowledged.
// What retention dropped from a queue's start is counted apart. Messages of one
// sender are stored in their order, none of them twice.
func checkStored(ctx context.Context, nameServer string, acked map[place]sent) (lost, dropped int64, err error) {
	readers, err := readTopic(ctx, nameServer, nil)
	if err != nil {
		return 0, 0, err
	}
	byQueue := map[message.Queue]*queueReader{}
	for _, r := range readers {
		byQueue[r.queue] = r
		if len(r.damaged) > 0 {
			return 0, 0, fmt.Errorf("%v: damaged at %v", r.queue, r.damaged)
		}
		if err := r.inOrder(); err != nil {
			return 0, 0, err
		}
	}
	for p, want := range acked {
		r := byQueue[p.queue]
		switch {
		case r == nil || p.offset >= r.first+int64(len(r.found)):
			lost++
		case p.offset < r.first:
			dropped++
		case r.found[p.offset-r.first] != want:
			return lost, dropped, fmt.Errorf("%v at %d: got %v, want %v", p.queue, p.offset, r.found[p.offset-r.first], want)
		}
	}
	return lost, dropped, nil
}

func (r *queueReader) inOrder() error {
	highest := map[int]int{}
	for i, m := range r.found {
		if before, ok := highest[m.sender]; ok && m.seq <= before {
			return fmt.Errorf("%v offset %d: message %d of sender %d comes after its message %d", r.queue, r.first+int64(i), m.seq, m.sender, before)
		}
		highest[m.sender] = m.seq
	}
	return nil
}
