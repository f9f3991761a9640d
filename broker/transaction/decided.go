package transaction

import (
	"slices"

	"github.com/rmqio/rmq/message"
)

// decided is the last decisions, oldest first. Each has a number; numbers are
// consecutive.
type decided struct {
	limit  int
	first  uint64 // number of the first one that is remembered
	list   []Verdict
	gone   int // how many at the front of list are forgotten
	number map[Key]uint64
}

func newDecided(limit int) decided { return decided{limit: limit, number: map[Key]uint64{}} }

func (d *decided) len() int { return len(d.list) - d.gone }

func (d *decided) find(k Key) (Verdict, bool) {
	if n, ok := d.number[k]; ok {
		return *d.at(n), true
	}
	return Verdict{}, false
}

func (d *decided) findID(id message.ID) (Verdict, bool) {
	for _, v := range slices.Backward(d.list[d.gone:]) {
		if v.ID == id {
			return v, true
		}
	}
	return Verdict{}, false
}

// at returns the decision with a number; nil when it is not remembered.
func (d *decided) at(number uint64) *Verdict {
	if number < d.first || number-d.first >= uint64(d.len()) {
		return nil
	}
	return &d.list[d.gone+int(number-d.first)]
}

// add remembers a decision and forgets those that are too old or too many then.
// It returns the numbers of all these.
func (d *decided) add(v Verdict) (changed []uint64) {
	n := d.first + uint64(d.len())
	d.list = append(d.list, v)
	d.number[v.Key] = n
	changed = append(changed, n)
	for d.len() > d.limit || d.at(d.first).StoreMillis < v.StoreMillis-DecidedFor.Milliseconds() {
		changed = append(changed, d.first)
		d.forget()
	}
	return changed
}

// forget removes the oldest. What is at the front of list is given back when it
// is half of it.
func (d *decided) forget() {
	delete(d.number, d.list[d.gone].Key)
	d.first++
	if d.gone++; d.gone > len(d.list)/2 {
		d.list = append([]Verdict(nil), d.list[d.gone:]...)
		d.gone = 0
	}
}

// load takes a decision with its number; numbers come ascending.
func (d *decided) load(number uint64, v Verdict) bool {
	if d.len() == 0 {
		d.first = number
	}
	if _, twice := d.number[v.Key]; twice || number != d.first+uint64(d.len()) {
		return false
	}
	d.list = append(d.list, v)
	d.number[v.Key] = number
	return true
}
