package store

// applier is the goroutine that takes in what is committed, in log order.
type applier struct{ *Log }

func (a *applier) run() {
	defer close(a.full)
	for c := range a.committed {
		switch {
		case c.reached != nil:
			close(c.reached)
		case c.full != nil:
			c.full.ends, c.full.millis = a.catalog.atEnd()
			a.full <- *c.full
		default:
			a.apply(c)
		}
	}
}

func (a *applier) apply(c commit) {
	a.newest.add(c.chunk)
	if err := c.segment.enter(c.chunk); err != nil {
		a.logger.Error("key index", "err", err)
	}
	a.catalog.advance(c.chunk)
	for i := range c.chunk.rows() {
		r := c.chunk.record(i)
		if err := a.opts.Apply(r); err != nil {
			a.logger.Error("apply record", "index", r.Index, "type", r.Type, "err", err)
		}
	}
	a.waiters.notify(c.chunk)
	var bytes int64
	for _, p := range c.records {
		bytes += int64(len(p.Data))
	}
	a.tail.release(bytes)
	a.opts.Answer(func() {
		for _, p := range c.records {
			p.answer(nil)
		}
	})
	a.newest.trim()
}
