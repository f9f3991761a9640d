package store

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// BenchmarkLog_Append appends batches of a size to eight queues with a window of
// records under way, as a broker under load does.
func BenchmarkLog_Append(b *testing.B) {
	for _, size := range []int{128, 1024} {
		for _, batchBytes := range []int{1 << 10, 64 << 10, 256 << 10} {
			b.Run(fmt.Sprintf("message=%d/batch=%dKiB", size, batchBytes>>10), func(b *testing.B) {
				l := mustOpen(b, b.TempDir(), Options{})
				window := make(chan struct{}, max(8<<20/batchBytes, 1))
				var wg sync.WaitGroup
				r := benchBatch(size, batchBytes)
				b.SetBytes(int64(len(r.Data)))
				for i := 0; b.Loop(); i++ {
					window <- struct{}{}
					wg.Add(1)
					next := r
					next.Queue.Queue = uint32(i % 8)
					next.Data = append([]byte(nil), r.Data...)
					if err := l.Append(next, func(_ Committed, err error) {
						if err != nil {
							b.Error(err)
						}
						<-window
						wg.Done()
					}); err != nil {
						b.Fatal(err)
					}
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)*float64(r.Count)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}

func benchBatch(size, bytes int) Record {
	b := batch.NewBuilder("orders", 0)
	body := make([]byte, size)
	for i := 0; b.Len() < bytes; i++ {
		b.Add(&message.Message{Topic: "orders", ID: message.MakeID(1, uint64(i)), BornTime: time.UnixMilli(1), Body: body})
	}
	count := b.Count()
	return Record{Type: BatchRecord, Queue: QueueKey{Topic: 1}, Count: uint32(count), Data: b.Finish()}
}
