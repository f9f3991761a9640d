package broker

import (
	"fmt"
	"slices"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// releaseBytes is about how large a batch of released messages may be. It is far
// below batch.MaxBytes, because messages grow by their times; one message always
// fits.
const releaseBytes = 1 << 20

// releasesOf makes the records that show messages of a timer record, which show
// and forget them at once. There are none when their topic is gone.
func (t *timers) releasesOf(d *dueRecord, r store.Committed) ([]store.Record, error) {
	h, err := openHeld(r)
	if err == nil && (h.Type != store.TimerRecord || h.Origin != d.pending.Origin) {
		err = fmt.Errorf("%w: record %d of type %d holds no messages of record %d", store.ErrDamaged, r.Index, r.Type, d.pending.Origin)
	}
	if err != nil {
		return nil, err
	}
	millis, b, err := timer.Decode(h.Data)
	if err != nil {
		return nil, err
	}
	all, _, err := batch.Decode(nil, b, "")
	if err != nil {
		return nil, err
	}
	to, ok := t.state.topics.ByID(d.pending.Topic)
	if !ok {
		return nil, nil
	}
	slices.Sort(d.positions)
	if last := d.positions[len(d.positions)-1]; last >= len(all) || last >= len(millis) {
		return nil, fmt.Errorf("%w: record %d has %d messages, and no message %d", store.ErrDamaged, r.Index, len(all), last)
	}
	messages := make([]*message.Message, len(d.positions))
	for i, position := range d.positions {
		m := &all[position].Message
		if m.Origin == nil { // else it is a copy as it is
			m.DeliverAt, m.Delay, m.DelayLevel, m.CheckImmunity = time.UnixMilli(millis[position]), 0, 0, 0
		}
		messages[i] = m
	}
	return releases(to, int(d.pending.Queue), batch.Release{Origin: h.Origin, Positions: d.positions}, messages), nil
}

// releases makes the records that show messages in a queue of a topic: one, or
// as many as their size takes. A queue that the topic has no more is replaced by
// another.
func releases(to topic.Topic, queue int, r batch.Release, messages []*message.Message) (records []store.Record) {
	if n := max(to.WriteQueues, 1); queue >= n {
		queue %= n
	}
	for len(messages) > 0 {
		n := fitting(messages)
		b := batch.NewBuilder("", 0)
		b.Begin(&batch.Lead{Topic: to.Name, Queue: queue, Release: batch.Release{Origin: r.Origin, Positions: r.Positions[:n]}})
		for _, m := range messages[:n] {
			b.Add(m)
		}
		data := b.Finish()
		h, _ := batch.ParseHeader(data) // it was just made
		key := store.QueueKey{Topic: to.ID, Queue: uint32(queue)}
		records = append(records, store.Record{Type: store.BatchRecord, Queue: key, Count: uint32(n), TagHash: h.TagHash, Data: data, Waits: true})
		messages, r.Positions = messages[n:], r.Positions[n:]
	}
	return records
}

// fitting is how many of the messages go into one batch.
func fitting(messages []*message.Message) (n int) {
	const others = 256 // what every message has: id, times, lengths
	for size := 0; n < len(messages); n++ {
		// Each name, value and key has a length of up to three bytes beside the one or
		// two separators that count.
		size += len(messages[n].Body) + 3*messages[n].PropertiesBytes() + others
		if n > 0 && size > releaseBytes {
			break
		}
	}
	return n
}
