package consumer

// lane is what a queue holds of messages that are handled one after another: those
// of a message group, or with Ordered all. A batch may have several of them.
type lane struct {
	busy   int // ready, running or failed: one, or the messages of one batch
	behind fifo[*item]
}

// leaveLane lets the next message of a lane go ahead, when all that were handed out
// together are out of the way.
func (q *processQueue) leaveLane(it *item) {
	l := q.lanes[it.lane]
	if l.busy--; l.busy > 0 {
		return
	}
	if next := l.behind.pop(); next != nil {
		l.busy = 1
		q.ready.push(next)
	} else {
		delete(q.lanes, it.lane)
	}
}

// follow starts the message behind one of a lane that was started, to be handled in
// the same batch; nil when there is none for that.
func (q *processQueue) follow(it *item) *item {
	if !it.laned {
		return nil
	}
	l := q.lanes[it.lane]
	if l.behind.len() == 0 || !(*l.behind.front()).fresh() {
		return nil
	}
	next := l.behind.pop()
	l.busy++
	q.started(next)
	return next
}

// takeBatch starts up to so many ready messages of equal priority or above: those of
// a lane in their order, one after another. A message that was delivered before comes
// alone, so that the one for which a batch fails is found.
func (q *processQueue) takeBatch(most, priority int) []*item {
	var items []*item
	for len(items) < most && q.takable() && q.priority() >= priority {
		if next := *q.ready.front(); !next.fresh() {
			if len(items) == 0 {
				items = append(items, q.take())
			}
			break
		}
		it := q.take()
		for ; it != nil; it = q.follow(it) {
			if items = append(items, it); len(items) == most {
				break
			}
		}
	}
	return items
}

// untake takes the messages back that were started with one of their lane and behind
// it, which fails: they are handed out again after it, and it is as if they had not
// been.
func (q *processQueue) untake(first *item) {
	items := first.followers
	first.followers = nil
	q.running -= len(items)
	if q.state == queueClosed || len(items) == 0 {
		return
	}
	for _, it := range items {
		it.Attempt--
	}
	q.waiting += len(items)
	l := q.lanes[first.lane]
	l.busy -= len(items)
	l.behind.pushFront(items...)
}

// fresh reports that nobody has handled the message yet.
func (it *item) fresh() bool { return it.Attempt == 0 }
