package consumer

import "sort"

// window knows which offsets of one queue were taken in and are not finished.
// What may be committed is the lowest of them: a consumer that starts again
// there misses nothing. Finished offsets above it are remembered until the ones
// below are finished too.
type window struct {
	marks fifo[mark] // ascending, the first one is not finished
	next  int64      // above every offset taken in
}

type mark struct {
	offset   int64
	finished bool
}

// add takes in an offset, which is not below next. Offsets may have gaps.
func (w *window) add(offset int64) {
	w.marks.push(mark{offset: offset})
	w.next = offset + 1
}

// skip moves next forward over offsets that hold nothing for this consumer.
func (w *window) skip(next int64) { w.next = max(w.next, next) }

// finish marks an offset that add took in.
func (w *window) finish(offset int64) {
	i := w.find(offset)
	if i < 0 {
		return
	}
	w.marks.at(i).finished = true
	for w.marks.len() > 0 && w.marks.front().finished {
		w.marks.pop()
	}
}

// find is where the mark of an offset is; -1 when there is none.
func (w *window) find(offset int64) int {
	n := w.marks.len()
	if n == 0 {
		return -1
	}
	i := int(offset - w.marks.front().offset)
	if i < 0 || i >= n || w.marks.at(i).offset != offset { // there are gaps
		i = sort.Search(n, func(i int) bool { return w.marks.at(i).offset >= offset })
	}
	if i == n || w.marks.at(i).offset != offset {
		return -1
	}
	return i
}

// lowest is the lowest offset that is not finished; next when all are.
func (w *window) lowest() int64 {
	if w.marks.len() == 0 {
		return w.next
	}
	return w.marks.front().offset
}

// span counts the offsets from the lowest unfinished one on.
func (w *window) span() int { return w.marks.len() }
