package store

// sealJob is a full segment, with what sealing needs to know.
type sealJob struct {
	segment *segment
	ends    queueEnds
	last    uint64 // log index of its last record
	chain   uint32 // checksum of its last chunk
	millis  int64  // store time of its last record
}

// sealed is the segment's entry in the manifest once it is sealed.
func (j *sealJob) sealed(i segmentInfo) segmentInfo {
	i.Sealed, i.Last, i.LastChain, i.LastMillis = true, j.last, j.chain, j.millis
	return i
}

// sealFull is the goroutine that seals full segments, off the path of appends. One
// that cannot be sealed now stays readable and is sealed when the log is opened next.
func (l *Log) sealFull() {
	for job := range l.full {
		if err := l.seal(job); err != nil {
			l.logger.Error("seal segment", "err", err)
		}
	}
}

func (l *Log) seal(job sealJob) error {
	if err := job.segment.seal(job); err != nil {
		return err
	}
	l.logger.Info("segment sealed", "path", job.segment.path, "last", job.last)
	return l.manifest.update(func(m *manifest) {
		for i := range m.Segments {
			if m.Segments[i].First == job.segment.info.First {
				m.Segments[i] = job.sealed(m.Segments[i])
			}
		}
	})
}
