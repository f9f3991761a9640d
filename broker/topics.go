package broker

import (
	"cmp"
	"context"
	"errors"
	"sync"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// topicAdmin creates, changes, deletes and lists topics.
type topicAdmin struct {
	state        *state
	cfg          Config
	registration *registration

	mu sync.Mutex // one change at a time, from the look at the view to the record applied
}

func (a *topicAdmin) register(m *transport.Mux) {
	transport.Handle(m, a.putTopic)
	transport.Handle(m, a.deleteTopic)
	transport.Handle(m, a.listTopics)
}

// putTopic answers when the topic is on disk and the name servers have been
// told, so that whoever asked finds the route.
func (a *topicAdmin) putTopic(ctx context.Context, r *protocol.PutTopicRequest) (*protocol.PutTopicResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	cfg, change, err := a.decide(r)
	if err != nil || !change {
		return &protocol.PutTopicResponse{Topic: cfg}, err
	}
	if err := topic.Validate(cfg); err != nil {
		return nil, err
	}
	base := a.state.topics.Version()
	if err := a.state.append(ctx, store.Record{Type: store.TopicRecord, Data: topic.EncodePut(cfg)}); err != nil {
		return nil, err
	}
	a.registration.update(ctx, &topicChange{base: base, put: []protocol.TopicConfig{cfg}})
	return &protocol.PutTopicResponse{Topic: cfg}, nil
}

// system returns a topic of the broker's own, and creates it when it is not there.
func (a *topicAdmin) system(ctx context.Context, cfg protocol.TopicConfig) (topic.Topic, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if t, ok := a.state.topics.Lookup(cfg.Name); ok {
		return t, nil
	}
	base := a.state.topics.Version()
	if err := a.state.append(ctx, store.Record{Type: store.TopicRecord, Data: topic.EncodePut(cfg)}); err != nil {
		return topic.Topic{}, err
	}
	a.registration.update(ctx, &topicChange{base: base, put: []protocol.TopicConfig{cfg}})
	return a.state.topic(cfg.Name)
}

// decide says what the topic is to be, and whether that is a change.
func (a *topicAdmin) decide(r *protocol.PutTopicRequest) (cfg protocol.TopicConfig, change bool, err error) {
	old, exists := a.state.topics.Lookup(r.Topic.Name)
	switch {
	case r.Mode == protocol.PutAuto && exists:
		return old.TopicConfig, false, nil
	case r.Mode == protocol.PutAuto && a.cfg.NoAutoCreateTopics:
		return cfg, false, protocol.Errorf(protocol.TopicNotFound, "topic %q is not known, and auto-creation is off", r.Topic.Name)
	case r.Mode == protocol.PutAuto:
		n := a.cfg.DefaultQueues
		return protocol.TopicConfig{Name: r.Topic.Name, ReadQueues: n, WriteQueues: n, Perm: message.PermReadWrite}, true, nil
	case r.Mode == protocol.PutCreate && exists:
		return cfg, false, protocol.Errorf(protocol.Conflict, "topic %q exists", r.Topic.Name)
	case r.Mode == protocol.PutAlter && !exists:
		return cfg, false, protocol.Errorf(protocol.TopicNotFound, "topic %q is not known", r.Topic.Name)
	case r.Mode == protocol.PutCreate || r.Mode == protocol.PutAlter:
		return r.Topic, r.Topic != old.TopicConfig, nil
	}
	return cfg, false, protocol.Errorf(protocol.InvalidArgument, "mode %q of a put", r.Mode)
}

func (a *topicAdmin) deleteTopic(ctx context.Context, r *protocol.DeleteTopicRequest) (*protocol.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, err := a.state.topic(r.Topic)
	if err != nil {
		return nil, err
	}
	record := store.Record{Type: store.TopicDeleteRecord, Queue: store.QueueKey{Topic: t.ID}, Data: topic.EncodeDelete(r.Topic)}
	base := a.state.topics.Version()
	if err := a.state.append(ctx, record); err != nil {
		return nil, err
	}
	a.registration.update(ctx, &topicChange{base: base, removed: []string{r.Topic}})
	return &protocol.Empty{}, nil
}

func (a *topicAdmin) listTopics(_ context.Context, r *protocol.ListTopicsRequest) (*protocol.ListTopicsResponse, error) {
	topics := a.state.topics.List()
	if r.Topic != "" {
		t, err := a.state.topic(r.Topic)
		if err != nil {
			return nil, err
		}
		topics = []topic.Topic{t}
	}
	resp := &protocol.ListTopicsResponse{Topics: make([]protocol.TopicStatus, len(topics))}
	var traffic map[uint64]*protocol.TopicTraffic
	if r.Stats {
		traffic = a.traffic()
	}
	for i, t := range topics {
		resp.Topics[i].TopicConfig = t.TopicConfig
		if !r.Stats {
			continue
		}
		resp.Topics[i].Traffic = cmp.Or(traffic[t.ID], new(protocol.TopicTraffic))
		for q := range max(t.ReadQueues, t.WriteQueues) {
			s, err := a.queueStatus(store.QueueKey{Topic: t.ID, Queue: uint32(q)})
			if err != nil {
				return nil, err
			}
			resp.Topics[i].Queues = append(resp.Topics[i].Queues, s)
		}
	}
	return resp, nil
}

// traffic is what was counted, by topic.
func (a *topicAdmin) traffic() map[uint64]*protocol.TopicTraffic {
	byTopic := map[uint64]*protocol.TopicTraffic{}
	of := func(id uint64) *protocol.TopicTraffic {
		if byTopic[id] == nil {
			byTopic[id] = &protocol.TopicTraffic{}
		}
		return byTopic[id]
	}
	for _, t := range a.state.meters.Topics(func(uint64) bool { return true }) {
		for _, in := range t.In {
			of(t.ID).InMessages += in.Messages
			of(t.ID).InBytes += in.Bytes
		}
	}
	for _, g := range a.state.meters.Groups(func(string, uint64) bool { return true }) {
		of(g.Topic).OutMessages += g.Out.Messages
		of(g.Topic).OutBytes += g.Out.Bytes
	}
	return byTopic
}

func (a *topicAdmin) queueStatus(key store.QueueKey) (protocol.QueueStatus, error) {
	s := protocol.QueueStatus{Queue: int(key.Queue)}
	err := a.state.within(key, func(first, end int64) (err error) {
		s.Min, s.End = first, end
		if first == end {
			return nil
		}
		if s.LastStoreMillis, err = a.state.log.StoredAt(key, end-1); err != nil {
			return err
		}
		if s.FirstStoreMillis, err = a.state.log.StoredAt(key, first); errors.Is(err, store.ErrDamaged) {
			return nil // what is not, is told
		}
		return err
	})
	return s, err
}
