package store

import (
	"bytes"
	"sync"
	"sync/atomic"
	"testing"
)

// TestNewestChunks_BuffersOfReadersAreTheirs has readers look at the newest chunks
// while their buffers serve new ones: what a reader sees never changes under it.
func TestNewestChunks_BuffersOfReadersAreTheirs(t *testing.T) {
	c := newNewest(3 * reusedBytes)
	const chunks, size = 200, reusedBytes / 4
	var last atomic.Uint64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for first := last.Load(); first < chunks; first = last.Load() {
				data := c.lock(max(first, 3) - 2) // it may be about to go
				if data == nil {
					continue
				}
				if data[0] == 0 || !bytes.Equal(data[1:], data[:len(data)-1]) {
					t.Errorf("a chunk changed near %d", first)
				}
				c.unlock()
			}
		})
	}
	buffers := map[*byte]bool{}
	for first := uint64(1); first <= chunks; first++ {
		b := c.buffer(size)[:size]
		for i := range b {
			b[i] = byte(first)
		}
		buffers[&b[0]] = true
		c.add(&chunk{first: first, data: b})
		c.trim()
		last.Store(first)
	}
	wg.Wait()
	if c.held > c.limit || len(c.chunks) == 0 {
		t.Errorf("%d bytes in %d chunks are held, the limit is %d", c.held, len(c.chunks), c.limit)
	}
	if len(buffers) > chunks/4 {
		t.Errorf("%d chunks took %d buffers", chunks, len(buffers))
	}
	if c.lock(1) != nil {
		t.Error("the oldest chunk is still there")
	}
}
