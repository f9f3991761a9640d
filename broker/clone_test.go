package broker

import (
	"testing"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// A group's retry topic means nothing to another group, and an offset of messages
// that were dropped or lost is none.
func TestClone_LeavesTheRetryTopicAndStaysInTheQueue(t *testing.T) {
	h := newHolding(t)
	orders, retry := h.topic("orders", 1), h.topic(message.RetryPrefix+"from", 1)
	rows := []group.Offset{{TopicID: orders.ID, Offset: 7}, {TopicID: retry.ID, Offset: 0}}
	h.check(h.state.append(t.Context(), store.Record{Type: store.OffsetsRecord, Data: group.EncodeOffsets("from", rows)}))
	a := &groupAdmin{state: h.state, clients: newClients(h.state, nil, Config{Now: h.state.now}), now: h.state.now}
	resp, planned, err := a.planClone(&protocol.CloneOffsetsRequest{From: "from", To: "to"})
	h.check(err)
	if len(resp.Queues) != 1 || resp.Queues[0].Topic != "orders" || resp.Queues[0].After != 0 || len(planned) != 1 || planned[0].Offset != 0 {
		t.Errorf("got %+v, planned %+v", resp.Queues, planned)
	}
	queues, err := a.lag("from", map[uint64]bool{orders.ID: true}, new(lagBudget()))
	if err != nil || len(queues) != 1 || queues[0].Lag != 0 || queues[0].LagMillis != 0 {
		t.Errorf("lag of what was lost: %+v, %v", queues, err)
	}
}
