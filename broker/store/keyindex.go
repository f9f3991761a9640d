package store

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// keyRow says that a batch has a message with a key of this hash.
type keyRow struct {
	hash  uint64 // keyHash
	index uint64 // log index of the batch
}

// idRow says that a batch has messages of a producer instance, with counters
// within low and high. A producer's messages take turns over queues, so that
// rows of an instance overlap: a few batches are looked at for one id.
type idRow struct{ instance, low, high, index uint64 }

const (
	keyRowBytes = 16
	idRowBytes  = 32
)

// keyHash is FNV-1a 64 over the topic's number and the key.
func keyHash[K string | []byte](topic uint64, key K) uint64 {
	h := uint64(14695981039346656037)
	for i := range 8 {
		h = (h ^ (topic >> (8 * i) & 0xff)) * 1099511628211
	}
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return h
}

// keyIndex is the key index of a segment that is not sealed. The applier adds,
// queries look through all of it: no order is kept on the path of messages.
type keyIndex struct {
	mu   sync.RWMutex
	keys []keyRow
	ids  []idRow
}

// add enters the batches of a chunk. The error says which is entered in part only.
func (x *keyIndex) add(c *chunk) (first error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range c.rows() {
		r := c.row(i)
		if r.Type != BatchRecord {
			continue
		}
		if err := x.addLocked(r.Queue.Topic, r.Index, c.data[r.pos:r.pos+r.len]); err != nil && first == nil {
			first = fmt.Errorf("record %d: %w", r.Index, err)
		}
	}
	return first
}

func (x *keyIndex) addLocked(topic, index uint64, data []byte) error {
	firstKey, firstID := len(x.keys), len(x.ids)
	return batch.Scan(data, func(id message.ID, keys [][]byte) {
		x.addID(firstID, id, index)
		for _, k := range keys {
			x.addKey(firstKey, keyRow{keyHash(topic, k), index})
		}
	})
}

func (x *keyIndex) addID(first int, id message.ID, index uint64) {
	n, c := len(x.ids)-1, id.Counter()
	if n >= first && x.ids[n].instance == id.Instance() {
		x.ids[n].low, x.ids[n].high = min(x.ids[n].low, c), max(x.ids[n].high, c)
		return
	}
	x.ids = append(x.ids, idRow{id.Instance(), c, c, index})
}

// addKey leaves out what the batch has just added: batches of one message group
// often have one key.
func (x *keyIndex) addKey(first int, r keyRow) {
	const recent = 8
	if !slices.Contains(x.keys[max(first, len(x.keys)-recent):], r) {
		x.keys = append(x.keys, r)
	}
}

// byKey hands over the rows, of which those of one key are in descending order.
func (x *keyIndex) byKey(k *keyRows) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, r := range slices.Backward(x.keys) {
		if !k.take(r) {
			return
		}
	}
}

// byID returns the log indexes of batches that may have the message.
func (x *keyIndex) byID(id message.ID) (found []uint64) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, r := range x.ids {
		if r.instance == id.Instance() && r.low <= id.Counter() && id.Counter() <= r.high {
			found = append(found, r.index)
		}
	}
	return found
}

// sort puts the rows in the order of their blocks, when nothing is added any more.
func (x *keyIndex) sort() {
	x.mu.Lock()
	defer x.mu.Unlock()
	slices.SortFunc(x.keys, keyRow.compare)
	slices.SortFunc(x.ids, idRow.compare)
}

func (r keyRow) compare(o keyRow) int {
	if r.hash != o.hash {
		return cmp.Compare(r.hash, o.hash)
	}
	return cmp.Compare(r.index, o.index)
}

func (r idRow) compare(o idRow) int {
	switch {
	case r.instance != o.instance:
		return cmp.Compare(r.instance, o.instance)
	case r.low != o.low:
		return cmp.Compare(r.low, o.low)
	}
	return cmp.Compare(r.index, o.index)
}

func appendKeyRow(b []byte, r keyRow) []byte {
	le := binary.LittleEndian
	return le.AppendUint64(le.AppendUint64(b, r.hash), r.index)
}

func readKeyRow(b []byte) keyRow {
	le := binary.LittleEndian
	return keyRow{le.Uint64(b), le.Uint64(b[8:])}
}

func appendIDRow(b []byte, r idRow) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(le.AppendUint64(b, r.instance), r.low)
	return le.AppendUint64(le.AppendUint64(b, r.high), r.index)
}

func readIDRow(b []byte) idRow {
	le := binary.LittleEndian
	return idRow{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:])}
}

func (r keyRow) key() []byte {
	k := binary.BigEndian.AppendUint64([]byte{'k'}, r.hash)
	return binary.BigEndian.AppendUint64(k, r.index)
}

func (r idRow) key() []byte {
	k := binary.BigEndian.AppendUint64([]byte{'i'}, r.instance)
	k = binary.BigEndian.AppendUint64(k, r.low)
	return binary.BigEndian.AppendUint64(k, r.index)
}

// bloom is the filter over all rows.
func (x *keyIndex) bloom() bloom {
	b := newBloom(len(x.keys) + len(x.ids))
	for _, r := range x.keys {
		b.add(r.hash)
	}
	for _, r := range x.ids {
		b.add(r.instance)
	}
	return b
}
