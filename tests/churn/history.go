//go:build linux

package churn

import (
	"fmt"
	"sync"
)

// place is where a message is stored.
type place struct {
	queue  int
	offset int64
}

// sent is a message: the key whose messages keep their order, and its place in what
// was sent of that key.
type sent struct {
	key string
	seq int
}

func (s sent) String() string { return fmt.Sprintf("%s/%d", s.key, s.seq) }

// run is a call of a handler.
type run struct {
	member string
	at     place
	body   string
	began  int64 // in microseconds, as all times here
	ended  int64 // 0: never
}

// absence is a time for which a member did nothing.
type absence struct{ from, to int64 }

// life is what was done to a member, and what it found.
type life struct {
	killed int64 // 0: it was not
	frozen []absence
	lost   map[int]int64 // when it let go of a queue, the last time
}

// History is what happened in one run. Its methods are safe for concurrent use,
// those of Check after all members have ended.
type History struct {
	mu      sync.Mutex
	acked   map[place]sent
	runs    []*run
	open    map[string]map[place]*run // by member
	ended   map[place]bool
	members map[string]*life
	counts  Counts
	faults  []error

	ledger ledger
}

// Counts are what was done in a run, and what came of it.
type Counts struct {
	Messages, Joined, Left, Killed, Frozen, Restarted int
	// Missing counts the messages that no handler finished.
	Missing int
	// Again counts calls of handlers for messages that had one before.
	Again int
	// Late counts the calls of a woken member that began or ended when their queue was
	// not its own any more, and Lost the queues that it then let go of.
	Late, Lost int
}

// Plus is the sum of both.
func (c Counts) Plus(o Counts) Counts {
	return Counts{
		Messages: c.Messages + o.Messages, Joined: c.Joined + o.Joined, Left: c.Left + o.Left, Killed: c.Killed + o.Killed,
		Frozen: c.Frozen + o.Frozen, Restarted: c.Restarted + o.Restarted, Missing: c.Missing + o.Missing,
		Again: c.Again + o.Again, Late: c.Late + o.Late, Lost: c.Lost + o.Lost,
	}
}

func newHistory() *History {
	return &History{acked: map[place]sent{}, open: map[string]map[place]*run{}, ended: map[place]bool{}, members: map[string]*life{}}
}

func (h *History) fault(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faultLocked(format, args...)
}

func (h *History) faultLocked(format string, args ...any) {
	h.faults = append(h.faults, fmt.Errorf(format, args...))
}

// acknowledged enters a message that is stored.
func (h *History) acknowledged(at place, m sent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if other, twice := h.acked[at]; twice {
		h.faultLocked("%v and %v are both acknowledged at %v", other, m, at)
	}
	h.acked[at] = m
}

// joins enters a member.
func (h *History) joins(member string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.members[member] = &life{lost: map[int]int64{}}
	h.open[member] = map[place]*run{}
	h.counts.Joined++
}

// change changes what is known of a member, and counts.
func (h *History) change(member string, do func(*life, *Counts)) {
	h.count(func(c *Counts) { do(h.members[member], c) })
}

func (h *History) count(do func(*Counts)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	do(&h.counts)
}

// reported enters what a member said.
func (h *History) reported(member string, r report) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at := place{r.Queue, r.Offset}
	switch r.What {
	case beganHandler:
		x := &run{member: member, at: at, body: r.Body, began: r.Micros}
		h.runs = append(h.runs, x)
		if h.open[member][at] != nil {
			h.faultLocked("%s handles the message at %v twice at once", member, at)
		}
		h.open[member][at] = x
	case endedHandler:
		h.endLocked(member, at, r.Micros)
	case lostQueue:
		h.members[member].lost[r.Queue] = r.Micros
	}
}

func (h *History) endLocked(member string, at place, when int64) {
	x := h.open[member][at]
	if x == nil {
		h.faultLocked("%s ends a handler at %v that never began", member, at)
		return
	}
	delete(h.open[member], at)
	x.ended = when
	h.ended[at] = true
}

// unfinished is how many of the stored messages no handler has finished.
func (h *History) unfinished() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for at := range h.acked {
		if !h.ended[at] {
			n++
		}
	}
	return n
}
