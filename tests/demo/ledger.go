package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// arrival is one line as one consumer printed it.
type arrival struct {
	consumer int
	seq      int // place in what the consumer printed
	queue    string
	offset   int64
	line     int
	at       time.Time
	stored   time.Time
	body     []byte
}

// maxAhead is how many lines may be on their way. It keeps the publisher busy
// until the end, so that the kill comes while it sends, whoever is faster.
const maxAhead = 100_000

// ledger writes down what the consumers print, and judges it at the end. Its
// methods are safe for concurrent use.
type ledger struct {
	files map[string]*sourceFile
	half  chan struct{} // closed when half of the lines are there
	whole chan struct{} // closed when every line is there
	ahead chan struct{} // holds an item for each line that was sent and is not there yet

	mu       sync.Mutex
	arrivals map[string][]arrival // by file
	seen     map[string][]bool    // by file and line
	distinct int
	total    int
	last     time.Time
	wanted   int
}

func newLedger(s *source) *ledger {
	l := &ledger{
		files: make(map[string]*sourceFile), half: make(chan struct{}), whole: make(chan struct{}), ahead: make(chan struct{}, maxAhead),
		arrivals: make(map[string][]arrival), seen: make(map[string][]bool), wanted: s.lines,
	}
	for i := range s.files {
		f := &s.files[i]
		l.files[f.path] = f
		l.seen[f.path] = make([]bool, f.lines)
		l.arrivals[f.path] = make([]arrival, 0, f.lines)
	}
	return l
}

// enter writes down one record of a consumer.
func (l *ledger) enter(consumer, seq int, r *record, at time.Time) error {
	line, err := strconv.Atoi(r.Properties["line"])
	if err != nil {
		return fmt.Errorf("property line: %w", err)
	}
	f := l.files[r.MessageGroup]
	if f == nil || line < 1 || line > f.lines || !slices.Equal(r.Keys, []string{r.MessageGroup}) {
		return fmt.Errorf("line %d of %q with keys %q was never sent", line, r.MessageGroup, r.Keys)
	}
	a := arrival{consumer: consumer, seq: seq, queue: r.Broker + "/" + strconv.Itoa(r.Queue), offset: r.Offset, line: line, at: at}
	if a.stored, err = time.Parse(time.RFC3339Nano, r.StoreTime); err != nil {
		return err
	}
	if a.body, err = r.body(); err != nil {
		return err
	}
	l.add(f.path, a)
	return nil
}

// pace returns when another line may be sent.
func (l *ledger) pace(ctx context.Context) error {
	select {
	case l.ahead <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *ledger) add(file string, a arrival) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arrivals[file] = append(l.arrivals[file], a)
	l.total++
	l.last = a.at
	if seen := &l.seen[file][a.line-1]; !*seen {
		*seen = true
		l.distinct++
		select {
		case <-l.ahead:
		default:
		}
		if l.distinct == (l.wanted+1)/2 {
			close(l.half)
		}
		if l.distinct == l.wanted {
			close(l.whole)
		}
	}
}

// progress is how many different lines are there, how many lines came in all,
// and when the last one came.
func (l *ledger) progress() (distinct, total int, last time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.distinct, l.total, l.last
}

// verdict is what the ledger finds at the end.
type verdict struct {
	filesEqual  int
	duplicates  int
	aroundKill  int      // of the duplicates
	failures    []string // the first ones; count is failed
	failed      int
	perConsumer map[int]int
}

func (v *verdict) fail(format string, args ...any) {
	v.failed++
	if len(v.failures) < 10 {
		v.failures = append(v.failures, fmt.Sprintf(format, args...))
	}
}

// span is the time in which duplicates are allowed.
type span struct{ from, to time.Time }

func (s span) holds(t time.Time) bool { return !t.Before(s.from) && !t.After(s.to) }

// judge rebuilds every file in the order of its queue and compares it, and looks
// at the order in which each consumer printed it. A duplicate is a line that is
// there twice: stored twice (a send that was repeated) or delivered twice.
func (l *ledger) judge(allowed span) *verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &verdict{perConsumer: make(map[int]int)}
	for path, f := range l.files {
		all := l.arrivals[path]
		for _, a := range all {
			v.perConsumer[a.consumer]++
		}
		before := v.failed
		judgeArrival(v, path, all)
		first := judgeQueue(v, path, all, allowed)
		if len(first) < f.lines {
			v.fail("%s: %d of %d lines are missing", path, f.lines-len(first), f.lines)
		} else if rebuild(first, f.open) != f.sum {
			v.fail("%s: rebuilt, it differs from the original", path)
		} else if v.failed == before {
			v.filesEqual++
		}
	}
	return v
}

// judgeQueue goes through a file's lines in the order of their offsets. It counts
// duplicates and returns the first copy of each line.
func judgeQueue(v *verdict, path string, all []arrival, allowed span) []arrival {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b arrival) int { return cmp.Or(cmp.Compare(a.offset, b.offset), a.at.Compare(b.at)) })
	first := make([]arrival, 0, len(all))
	copies := make(map[int]int64, len(all)) // the offset of the last copy of each line
	for _, a := range all {
		if a.queue != all[0].queue {
			v.fail("%s: line %d is in queue %s, line %d in %s", path, a.line, a.queue, all[0].line, all[0].queue)
		}
		offset, twice := copies[a.line]
		copies[a.line] = a.offset
		if !twice {
			if len(first) > 0 && a.line < first[len(first)-1].line {
				v.fail("%s: line %d is stored behind line %d", path, a.line, first[len(first)-1].line)
			}
			first = append(first, a)
			continue
		}
		when := a.at
		if offset != a.offset {
			when = a.stored
		}
		v.duplicates++
		if allowed.holds(when) {
			v.aroundKill++
		} else {
			v.fail("%s: line %d is there twice (offsets %d and %d), and not around the kill (%s)",
				path, a.line, offset, a.offset, when.Format(time.TimeOnly))
		}
	}
	return first
}

// judgeArrival fails when a consumer prints a line after a later one of the same
// file, unless it is a duplicate: the consumer, or another, printed it too.
func judgeArrival(v *verdict, path string, all []arrival) {
	times := make(map[int]int, len(all))
	for _, a := range all {
		times[a.line]++
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b arrival) int {
		return cmp.Or(cmp.Compare(a.consumer, b.consumer), cmp.Compare(a.seq, b.seq))
	})
	consumer, highest := -1, 0
	for _, a := range all {
		if a.consumer != consumer {
			consumer, highest = a.consumer, 0
		}
		if a.line < highest && times[a.line] == 1 {
			v.fail("%s: consumer %d printed line %d after line %d", path, a.consumer+1, a.line, highest)
		}
		highest = max(highest, a.line)
	}
}

// rebuild is the SHA-256 of a file with these lines.
func rebuild(lines []arrival, open bool) (sum [sha256.Size]byte) {
	h := sha256.New()
	for i, a := range lines {
		h.Write(a.body)
		if i < len(lines)-1 || !open {
			h.Write([]byte("\n"))
		}
	}
	h.Sum(sum[:0])
	return sum
}
