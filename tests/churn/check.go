//go:build linux

package churn

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// leeway is how long after the end of a lease a commit with its fence may still get
// into the log: it was checked before.
const leeway = 250 * time.Millisecond / time.Microsecond

// Check holds a history to the promises, and returns what breaks them. ReadLog comes
// before it.
func (h *History) Check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.SortStableFunc(h.runs, func(a, b *run) int { return cmp.Compare(a.began, b.began) })
	h.checkComplete()
	h.checkLeases()
	h.checkOrder()
	h.checkAlone()
	h.checkCommits()
	h.checkWoken()
	h.checkAgain()
	const shown = 20
	if n := len(h.faults); n > shown {
		return errors.Join(append(slices.Clone(h.faults[:shown]), fmt.Errorf("and %d more", n-shown))...)
	}
	return errors.Join(h.faults...)
}

// Counts are what the run did. Check comes before it.
func (h *History) Counts() Counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts
}

// checkComplete wants each message handled to its end, and only what was sent.
func (h *History) checkComplete() {
	h.counts.Messages = len(h.acked)
	for at, m := range h.acked {
		if !h.ended[at] {
			h.counts.Missing++
			h.faultLocked("%v at %v is lost: no handler finished it", m, at)
		}
	}
	for _, x := range h.runs {
		if m, ok := h.acked[x.at]; !ok || m.String() != x.body {
			h.faultLocked("%s got %q at %v, where %v is stored", x.member, x.body, x.at, m)
		}
	}
}

// wasFrozen reports whether a member was away at some time before.
func (h *History) wasFrozen(member string, when int64) bool {
	return slices.ContainsFunc(h.members[member].frozen, func(a absence) bool { return a.from <= when })
}

// checkLeases wants a member to work for queues that it owns, from the begin of a
// handler to its end. Only one that was frozen may be late.
func (h *History) checkLeases() {
	for _, x := range h.runs {
		s := h.ledger.spanOf(x.at.queue, x.member, x.began)
		switch {
		case s != nil && x.ended/1000*1000 <= s.to:
		case h.wasFrozen(x.member, max(x.began, x.ended)):
			h.counts.Late++
		case s == nil:
			h.faultLocked("%s begins %s, of queue %d, which is not its own", x.member, x.body, x.at.queue)
		default:
			h.faultLocked("%s ends %s, of queue %d, %d ms after the end of its lease", x.member, x.body, x.at.queue, (x.ended-s.to)/1000)
		}
	}
}

// ends is when the handlers of messages that follow one another had all ended for
// the first time: ends[i] is when all up to the i-th had.
func (h *History) ends(places []place) []int64 {
	first := map[place]int64{}
	for _, x := range h.runs {
		if before, ok := first[x.at]; x.ended != 0 && (!ok || x.ended < before) {
			first[x.at] = x.ended
		}
	}
	all, latest := make([]int64, len(places)), int64(0)
	for i, at := range places {
		end, ok := first[at]
		if !ok {
			end = forEver
		}
		latest = max(latest, end)
		all[i] = latest
	}
	return all
}

// checkOrder wants no message of a key begun before those that were sent before it
// have been finished, and none of them twice under one lease, nor backwards.
func (h *History) checkOrder() {
	byKey := map[string][]place{}
	for at, m := range h.acked {
		byKey[m.key] = append(byKey[m.key], at)
	}
	for key, places := range byKey {
		slices.SortFunc(places, func(a, b place) int { return cmp.Compare(h.acked[a].seq, h.acked[b].seq) })
		ends, number := h.ends(places), map[place]int{}
		for i, at := range places {
			number[at] = i
			if i > 0 && (at.queue != places[0].queue || at.offset <= places[i-1].offset) {
				h.faultLocked("%v is stored at %v, after one at %v", h.acked[at], at, places[i-1])
			}
		}
		h.checkKey(key, number, ends)
	}
}

func (h *History) checkKey(key string, number map[place]int, ends []int64) {
	last := map[uint64]int{} // by fence
	for _, x := range h.runs {
		i, ok := number[x.at]
		if !ok {
			continue
		}
		if i > 0 && x.began < ends[i-1] {
			h.faultLocked("%s begins %s, before one that comes before it has ended", x.member, x.body)
		}
		s := h.ledger.spanOf(x.at.queue, x.member, x.began)
		if s == nil {
			continue
		}
		if before, again := last[s.fence]; again && i <= before {
			h.faultLocked("%s begins %s after number %d of key %s under the same lease", x.member, x.body, before, key)
		}
		last[s.fence] = i
	}
}

// checkAlone wants no two handlers for one key at once, as far as both had a lease.
func (h *History) checkAlone() {
	type busy struct {
		*run
		until int64
	}
	last := map[string]busy{} // by key
	for _, x := range h.runs {
		s := h.ledger.spanOf(x.at.queue, x.member, x.began)
		if s == nil {
			continue
		}
		key := h.acked[x.at].key
		if before := last[key]; before.run != nil && x.began < before.until {
			h.faultLocked("%s begins %s while %s handles %s", x.member, x.body, before.member, before.body)
		}
		if until := min(h.end(x), s.to); until >= last[key].until {
			last[key] = busy{x, until}
		}
	}
}

// end is when a handler had ended, or died.
func (h *History) end(x *run) int64 {
	switch {
	case x.ended != 0:
		return x.ended
	case h.members[x.member].killed != 0:
		return h.members[x.member].killed
	}
	return forEver
}

// checkCommits wants offsets committed of what was finished, by who owned the queue.
func (h *History) checkCommits() {
	byQueue := map[int][]place{}
	for at := range h.acked {
		byQueue[at.queue] = append(byQueue[at.queue], at)
	}
	ends := map[int][]int64{}
	for q, places := range byQueue {
		slices.SortFunc(places, func(a, b place) int { return cmp.Compare(a.offset, b.offset) })
		if n := int64(len(places)); places[n-1].offset != n-1 {
			h.faultLocked("queue %d has %d messages up to offset %d", q, n, places[n-1].offset)
			return
		}
		ends[q] = h.ends(places)
	}
	for _, c := range h.ledger.commits {
		h.checkCommit(c, ends[c.queue])
	}
}

func (h *History) checkCommit(c commit, ends []int64) {
	s := h.ledger.byFence(c.queue, c.fence)
	switch {
	case s == nil:
		h.faultLocked("queue %d: offset %d is committed with the fence %d of no lease", c.queue, c.offset, c.fence)
	case c.when > s.to && c.when-s.to > int64(leeway):
		h.faultLocked("queue %d: %s commits offset %d %d ms after the end of its lease", c.queue, s.member, c.offset, (c.when-s.to)/1000)
	case !c.counted || c.offset == 0:
	case c.offset > int64(len(ends)):
		h.faultLocked("queue %d: offset %d is committed, beyond the end %d", c.queue, c.offset, len(ends))
	case c.when+1000 < ends[c.offset-1]:
		h.faultLocked("queue %d: %s commits offset %d before all below were finished", c.queue, s.member, c.offset)
	}
}

// checkWoken wants a member that slept while its queues went to others to let go of
// them.
func (h *History) checkWoken() {
	for q, spans := range h.ledger.spans {
		for i, s := range spans {
			m := h.members[s.member]
			for _, a := range m.frozen {
				asleep := a.to != 0 && a.from < s.to && s.to < a.to && m.killed == 0
				if !asleep || i+1 == len(spans) || spans[i+1].from > a.to {
					continue
				}
				if m.lost[q] >= a.to {
					h.counts.Lost++
				} else {
					h.faultLocked("%s is woken and does not let go of queue %d, which is %s's", s.member, q, spans[i+1].member)
				}
			}
		}
	}
}

// checkAgain counts what came again; where every leave was clean, nothing may.
func (h *History) checkAgain() {
	clean, begun := h.counts.Killed+h.counts.Frozen == 0, map[place]string{}
	for _, x := range h.runs {
		if before, again := begun[x.at]; again {
			h.counts.Again++
			if clean {
				h.faultLocked("%s at %v came to %s and again to %s, though every leave was clean", x.body, x.at, before, x.member)
			}
		}
		begun[x.at] = x.member
	}
}

// CheckCommitted wants the group's offsets, as a running server tells them, to be
// those that the rules give.
func (h *History) CheckCommitted(told map[int]int64) error {
	var errs []error
	for q, want := range h.ledger.committed {
		if told[q] != want {
			errs = append(errs, fmt.Errorf("queue %d: the server says offset %d, the rules say %d", q, told[q], want))
		}
	}
	return errors.Join(errs...)
}
