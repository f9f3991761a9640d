package tests

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
)

// Messages of all kinds are sent at once to one queue of a topic of each type: a
// message of the wrong kind is refused, and none of the others with it.
func TestKinds_TheWrongOneIsRefusedAlone(t *testing.T) {
	p := newProduction(t, producer.Config{SendTimeout: harness.Timeout})
	a, err := admin.New(t.Context(), admin.Config{NameServers: p.cluster.NameServers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	kinds := map[string]message.Message{
		"normal": {}, "grouped": {Group: "g"}, "delayed": {Delay: time.Hour}, "urgent": {Priority: 3},
	}
	for topic, legal := range map[message.Kind]string{
		message.Normal: "normal", message.FIFO: "grouped", message.Delayed: "delayed", message.Transaction: "",
		message.Priority: "normal urgent", message.Mixed: "normal grouped delayed urgent",
	} {
		name := string(topic)
		if _, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: name, ReadQueues: 1, WriteQueues: 1, Type: topic}, admin.Target{}); err != nil {
			t.Fatal(err)
		}
		const each = 12
		type outcome struct {
			kind string
			err  error
		}
		done := make(chan outcome, each*len(kinds))
		for i := range each {
			for kind, m := range kinds {
				m.Topic, m.Body = name, fmt.Append(nil, i)
				p.producer.SendAsync(t.Context(), &m, func(_ producer.Receipt, err error) { done <- outcome{kind, err} })
			}
		}
		stored := map[string]int{}
		for range cap(done) {
			o := <-done
			switch {
			case o.err == nil:
				stored[o.kind]++
			case !errors.Is(o.err, producer.ErrIllegalMessage):
				t.Errorf("%s: a %s message: %v", topic, o.kind, o.err)
			}
		}
		for kind := range kinds {
			want := 0
			if slices.Contains(strings.Fields(legal), kind) {
				want = each
			}
			if stored[kind] != want {
				t.Errorf("a topic of type %s has taken %d of %d %s messages, want %d", topic, stored[kind], each, kind, want)
			}
		}
	}
}
