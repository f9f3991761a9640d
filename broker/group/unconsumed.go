package group

// Unconsumed says what groups still have to consume, as of one moment.
type Unconsumed struct {
	readers map[uint64]int // groups with an offset or a lease in the topic
	lowest  map[place]lowest
}

// lowest is the lowest committed offset in a queue.
type lowest struct {
	offset int64
	groups int // that have committed there
}

// Unconsumed looks at all groups.
func (v *View) Unconsumed() Unconsumed {
	u := Unconsumed{readers: map[uint64]int{}, lowest: map[place]lowest{}}
	v.mu.RLock()
	defer v.mu.RUnlock()
	for _, g := range v.groups {
		topics := map[uint64]struct{}{}
		for at, p := range g.queues {
			topics[at.topic] = struct{}{}
			if p.committed != none {
				u.lowest[at] = u.lowest[at].with(p.committed)
			}
		}
		for id := range topics {
			u.readers[id]++
		}
	}
	return u
}

func (l lowest) with(offset int64) lowest {
	if l.groups == 0 || offset < l.offset {
		l.offset = offset
	}
	l.groups++
	return l
}

// From is the first offset of a queue that is needed still: the lowest that is
// committed by the groups that have an offset or a lease in the topic. It is 0
// while one of them has committed nothing in this queue, and while there is no
// such group.
func (u Unconsumed) From(topicID uint64, queue int) int64 {
	l := u.lowest[placeOf(topicID, queue)]
	if l.groups < u.readers[topicID] {
		return 0
	}
	return l.offset
}
