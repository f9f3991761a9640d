package store

import "fmt"

// Filter decides which messages of a queue are found. It is safe for concurrent
// use.
type Filter interface {
	// Judge says by the tag hash of a batch what is to be done with it.
	Judge(tagHash uint32) Verdict
	// Select appends to dst those messages of a batch that match, as a batch, and
	// returns how many they are; with 0 nothing is appended.
	Select(dst, batch []byte) (_ []byte, n int, err error)
	// Count counts the messages of a batch that match, from one place in it up to
	// another.
	Count(batch []byte, from, to int) (int, error)
}

// Verdict is what a filter says of a batch by the queue index alone.
type Verdict uint8

// The verdicts.
const (
	// Skip: no message matches. The batch is not read.
	Skip Verdict = iota
	// Take: the batch is found as it is.
	Take
	// Look: it takes a look at the messages.
	Look
)

// Budget bounds what is looked at for the sake of a filter.
type Budget struct {
	Steps int // batches, and messages of batches that are read
	Bytes int // of batches that are read
}

// Spent reports whether nothing is left.
func (b Budget) Spent() bool { return b.Steps <= 0 || b.Bytes <= 0 }

// Spend has fn use what it needs of the n-th part of the budget.
func (b *Budget) Spend(n int, fn func(part *Budget)) {
	part := Budget{Steps: max(b.Steps/n, 1), Bytes: max(b.Bytes/n, 1)}
	left := part
	fn(&left)
	b.Steps -= part.Steps - left.Steps
	b.Bytes -= part.Bytes - left.Bytes
}

// FindMatching is Find of what a filter lets through; maxCount is of messages that
// match. It looks at no more than the budget allows, from which it takes what it
// has used, but at one batch at least. Next is the offset behind all that was
// looked at, whether something matched or not: Size is 0 when nothing did. Damage
// in a batch that the filter skips is not noticed; in one that it does not, what
// precedes it is found first, and the next call returns ErrDamaged.
func (l *Log) FindMatching(q QueueKey, offset int64, maxBytes, maxCount int, filter Filter, b *Budget) (Found, error) {
	f, err := l.begin(q, offset)
	if err != nil || offset == f.End {
		return f, err
	}
	s := scan{found: &f, filter: filter, budget: b, maxBytes: maxBytes, maxCount: maxCount}
	if err := s.run(s.take); err != nil && f.Next == offset {
		return f, f.unlessDropped(err)
	}
	f.Messages = s.matched
	return f, nil
}

// Counted is what CountMatching has counted.
type Counted struct {
	Matched int64 // messages
	// First is the lowest of the offsets counted that lies in the batch of the first
	// of them; -1 without any.
	First int64
	// Next is where it has come to.
	Next int64
}

// CountMatching counts the messages that match from an offset on, up to another
// one, to the queue's end, or until the budget is spent. The errors are those of
// FindMatching.
func (l *Log) CountMatching(q QueueKey, from, to int64, filter Filter, b *Budget) (Counted, error) {
	return l.countMatching(q, from, to, filter, b, false)
}

// FirstMatching looks for the first message that matches from an offset on, up to
// another one, to the queue's end, or until the budget is spent: Counted.First says
// whether one was found, and none lies before Next, which is no further than its
// batch. The errors are those of FindMatching.
func (l *Log) FirstMatching(q QueueKey, from, to int64, filter Filter, b *Budget) (Counted, error) {
	return l.countMatching(q, from, to, filter, b, true)
}

func (l *Log) countMatching(q QueueKey, from, to int64, filter Filter, b *Budget, first bool) (Counted, error) {
	c := Counted{First: -1, Next: from}
	f, err := l.begin(q, from)
	if err != nil || from == f.End {
		return c, err
	}
	f.End = min(f.End, to)
	s := scan{found: &f, filter: filter, budget: b, first: first, firstAt: -1}
	if err := s.run(s.count); err != nil && f.Next == from {
		return c, f.unlessDropped(err)
	}
	return Counted{Matched: int64(s.matched), First: s.firstAt, Next: max(min(f.Next, f.End), from)}, nil
}

// scan goes through the batches of a queue for a filter.
type scan struct {
	found              *Found // Next is behind what was visited
	filter             Filter
	budget             *Budget
	maxBytes, maxCount int

	segment *segment // that it is in
	matched int      // messages
	first   bool     // it ends with the first one that count finds
	firstAt int64    // Counted.First
	over    bool
}

// run visits batches until the end, the budget or the visit stops it.
func (s *scan) run(visit func(*location, rowLoader) error) error {
	f := s.found
	for f.Next < f.End && !s.over {
		rows, err := s.locate()
		if err != nil {
			return err
		}
		if err := s.each(rows, visit); err != nil {
			return err
		}
	}
	return nil
}

// wholeBlock has find return all rows of a block.
const wholeBlock = 1 << 62

// locate finds the next batches, of which there are most likely more in the
// segment where those before are.
func (s *scan) locate() (rows []location, err error) {
	f := s.found
	if s.segment != nil {
		if rows, _, err = s.segment.find(f.queue, f.Next, wholeBlock); err == nil && len(rows) > 0 {
			return rows, nil
		}
	}
	s.segment, rows, err = f.log.locate(f.queue, f.Next, wholeBlock)
	return rows, err
}

// each visits batches of one segment, up to a hole that damage left.
func (s *scan) each(rows []location, visit func(*location, rowLoader) error) error {
	f, first := s.found, true
	return s.segment.each(rows, func(l *location, load rowLoader) (more bool, err error) {
		if l.base >= f.End || !first && l.base != f.Next {
			return false, nil
		}
		s.budget.Steps--
		if err := visit(l, load); err != nil || s.over {
			return false, err
		}
		first, f.Next = false, l.next()
		s.over = s.budget.Spent()
		return !s.over, nil
	})
}

// take adds what matches of a batch to what is found. When that is too much it
// ends the scan before the batch.
func (s *scan) take(l *location, load rowLoader) error {
	switch s.filter.Judge(l.tagHash) {
	case Skip:
		return nil
	case Take:
		if s.over = s.full(int(l.len)); !s.over {
			s.found.addPlace(s.segment, l)
			s.matched += int(l.count)
		}
		return nil
	}
	b, err := s.read(l, load)
	if err != nil {
		return err
	}
	before := s.found.data
	data, n, err := s.filter.Select(before, b)
	if err != nil {
		return fmt.Errorf("%w: chunk %d at %d: %w", ErrDamaged, l.chunk, l.pos, err)
	}
	if n == 0 {
		return nil
	}
	if s.over = s.full(len(data) - len(before)); !s.over {
		s.found.setData(data)
		s.matched += n
	}
	return nil
}

// count counts what matches of a batch.
func (s *scan) count(l *location, load rowLoader) error {
	from, to := int(max(s.found.Next-l.base, 0)), int(min(l.next(), s.found.End)-l.base)
	n, err := s.countIn(l, load, from, to)
	if n > 0 && s.firstAt < 0 {
		s.firstAt, s.over = l.base+int64(from), s.first
	}
	s.matched += n
	return err
}

func (s *scan) countIn(l *location, load rowLoader, from, to int) (int, error) {
	switch s.filter.Judge(l.tagHash) {
	case Skip:
		return 0, nil
	case Take:
		return to - from, nil
	}
	b, err := s.read(l, load)
	if err != nil {
		return 0, err
	}
	n, err := s.filter.Count(b, from, to)
	if err != nil {
		return 0, fmt.Errorf("%w: chunk %d at %d: %w", ErrDamaged, l.chunk, l.pos, err)
	}
	return n, nil
}

func (s *scan) read(l *location, load rowLoader) ([]byte, error) {
	s.budget.Steps -= int(l.count)
	s.budget.Bytes -= int(l.len)
	return load.load(l)
}

// full reports whether there is something already and so many bytes more are too
// much.
func (s *scan) full(bytes int) bool {
	return s.matched > 0 && (s.found.Size+bytes > s.maxBytes || s.maxCount > 0 && s.matched >= s.maxCount)
}
