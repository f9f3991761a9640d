//go:build linux

package crash

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
)

// Ledger is what a writer said before its end.
type Ledger struct {
	// Acked is the offset after the last message of each queue that was
	// acknowledged.
	Acked [Queues]int64
	// Trim is the offset of each queue below which retention may have dropped
	// messages.
	Trim [Queues]int64
	// Refused counts the errors that the log answered with, by kind.
	Refused map[string]int
	// Complaints are what the writer itself found wrong.
	Complaints []string
	// Done says that a script came to its end.
	Done bool
}

// Total is how many messages were acknowledged.
func (l *Ledger) Total() (n int64) {
	for _, end := range l.Acked {
		n += end
	}
	return n
}

func (l *Ledger) clone() Ledger {
	c := *l
	c.Refused = maps.Clone(l.Refused)
	return c
}

// The lines of a writer are words; the first one says what kind it is.
const (
	sayAck     = "ack"     // queue, offset after the last message
	sayTrim    = "trim"    // queue, offset
	sayRefused = "refused" // kind of error
	sayWrong   = "wrong"   // what
	sayDone    = "done"
)

// enter takes in a line. A line that a kill cut short says less than the whole
// one, never something else.
func (l *Ledger) enter(line string) {
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case sayAck:
		enterOffset(&l.Acked, rest)
	case sayTrim:
		enterOffset(&l.Trim, rest)
	case sayRefused:
		if l.Refused == nil {
			l.Refused = map[string]int{}
		}
		l.Refused[rest]++
	case sayDone:
		l.Done = true
	case sayWrong:
		l.Complaints = append(l.Complaints, rest)
	default:
		l.Complaints = append(l.Complaints, line) // a panic, for one
	}
}

func enterOffset(offsets *[Queues]int64, text string) {
	a, b, _ := strings.Cut(text, " ")
	queue, err := strconv.Atoi(a)
	offset, err2 := strconv.ParseInt(b, 10, 64)
	if err == nil && err2 == nil && queue >= 0 && queue < Queues {
		offsets[queue] = max(offsets[queue], offset)
	}
}

// complaint is an error with everything that the writer found wrong.
func (l *Ledger) complaint() error {
	if len(l.Complaints) == 0 {
		return nil
	}
	return fmt.Errorf("the writer says: %s", strings.Join(l.Complaints[:min(len(l.Complaints), 12)], "\n\t"))
}
