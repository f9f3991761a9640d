package store

import (
	"sort"
	"sync"
)

// newestChunks keeps the data of the newest chunks in memory for readers, up to a
// number of bytes. The applier adds; readers lock and unlock. The buffers of what
// goes serve new chunks: a commit of megabytes would else make as much garbage.
type newestChunks struct {
	limit int64
	free  chan []byte // buffers of reusedBytes

	mu     sync.RWMutex // held while data of a chunk is read
	held   int64
	chunks []heldChunk // oldest first
}

type heldChunk struct {
	first uint64 // its log index
	data  []byte
}

// reusedBytes is the capacity of the buffers that are used again: that of the
// largest commits, and of all that are at least a quarter of it.
const reusedBytes = maxCommitBytes

func newNewest(limit int64) *newestChunks {
	return &newestChunks{limit: limit, free: make(chan []byte, 4)}
}

// buffer returns an empty buffer with room for a chunk's data.
func (c *newestChunks) buffer(size int) []byte {
	if size < reusedBytes/4 || size > reusedBytes {
		return make([]byte, 0, size)
	}
	select {
	case b := <-c.free:
		return b[:0]
	default:
		return make([]byte, 0, reusedBytes)
	}
}

// add takes a chunk.
func (c *newestChunks) add(ch *chunk) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chunks = append(c.chunks, heldChunk{ch.first, ch.data})
	c.held += int64(cap(ch.data))
}

// trim forgets the oldest chunks until the rest is within the limit. Nobody holds
// data of chunks that were added but readers.
func (c *newestChunks) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.held > c.limit {
		c.dropOldestLocked()
	}
}

func (c *newestChunks) dropOldestLocked() {
	b := c.chunks[0].data
	c.chunks[0].data = nil
	c.chunks = c.chunks[1:]
	c.held -= int64(cap(b))
	if cap(b) != reusedBytes {
		return
	}
	select {
	case c.free <- b:
	default:
	}
}

// lock returns the data of a chunk, which is valid until unlock; nil when it is
// not in memory, and then there is nothing to unlock.
func (c *newestChunks) lock(chunk uint64) []byte {
	if c == nil {
		return nil
	}
	c.mu.RLock()
	i := sort.Search(len(c.chunks), func(i int) bool { return c.chunks[i].first >= chunk })
	if i < len(c.chunks) && c.chunks[i].first == chunk {
		return c.chunks[i].data
	}
	c.mu.RUnlock()
	return nil
}

func (c *newestChunks) unlock() { c.mu.RUnlock() }
