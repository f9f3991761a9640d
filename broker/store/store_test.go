package store

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTopic = 7

// small are options with segments so small that tests roll over.
func small() Options { return Options{FirstSegmentBytes: 128 << 10, SegmentBytes: 256 << 10} }

func mustOpen(t testing.TB, dir string, o Options) *Log {
	t.Helper()
	l, err := Open(dir, o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// messages makes a batch for a queue; the bodies say which messages they are.
func messages(queue uint32, first, count, size int) Record {
	b := batch.NewBuilder("orders", int(queue))
	for i := range count {
		body := bytes.Repeat([]byte{'.'}, max(size, 24))
		copy(body, fmt.Sprintf("q%d-%d ", queue, first+i))
		b.Add(&message.Message{Topic: "orders", ID: message.MakeID(1, uint64(first+i)), BornTime: time.UnixMilli(1700000000000), Body: body})
	}
	data := b.Finish()
	h, err := batch.ParseHeader(data)
	if err != nil {
		panic(err)
	}
	return Record{Type: BatchRecord, Queue: QueueKey{testTopic, queue}, Count: uint32(count), TagHash: h.TagHash, Data: data}
}

// appendWait appends and waits for the answer.
func appendWait(t testing.TB, l *Log, r Record) (Committed, error) {
	t.Helper()
	type answer struct {
		c   Committed
		err error
	}
	answers := make(chan answer, 1)
	if err := l.Append(r, func(c Committed, err error) { answers <- answer{c, err} }); err != nil {
		return Committed{}, err
	}
	a := <-answers
	return a.c, a.err
}

func mustAppend(t testing.TB, l *Log, r Record) Committed {
	t.Helper()
	c, err := appendWait(t, l, r)
	if err != nil {
		t.Fatalf("append: %v", err)
	}
	return c
}

// readAll reads a queue from an offset to its end and checks that offsets are
// dense and that each body is of the message that belongs there.
func readAll(l *Log, queue uint32, from int64) (int64, error) {
	next := from
	for {
		b, err := l.Read(QueueKey{testTopic, queue}, next, 1<<20, 0)
		if err != nil {
			return next, err
		}
		if len(b.Data) == 0 {
			if next != b.End {
				return next, fmt.Errorf("read nothing at %d, the end is %d", next, b.End)
			}
			return next, nil
		}
		for rest := b.Data; len(rest) > 0; {
			var ms []message.Stored
			if ms, rest, err = batch.Decode(nil, rest, ""); err != nil {
				return next, err
			}
			for _, m := range ms {
				if m.QueueOffset < next {
					continue // the batch begins before what was asked for
				}
				if want := fmt.Sprintf("q%d-%d ", queue, next); m.QueueOffset != next || !bytes.HasPrefix(m.Body, []byte(want)) {
					return next, fmt.Errorf("at %d got offset %d with body %.24q", next, m.QueueOffset, m.Body)
				}
				next++
			}
		}
		if next != b.Next {
			return next, fmt.Errorf("batches end at %d, Next is %d", next, b.Next)
		}
	}
}

func wantQueue(t testing.TB, l *Log, queue uint32, from, end int64) {
	t.Helper()
	got, err := readAll(l, queue, from)
	if err != nil || got != end {
		t.Fatalf("queue %d from %d: got %d messages, want %d: %v", queue, from, got, end, err)
	}
}

func TestLog_AppendedIsReadBack(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	for i := range 10 {
		c := mustAppend(t, l, messages(3, i*5, 5, 100))
		if c.Index != uint64(i+1) || c.BaseOffset != int64(i*5) {
			t.Fatalf("append %d: got index %d offset %d", i, c.Index, c.BaseOffset)
		}
	}
	wantQueue(t, l, 3, 0, 50)
	wantQueue(t, l, 3, 17, 50) // in the middle of a batch
	wantQueue(t, l, 4, 0, 0)   // never used
	for _, offset := range []int64{-1, 51} {
		if _, err := l.Read(QueueKey{testTopic, 3}, offset, 1, 0); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("offset %d: got %v, want ErrOutOfRange", offset, err)
		}
	}
}

func TestLog_ReadLimits(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	for i := range 10 {
		mustAppend(t, l, messages(0, i*10, 10, 1000))
	}
	for _, c := range []struct {
		bytes, count int
		next         int64
	}{{1, 0, 10}, {25_000, 0, 20}, {1 << 20, 0, 100}, {1 << 20, 1, 10}, {1 << 20, 11, 20}, {1 << 20, 30, 30}} {
		b, err := l.Read(QueueKey{testTopic, 0}, 0, c.bytes, c.count)
		if err != nil || b.Next != c.next {
			t.Errorf("%d bytes, %d messages: got next %d, %v; want %d", c.bytes, c.count, b.Next, err, c.next)
		}
	}
}

func TestLog_SurvivesRollOverAndReopening(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, small())
	next := [4]int{}
	for i := range 400 {
		q := i % 4
		mustAppend(t, l, messages(uint32(q), next[q], 3, 700))
		next[q] += 3
	}
	check := func() {
		t.Helper()
		for q, n := range next {
			wantQueue(t, l, uint32(q), 0, int64(n))
			wantQueue(t, l, uint32(q), int64(n/2), int64(n))
		}
		if s := l.Status(); s.LastIndex != 400 || s.Segments < 3 || s.FirstIndex != 1 {
			t.Fatalf("status %+v", s)
		}
	}
	check()
	for range 2 {
		mustClose(t, l)
		l = mustOpen(t, dir, small())
		check()
	}
	if c := mustAppend(t, l, messages(2, next[2], 1, 10)); c.Index != 401 || c.BaseOffset != int64(next[2]) {
		t.Fatalf("after reopening got index %d offset %d", c.Index, c.BaseOffset)
	}
}

func TestLog_ConcurrentAppendsShareCommits(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	var wg sync.WaitGroup
	const each = 50
	for q := range uint32(16) {
		wg.Go(func() {
			for i := range each {
				if _, err := appendWait(t, l, messages(q, i, 1, 100)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for q := range uint32(16) {
		wantQueue(t, l, q, 0, each)
	}
	mustClose(t, l)
	l = mustOpen(t, dir, Options{})
	for q := range uint32(16) {
		wantQueue(t, l, q, 0, each)
	}
}

func TestLog_ViewsGetEveryRecordOnceInOrder(t *testing.T) {
	dir := t.TempDir()
	var got []uint64
	o := small()
	o.Apply = func(c Committed) error {
		got = append(got, c.Index)
		if c.Type == GroupRecord && string(c.Data) != fmt.Sprintf("group %d", c.Index) {
			return fmt.Errorf("record %d has data %q", c.Index, c.Data)
		}
		return nil
	}
	l := mustOpen(t, dir, o)
	for i := 1; i <= 300; i++ {
		if i%3 == 0 {
			mustAppend(t, l, Record{Type: GroupRecord, Data: fmt.Appendf(nil, "group %d", i)})
		} else {
			mustAppend(t, l, messages(0, i, 1, 2000))
		}
	}
	mustClose(t, l)
	for _, position := range []uint64{0, 1, 150, 299, 300} {
		got, o.Position = nil, position
		l := mustOpen(t, dir, o)
		mustClose(t, l)
		if len(got) != int(300-position) {
			t.Fatalf("from %d: %d records were applied, want %d", position, len(got), 300-position)
		}
		for i, index := range got {
			if index != position+uint64(i)+1 {
				t.Fatalf("from %d: record %d came as number %d", position, index, i)
			}
		}
	}
}

func TestLog_FailingViewFailsOpen(t *testing.T) {
	dir := t.TempDir()
	mustAppendClosed(t, dir, 1)
	broken := errors.New("broken view")
	_, err := Open(dir, Options{Apply: func(Committed) error { return broken }})
	if !errors.Is(err, broken) {
		t.Fatalf("got %v, want %v", err, broken)
	}
	mustClose(t, mustOpen(t, dir, Options{})) // and the directory is free again
}

// mustAppendClosed makes a log with n messages of queue 0.
func mustAppendClosed(t testing.TB, dir string, n int) {
	t.Helper()
	l := mustOpen(t, dir, small())
	for i := range n {
		mustAppend(t, l, messages(0, i, 1, 500))
	}
	mustClose(t, l)
}

func TestLog_WaiterIsToldOfItsQueuesOnly(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	w := l.Wait([]QueueKey{{testTopic, 1}, {testTopic, 2}})
	other := l.Wait([]QueueKey{{testTopic, 3}})
	mustAppend(t, l, messages(2, 0, 1, 10))
	<-w.C
	select {
	case <-other.C:
		t.Fatal("a waiter for another queue was told")
	default:
	}
	w.Stop()
	other.Stop()
	if n := len(l.waiters.queues); n != 0 {
		t.Fatalf("%d queues are waited for after Stop", n)
	}
}

func TestLog_AsyncFlushAnswersAtOnceAndStores(t *testing.T) {
	dir := t.TempDir()
	o := small()
	o.Flush = AsyncFlush
	l := mustOpen(t, dir, o)
	for i := range 100 {
		answered := false
		err := l.Append(messages(0, i, 1, 100), func(c Committed, err error) {
			answered = c.BaseOffset == int64(i) && err == nil
		})
		if err != nil || !answered {
			t.Fatalf("append %d: answered %v, %v", i, answered, err)
		}
	}
	mustClose(t, l)
	l = mustOpen(t, dir, o)
	wantQueue(t, l, 0, 0, 100)
}

func TestLog_DeletedTopicLeavesNoQueues(t *testing.T) {
	dir := t.TempDir()
	l := mustOpen(t, dir, Options{})
	mustAppend(t, l, messages(1, 0, 5, 10))
	mustAppend(t, l, Record{Type: TopicDeleteRecord, Queue: QueueKey{Topic: testTopic}})
	for range 2 {
		if _, end := l.Bounds(QueueKey{testTopic, 1}); end != 0 {
			t.Fatalf("the queue of a deleted topic ends at %d", end)
		}
		mustClose(t, l)
		l = mustOpen(t, dir, Options{})
	}
}

func TestLog_Limits(t *testing.T) {
	l := mustOpen(t, t.TempDir(), Options{})
	never := func(Committed, error) { t.Error("answered") }
	if err := l.Append(Record{Type: GroupRecord, Data: make([]byte, MaxRecordBytes+1)}, never); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: got %v", err)
	}
	mustClose(t, l)
	if err := l.Append(Record{Type: GroupRecord}, never); !errors.Is(err, ErrClosed) {
		t.Errorf("closed: got %v", err)
	}
}

func TestTail_RefusesWhatWouldExceedItsLimit(t *testing.T) {
	tl := tail{limit: 100, next: 1, ends: queueEnds{}}
	data := func(n int) *pending {
		return &pending{Committed: Committed{Record: Record{Type: GroupRecord, Data: make([]byte, n)}}}
	}
	now := time.UnixMilli(1000)
	if err := tl.push(data(500), now); err != nil {
		t.Fatalf("a record above the limit is taken when nothing waits: %v", err)
	}
	if err := tl.push(data(1), now); !errors.Is(err, ErrBusy) {
		t.Fatalf("got %v, want ErrBusy", err)
	}
	tl.release(500)
	if err := tl.push(data(1), now); err != nil {
		t.Fatal(err)
	}
}

func TestTail_StoreTimeNeverDecreases(t *testing.T) {
	tl := tail{limit: 100, next: 1, ends: queueEnds{}}
	var last int64
	for _, ms := range []int64{5000, 4000, 6000, 1} {
		p := &pending{Committed: Committed{Record: Record{Type: GroupRecord}}}
		if err := tl.push(p, time.UnixMilli(ms)); err != nil {
			t.Fatal(err)
		}
		if p.StoreMillis < last {
			t.Fatalf("store time went from %d to %d", last, p.StoreMillis)
		}
		last = p.StoreMillis
	}
}

func TestLog_OffsetAtAndStoredAt(t *testing.T) {
	dir := t.TempDir()
	var clock int64 = 1_000_000
	o := small()
	o.Now = func() time.Time { return time.UnixMilli(clock) }
	l := mustOpen(t, dir, o)
	const n = 300
	for i := range n { // message i is stored at 1,000,000 + 10 i
		mustAppend(t, l, messages(0, i, 1, 2000))
		clock += 10
	}
	check := func() {
		t.Helper()
		for _, c := range []struct{ millis, want int64 }{{0, 0}, {1_000_000, 0}, {1_000_001, 1}, {1_000_000 + 10*150, 150}, {1_000_000 + 10*n, n}} {
			if got, err := l.OffsetAt(QueueKey{testTopic, 0}, c.millis); err != nil || got != c.want {
				t.Errorf("at %d: got %d, %v; want %d", c.millis, got, err, c.want)
			}
		}
		for _, offset := range []int64{0, 7, n - 1} {
			if got, err := l.StoredAt(QueueKey{testTopic, 0}, offset); err != nil || got != 1_000_000+10*offset {
				t.Errorf("offset %d: got %d, %v", offset, got, err)
			}
		}
		if _, err := l.StoredAt(QueueKey{testTopic, 0}, n); !errors.Is(err, ErrOutOfRange) {
			t.Errorf("beyond the end: got %v", err)
		}
	}
	check()
	mustClose(t, l)
	l = mustOpen(t, dir, o)
	check()
}

// TestLog_AnswersTogether: those who wait for records of one commit are told within
// one call of Answer.
func TestLog_AnswersTogether(t *testing.T) {
	var mu sync.Mutex
	var told []int // in each call
	within := false
	appended := make(chan struct{})
	o := small()
	o.Answer = func(tell func()) {
		<-appended
		mu.Lock()
		within, told = true, append(told, 0)
		mu.Unlock()
		tell()
		mu.Lock()
		within = false
		mu.Unlock()
	}
	l := mustOpen(t, t.TempDir(), o)
	const n = 300
	var answered sync.WaitGroup
	answered.Add(n)
	for i := range n {
		err := l.Append(messages(0, i, 1, 100), func(Committed, error) {
			mu.Lock()
			defer mu.Unlock()
			if !within {
				t.Error("told outside of Answer")
			} else {
				told[len(told)-1]++
			}
			answered.Done()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	close(appended)
	answered.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(told) > 10 { // a few commits were under way
		t.Errorf("%d answers in %d calls", n, len(told))
	}
}
