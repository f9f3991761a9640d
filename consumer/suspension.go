package consumer

import (
	"maps"

	"github.com/rmqio/rmq/message"
)

// suspension says which queues nothing is handed out of. What was said last of a
// queue holds, whether it was said of the queue, its topic, or everything; also for
// queues that come later.
type suspension struct {
	all    bool
	topics map[string]bool
	queues map[message.Queue]bool
}

func newSuspension() suspension {
	return suspension{topics: map[string]bool{}, queues: map[message.Queue]bool{}}
}

// of reports whether a queue is suspended.
func (s suspension) of(q message.Queue) bool {
	if v, said := s.queues[q]; said {
		return v
	}
	if v, said := s.topics[q.Topic]; said {
		return v
	}
	return s.all
}

// some reports whether something is suspended.
func (s suspension) some() bool {
	for _, v := range s.topics {
		if v {
			return true
		}
	}
	for _, v := range s.queues {
		if v {
			return true
		}
	}
	return s.all
}

// set says it of topics; of everything when there are none.
func (s *suspension) set(suspended bool, topics []string) {
	if len(topics) == 0 {
		*s = newSuspension()
		s.all = suspended
	}
	for _, t := range topics {
		s.topics[t] = suspended
		maps.DeleteFunc(s.queues, func(q message.Queue, _ bool) bool { return q.Topic == t })
	}
}

func (s *suspension) setQueues(suspended bool, queues []message.Queue) {
	for _, q := range queues {
		s.queues[q] = suspended
	}
}

func (s suspension) clone() suspension {
	return suspension{all: s.all, topics: maps.Clone(s.topics), queues: maps.Clone(s.queues)}
}
