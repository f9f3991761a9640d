package timer

// entry is a timer record with messages that wait. A million of them are kept:
// the common one, of one message, is no larger than this.
type entry struct {
	origin, at, topic uint64
	queue, bytes      uint32
	one               int64 // when the message of position 0 is due, if it is the only one
	more              *several
}

// several is when the messages of a batch are due, by position; gone for one that
// does not wait.
type several struct {
	left   int
	millis []int64
}

func (e *entry) set(millis []int64) {
	if len(millis) == 1 {
		e.one = millis[0]
		return
	}
	e.more = &several{millis: millis}
	for _, m := range millis {
		if m != gone {
			e.more.left++
		}
	}
}

// millis is when a message is due; gone when it does not wait.
func (e *entry) millis(position int) int64 {
	switch {
	case e.more == nil && position == 0:
		return e.one
	case e.more != nil && position >= 0 && position < len(e.more.millis):
		return e.more.millis[position]
	}
	return gone
}

// take takes a message away that waits, and returns how many are left.
func (e *entry) take(position int) int {
	if e.more == nil {
		e.one = gone
		return 0
	}
	e.more.millis[position] = gone
	e.more.left--
	return e.more.left
}

// each hands over the keys of the messages that wait, by position.
func (e *entry) each(visit func(Key)) {
	if e.more == nil {
		visit(Key{Millis: e.one, Origin: e.origin})
		return
	}
	for i, m := range e.more.millis {
		if m != gone {
			visit(Key{Millis: m, Origin: e.origin, Position: int32(i)})
		}
	}
}

func (e *entry) left() int {
	if e.more == nil {
		return 1
	}
	return e.more.left
}
