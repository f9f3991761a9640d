// Package meter counts what goes into a broker and out of it, by topic and by
// group, and how far members have been given each queue. It owns numbers and
// nothing else: they begin with 0 at every start of the broker, nobody is told of
// them, and whoever wants them reads them.
//
// Counting is a look into a map and a few atomic additions for a batch. The number
// of topics and of groups in topics that are counted is bounded; what comes beyond
// is counted together.
package meter

import (
	"math/bits"
	"sync/atomic"
)

// Limit is how many topics, and how many groups in topics, are counted by
// themselves.
const Limit = 10_000

// Kind is what messages are, in the words of RocketMQ's label message_type.
type Kind uint8

// The kinds.
const (
	Normal Kind = iota
	FIFO
	Delay
	Transaction
	Priority
	kinds
)

func (k Kind) String() string {
	return [kinds]string{"normal", "fifo", "delay", "transaction", "priority"}[k]
}

// Traffic is messages and their bytes, as they are stored.
type Traffic struct{ Messages, Bytes int64 }

// traffic is Traffic that is counted.
type traffic struct{ messages, bytes atomic.Int64 }

func (t *traffic) add(messages, bytes int64) {
	t.messages.Add(messages)
	t.bytes.Add(bytes)
}

func (t *traffic) read() Traffic {
	return Traffic{Messages: t.messages.Load(), Bytes: t.bytes.Load()}
}

// Sizes is how many messages are of at most so many bytes and more than those of
// the place before; the last place has the larger ones. SizeBounds are the bytes.
type Sizes [7]int64

// SizeBounds are RocketMQ's buckets of rocketmq_message_size, in bytes.
func SizeBounds() []float64 {
	return []float64{1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20}
}

// sizePlace is the place of a size in Sizes.
func sizePlace(bytes int64) int {
	switch doubled := bits.Len64(uint64(max(bytes-1, 0))); { // 2^doubled is the next power of two
	case doubled <= 10:
		return 0
	case doubled <= 12:
		return 1
	case doubled <= 19:
		return 2
	default:
		return min(doubled-17, len(Sizes{})-1)
	}
}

// Meters are all counters of a broker. They are safe for concurrent use.
type Meters struct {
	topics table[uint64, topicMeter]
	groups table[groupKey, groupMeter]
	dead   table[deadKey, atomic.Int64]
}

// New returns counters that stand at 0.
func New() *Meters {
	return &Meters{
		topics: newTable[uint64, topicMeter](Limit), groups: newTable[groupKey, groupMeter](Limit),
		dead: newTable[deadKey, atomic.Int64](Limit),
	}
}

// topicMeter counts for a topic.
type topicMeter struct {
	in                    [kinds]inflow
	held, released        atomic.Int64
	committed, rolledBack atomic.Int64
}

type inflow struct {
	traffic
	sizes [7]atomic.Int64
}

// Stored counts a batch that producers have sent to a topic.
func (m *Meters) Stored(topic uint64, k Kind, messages, bytes int) {
	if messages <= 0 {
		return
	}
	in := &m.topics.of(topic).in[k]
	in.add(int64(messages), int64(bytes))
	in.sizes[sizePlace(int64(bytes/messages))].Add(int64(messages))
}

// Held counts messages of a topic that are to wait for their time.
func (m *Meters) Held(topic uint64, messages int) { m.topics.of(topic).held.Add(int64(messages)) }

// Released counts those whose time has come.
func (m *Meters) Released(topic uint64, messages int) {
	m.topics.of(topic).released.Add(int64(messages))
}

// Decided counts a half message of a topic that was committed or rolled back.
func (m *Meters) Decided(topic uint64, committed bool) {
	t := m.topics.of(topic)
	if committed {
		t.committed.Add(1)
	} else {
		t.rolledBack.Add(1)
	}
}

// Topic is what was counted for a topic.
type Topic struct {
	// ID is the topic's; 0 for the topics beyond the limit together.
	ID                    uint64
	In                    [kinds]Traffic // by Kind
	Sizes                 [kinds]Sizes
	Held, Released        int64
	Committed, RolledBack int64
}

// Topics returns what was counted, in no order, and forgets those that there
// are no more.
func (m *Meters) Topics(exists func(topic uint64) bool) (list []Topic) {
	m.topics.each(exists, func(id uint64, t *topicMeter) {
		c := Topic{ID: id, Held: t.held.Load(), Released: t.released.Load(), Committed: t.committed.Load(), RolledBack: t.rolledBack.Load()}
		for k := range t.in {
			c.In[k] = t.in[k].read()
			for i := range t.in[k].sizes {
				c.Sizes[k][i] = t.in[k].sizes[i].Load()
			}
		}
		list = append(list, c)
	})
	return list
}
