package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// segmentBytes is the capacity of a segment of the store.
const segmentBytes = 256 << 20

// appendToStore is the store without a broker: batches of one message each,
// appended as fast as it takes them. With Retain it is measured from the moment
// when it has dropped its first segment, and drops more meanwhile.
func appendToStore(ctx context.Context, s spec) (o outcome, err error) {
	var options store.Options
	if s.Retain > 0 { // all of a size, so that one can be written over for the next
		options.SegmentBytes = min(max(s.Retain/2, 16<<20), segmentBytes)
		options.FirstSegmentBytes = options.SegmentBytes
	}
	l, err := store.Open(s.Dir, options)
	if err != nil {
		return o, err
	}
	a := newAppender(l, s)
	if s.Retain > 0 {
		o, err = a.measureRetained(ctx, s)
	} else {
		o, err = s.measured(ctx, a.acked.Load, a.run)
	}
	if err = errors.Join(err, l.Close(), a.failed.get()); err != nil {
		return o, err
	}
	mean, err := meanChunk(s.Dir)
	o.Notes = map[string]float64{"chunkBytes": mean}
	return o, err
}

// appender appends a window of records again and again.
type appender struct {
	log    *store.Log
	free   chan store.Record
	acked  atomic.Int64
	failed fault
}

func newAppender(l *store.Log, s spec) *appender {
	const queues = 8
	a := &appender{log: l, free: make(chan store.Record, s.Window)}
	for i := range s.Window {
		a.free <- store.Record{Type: store.BatchRecord, Queue: store.QueueKey{Topic: 1, Queue: uint32(i % queues)}, Count: 1, Data: s.batch(i, i%queues)}
	}
	return a
}

// measureRetained measures while what is old is dropped, from the first time on.
func (a *appender) measureRetained(ctx context.Context, s spec) (o outcome, err error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	retaining, stop := context.WithCancel(ctx)
	defer stop()
	full, dropped := context.WithCancel(ctx)
	defer dropped()
	wg.Go(func() { a.retain(retaining, s.Retain, dropped) })
	if err := a.run(full); err != nil {
		return o, err
	}
	a.acked.Store(0)
	return s.measured(ctx, a.acked.Load, a.run)
}

// run appends until ctx ends, and waits for all answers.
func (a *appender) run(ctx context.Context) error {
	for ctx.Err() == nil && a.failed.get() == nil {
		r := <-a.free
		err := a.log.Append(r, func(_ store.Committed, err error) {
			if err != nil {
				a.failed.set(err)
			}
			a.acked.Add(1)
			a.free <- r
		})
		if err != nil {
			return err
		}
	}
	answered := make([]store.Record, cap(a.free))
	for i := range answered {
		answered[i] = <-a.free
	}
	for _, r := range answered {
		a.free <- r
	}
	return nil
}

// retain keeps the log below a number of bytes until ctx ends, and tells of the
// first segment that was dropped.
func (a *appender) retain(ctx context.Context, bytes int64, dropped func()) {
	forEver := func(uint64) time.Duration { return 0 }
	for ctx.Err() == nil {
		n, err := a.log.Retain(store.Retention{MaxBytes: bytes, MaxAge: forEver, KeepFrom: math.MaxUint64})
		if err != nil {
			a.failed.set(err)
		}
		if n > 0 || err != nil {
			dropped()
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// batch is one message in a batch of Size bytes.
func (s spec) batch(i, queue int) []byte {
	ids := message.MakeID(1, uint64(i))
	encode := func(body []byte) []byte {
		b := batch.NewBuilder(topic, queue)
		b.Add(&message.Message{Topic: topic, ID: ids, BornTime: time.UnixMilli(1), Body: body})
		return b.Finish()
	}
	overhead := len(encode(nil))
	return encode(s.body()[:max(s.Size-overhead-1, 0)])
}

// The names in a segment, which docs/storage.md has.
var (
	logBucket = []byte("log")
	dataKey   = []byte("d")
	indexKey  = []byte("i")
)

// meanChunk is the mean size of the group commits in a store that nobody has open.
func meanChunk(dir string) (bytes float64, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil {
		return 0, err
	}
	total, n := 0, 0
	for _, path := range files {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
		if err != nil {
			return 0, err
		}
		err = db.View(func(tx *bbolt.Tx) error {
			log := tx.Bucket(logBucket)
			return log.ForEachBucket(func(key []byte) error {
				total, n = total+len(log.Bucket(key).Get(dataKey)), n+1
				return nil
			})
		})
		if err := errors.Join(err, db.Close()); err != nil {
			return 0, err
		}
	}
	return float64(total) / float64(max(n, 1)), nil
}

// commitChunks is what bbolt does with chunks of Size bytes when nothing else is
// done: a sub-bucket with two values for each commit, in files written with
// zeros beforehand, as the store has them.
func commitChunks(ctx context.Context, s spec) (o outcome, err error) {
	perFile := max(int(segmentBytes*9/10)/(s.Size+pageSlack), 1)
	count := max(s.Count, 1)
	var dbs []*bbolt.DB
	defer func() {
		for _, db := range dbs {
			err = errors.Join(err, db.Close())
		}
	}()
	for i := int64(0); i*int64(perFile) < count; i++ {
		db, err := openZeroed(filepath.Join(s.Dir, fmt.Sprintf("%d.db", i)), max(min(segmentBytes, count*int64(s.Size+pageSlack)*2), 1<<20))
		if err != nil {
			return o, err
		}
		dbs = append(dbs, db)
	}
	var done atomic.Int64
	data, index := s.body(), make([]byte, max(s.Size/24, 64)) // a row of 44 bytes for 1 KiB
	return s.measured(ctx, done.Load, func(ctx context.Context) error {
		for i := int64(0); i < count && ctx.Err() == nil; i++ {
			if err := commitChunk(dbs[i/int64(perFile)], uint64(i), data, index); err != nil {
				return err
			}
			done.Add(1)
		}
		return nil
	})
}

// pageSlack is what a commit takes beside its data, about.
const pageSlack = 16 << 10

func commitChunk(db *bbolt.DB, i uint64, data, index []byte) error {
	return db.Update(func(tx *bbolt.Tx) error {
		log := tx.Bucket(logBucket)
		log.FillPercent = 1
		b, err := log.CreateBucket(binary.BigEndian.AppendUint64(nil, i))
		if err != nil {
			return err
		}
		b.FillPercent = 1
		if err := b.Put(dataKey, data); err != nil {
			return err
		}
		return b.Put(indexKey, index)
	})
}

// openZeroed makes a bbolt file with zeros behind what it uses.
func openZeroed(path string, capacity int64) (*bbolt.DB, error) {
	open := func() (*bbolt.DB, error) {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{FreelistType: bbolt.FreelistMapType, NoStatistics: true, InitialMmapSize: int(capacity) + 16<<20})
		if err == nil {
			db.AllocSize = 1 << 20
		}
		return db, err
	}
	db, err := open()
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket(logBucket)
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return nil, err
	}
	if err := writeZeros(path, capacity); err != nil {
		return nil, err
	}
	return open()
}

// writeZeros writes from a file's end up to its capacity and syncs.
func writeZeros(path string, capacity int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	zeros := make([]byte, 1<<20)
	for at < capacity {
		n, err := f.Write(zeros[:min(int64(len(zeros)), capacity-at)])
		if err != nil {
			return err
		}
		at += int64(n)
	}
	return f.Sync()
}

// readFiles reads the segments of a store from begin to end, once.
func readFiles(ctx context.Context, s spec) (o outcome, err error) {
	files, err := filepath.Glob(filepath.Join(s.Dir, "*.seg"))
	if err != nil {
		return o, err
	}
	slices.Sort(files)
	var read atomic.Int64
	return s.measured(ctx, read.Load, func(ctx context.Context) error {
		buffer := make([]byte, 1<<20)
		for _, path := range files {
			if err := readFile(ctx, path, buffer, &read); err != nil {
				return err
			}
		}
		return nil
	})
}

func readFile(ctx context.Context, path string, buffer []byte, read *atomic.Int64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for ctx.Err() == nil {
		n, err := f.Read(buffer)
		read.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// evict drops the files of a directory from the page cache.
func evict(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return err
	}
	for _, path := range files {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		info, err := f.Stat()
		if err == nil && info.Mode().IsRegular() {
			err = errors.Join(f.Sync(), forget(f))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// probeSync measures f: how long one fdatasync takes after a block was written
// over others, and after it was appended. The notes have medians and the 99th
// percentiles in milliseconds.
func probeSync(ctx context.Context, s spec) (o outcome, err error) {
	notes := map[string]float64{}
	for _, mode := range []string{"overwrite", "append"} {
		begun := time.Now()
		took, err := s.syncs(ctx, mode == "overwrite", s.Size)
		if err != nil {
			return o, err
		}
		slices.Sort(took)
		notes[mode+"P50"], notes[mode+"P99"] = millis(took[len(took)/2]), millis(took[len(took)*99/100])
		o.Messages, o.Seconds = int64(len(took)), time.Since(begun).Seconds()
	}
	o.Notes = notes
	return o, nil
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// syncs writes Count blocks, each with a fdatasync, for half of Time at most.
func (s spec) syncs(ctx context.Context, overwrite bool, size int) (took []time.Duration, err error) {
	path := filepath.Join(s.Dir, "probe")
	defer os.Remove(path)
	blocks := s.Count
	if overwrite {
		blocks = max(min(s.Count, segmentBytes/int64(size)), 1)
		if err := writeZeros(path, blocks*int64(size)); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	block, end := make([]byte, size), time.Now().Add(s.Time/2)
	for i := int64(0); i < s.Count && (i == 0 || time.Now().Before(end)) && ctx.Err() == nil; i++ {
		begun := time.Now()
		if _, err := f.WriteAt(block, i%blocks*int64(size)); err != nil {
			return nil, err
		}
		if err := dataSync(f); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}

// rateSync measures how many blocks of Size bytes, with a fdatasync after each, go
// to a file a second: over others with Shared, else appended.
func rateSync(ctx context.Context, s spec) (o outcome, err error) {
	s.Time *= 2
	took, err := s.syncs(ctx, s.Shared, s.Size)
	for _, t := range took {
		o.Seconds += t.Seconds()
	}
	o.Messages = int64(len(took))
	return o, err
}
