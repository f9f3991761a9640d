package broker_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestTransactions_NothingIsVisibleBeforeCommit(t *testing.T) {
	d := newClocked(t)
	d.topic("orders", 2)
	p := d.producer("shop", "p1")
	full := d.message("kept", immune(time.Hour), func(m *message.Message) {
		m.Tag, m.Keys, m.Properties, m.Priority = "tag", []string{"k1", "k2"}, map[string]string{"a": "b"}, 3
	})
	held := p.halves("orders", 1, full, d.message("dropped"), d.message("unknown"))
	_, err := p.send(batch.Lead{Topic: "orders", Queue: 1}, d.message("plain"))
	d.check(err)
	d.wantVisible("orders", "plain")

	if r := d.mustEnd(held[2], protocol.Unknown); r.Queue != 1 || r.Offset != -1 {
		t.Errorf("unknown: got %+v", r)
	}
	if r := d.mustEnd(held[1], protocol.Rollback); r.Queue != 1 || r.Offset != -1 {
		t.Errorf("rollback: got %+v", r)
	}
	d.wantVisible("orders", "plain")
	d.wantPending(2)
	d.pass(time.Minute)
	r := d.mustEnd(held[0], protocol.Commit)
	if r.Queue != 1 || r.Offset != 1 || r.StoreMillis != d.clock.Load() {
		t.Errorf("commit: got %+v", r)
	}
	d.wantVisible("orders", "plain", "kept")
	d.wantPending(1)
	got := d.stored("orders")[1]
	if got.ID != full.ID || got.Tag != "tag" || strings.Join(got.Keys, " ") != "k1 k2" || got.Properties["a"] != "b" || got.Priority != 3 ||
		!got.BornTime.Equal(full.BornTime) || got.CheckImmunity != 0 || len(got.Properties) != 1 || got.QueueOffset != 1 || got.Queue.ID != 1 {
		t.Errorf("the committed message is %+v", got)
	}
}

func TestTransactions_FirstDecisionHolds(t *testing.T) {
	d := newClocked(t)
	d.topic("orders", 1)
	p := d.producer("shop", "p1")
	held := p.halves("orders", 0, d.message("yes"), d.message("no"))
	yes, no := held[0], held[1]
	committed := d.mustEnd(yes, protocol.Commit)
	rolledBack := d.mustEnd(no, protocol.Rollback)
	for round := range 3 {
		d.pass(time.Hour)
		if r := d.mustEnd(yes, protocol.Commit); r != committed {
			t.Errorf("round %d: commit again: got %+v, want %+v", round, r, committed)
		}
		if r := d.mustEnd(no, protocol.Rollback); r != rolledBack {
			t.Errorf("round %d: rollback again: got %+v, want %+v", round, r, rolledBack)
		}
		for _, h := range held {
			if r := d.mustEnd(h, protocol.Unknown); r.Offset != -1 {
				t.Errorf("round %d: unknown: got %+v", round, r)
			}
		}
		if _, err := d.end(yes, protocol.Rollback); !errors.Is(err, protocol.Conflict) || !strings.Contains(err.Error(), "was commit") {
			t.Errorf("round %d: rollback of what was committed: got %v", round, err)
		}
		if _, err := d.end(no, protocol.Commit); !errors.Is(err, protocol.Conflict) || !strings.Contains(err.Error(), "was rollback") {
			t.Errorf("round %d: commit of what was rolled back: got %v", round, err)
		}
		d.wantVisible("orders", "yes")
		d.wantPending(0)
		d.restart()
	}
	// A decision is forgotten a day after it, when others are made.
	d.pass(24 * time.Hour)
	d.mustEnd(d.producer("shop", "p1").half("orders", "later"), protocol.Rollback)
	if _, err := d.end(yes, protocol.Commit); !errors.Is(err, protocol.NotFound) {
		t.Errorf("after a day: got %v, want NotFound", err)
	}
}

func TestTransactions_Forged(t *testing.T) {
	d := newDeciding(t)
	d.topic("orders", 1)
	d.topic("others", 1)
	p := d.producer("shop", "p1")
	open := p.halves("orders", 0, d.message("a"), d.message("b"))[0]
	decided := p.half("orders", "c")
	d.mustEnd(decided, protocol.Commit)
	_, err := p.send(batch.Lead{Topic: "orders"}, d.message("plain"))
	d.check(err)
	for _, genuine := range []protocol.Held{open, decided} {
		for what, change := range map[string]func(*protocol.Held){
			"another's id":         func(h *protocol.Held) { h.ID = d.ids.Next().String() },
			"no id":                func(h *protocol.Held) { h.ID = "" },
			"another topic":        func(h *protocol.Held) { h.Topic = "others" },
			"no topic":             func(h *protocol.Held) { h.Topic = "" },
			"another position":     func(h *protocol.Held) { h.Position++ },
			"a position too far":   func(h *protocol.Held) { h.Position = 1 << 30 },
			"a negative position":  func(h *protocol.Held) { h.Position = -1 },
			"another record":       func(h *protocol.Held) { h.Origin = 1 },
			"a plain batch":        func(h *protocol.Held) { h.Origin = decided.Origin + 2 },
			"beyond the log":       func(h *protocol.Held) { h.Origin = 1 << 60 },
			"no record":            func(h *protocol.Held) { h.Origin = 0 },
			"the id in upper case": func(h *protocol.Held) { h.ID = strings.ToUpper("abcdef" + h.ID[6:]) },
		} {
			h := genuine
			change(&h)
			for _, decision := range []protocol.Decision{protocol.Commit, protocol.Rollback, protocol.Unknown} {
				if _, err := d.end(h, decision); !errors.Is(err, protocol.NotFound) {
					t.Errorf("%s of %s: %s: got %v, want NotFound", heldText(genuine), what, decision, err)
				}
			}
		}
	}
	if _, err := d.end(open, "perhaps"); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("a decision that is none: got %v", err)
	}
	d.wantVisible("orders", "c", "plain")
	d.wantPending(2)
}

func TestTransactions_Refused(t *testing.T) {
	d := newDeciding(t)
	d.topic("orders", 1)
	shop, nobody, illegal := d.producer("shop", "p1"), d.producer("", "p1"), d.producer("no group", "p1")
	with := func(f func(*message.Message)) *message.Message { return d.message("x", f) }
	for _, c := range []struct {
		rule    string
		code    protocol.ErrorCode
		by      *asking
		message *message.Message
	}{
		{"needs a producer group", protocol.IllegalMessage, nobody, d.message("x")},
		{"is not one of", protocol.InvalidArgument, illegal, d.message("x")},
		{"cannot be delayed", protocol.IllegalMessage, shop, with(func(m *message.Message) { m.Delay = time.Second })},
		{"cannot be delayed", protocol.IllegalMessage, shop, with(func(m *message.Message) { m.DeliverAt = time.Now().Add(time.Hour) })},
		{"cannot be delayed", protocol.IllegalMessage, shop, with(func(m *message.Message) { m.DelayLevel = 3 })},
		{"cannot have a message group", protocol.IllegalMessage, shop, with(func(m *message.Message) { m.Group = "g" })},
		{"deduplication key", protocol.IllegalMessage, shop, with(func(m *message.Message) { m.DedupKey = "k" })},
	} {
		_, err := c.by.send(batch.Lead{Topic: "orders", Purpose: batch.ToTransaction}, c.message)
		if !errors.Is(err, c.code) || !strings.Contains(fmt.Sprint(err), c.rule) {
			t.Errorf("%q: got %v", c.rule, err)
		}
		// One such message is enough.
		if _, err := c.by.send(batch.Lead{Topic: "orders", Purpose: batch.ToTransaction}, d.message("x"), c.message); !errors.Is(err, c.code) {
			t.Errorf("%q, second of two: got %v", c.rule, err)
		}
	}
	d.wantVisible("orders")
	d.wantPending(0)
	for _, c := range []broker.Transactions{{FirstCheck: -1}, {CheckInterval: time.Microsecond}, {MaxChecks: -1}} {
		if _, err := broker.Open(t.Context(), broker.Config{DataDir: t.TempDir(), Transactions: c}, nil); err == nil || !strings.Contains(err.Error(), "transactions") {
			t.Errorf("%+v: got %v", c, err)
		}
	}
}

func TestTransactions_SurviveRestartsAndRetention(t *testing.T) {
	d := newClocked(t, func(c *broker.Config) {
		c.Retention.Interval = 2 * time.Millisecond
		c.Store.FirstSegmentBytes, c.Store.SegmentBytes = 64<<10, 64<<10
	})
	d.topic("orders", 1)
	d.topic("noise", 1)
	p := d.producer("shop", "p1")
	held := p.halves("orders", 0, d.message("first"), d.message("second"), d.message("third"))
	held = append(held, p.half("orders", "fourth"), p.half("orders", "fifth"))
	churn := func() {
		t.Helper()
		from := d.cluster.Broker().Status().FirstIndex
		d.eventually("segments are dropped", func() bool {
			for range 8 {
				_, err := p.send(batch.Lead{Topic: "noise"}, d.message(strings.Repeat("n", 8000)))
				d.check(err)
			}
			d.pass(100 * time.Hour)
			return d.cluster.Broker().Status().FirstIndex > max(from+20, held[4].Origin)
		})
	}
	bodies := []string{"first", "third", "fourth", "fifth"}
	for i, n := range []int{0, 2, 3, 4} {
		churn()
		if i == 1 {
			d.mustEnd(held[1], protocol.Rollback)
		}
		if i%2 == 1 {
			d.restart()
			p = d.producer("shop", "p1")
		}
		before := len(d.stored("orders"))
		r := d.mustEnd(held[n], protocol.Commit)
		if r.Offset != int64(i) {
			t.Errorf("commit of %s: got %+v, want offset %d", bodies[i], r, i)
		}
		got := d.stored("orders")
		if len(got) > before+1 || string(got[len(got)-1].Body) != bodies[i] {
			t.Errorf("after the commit of %s: %d messages, before it %d", bodies[i], len(got), before)
		}
	}
	d.wantPending(0)
	churn()
	for _, err := range d.cluster.Broker().Status().Damaged {
		t.Error(err)
	}
}

func TestTransactions_DeletedTopicAndFewerQueues(t *testing.T) {
	d := newDeciding(t)
	d.topic("orders", 4)
	d.topic("gone", 1)
	p := d.producer("shop", "p1")
	high := p.halves("orders", 3, d.message("high"))[0]
	gone := p.half("gone", "gone")
	_, err := call[protocol.Empty](d, d.conn, protocol.ClassAdmin, &protocol.DeleteTopicRequest{Topic: "gone"})
	d.check(err)
	fewer := protocol.TopicConfig{Name: "orders", ReadQueues: 2, WriteQueues: 2, Perm: message.PermRead}
	must[protocol.PutTopicResponse](d, protocol.ClassAdmin, &protocol.PutTopicRequest{Topic: fewer, Mode: protocol.PutAlter})
	for range 2 {
		if _, err := d.end(gone, protocol.Commit); !errors.Is(err, protocol.NotFound) {
			t.Errorf("of a deleted topic: got %v, want NotFound", err)
		}
		if r := d.mustEnd(high, protocol.Commit); r.Queue != 1 || r.Offset != 0 {
			t.Errorf("of a queue that is no more: got %+v, want queue 1", r)
		}
		d.wantPending(0)
		d.restart()
	}
	d.topic("gone", 1) // another topic of that name has none of the first one's
	if _, err := d.end(gone, protocol.Commit); !errors.Is(err, protocol.NotFound) {
		t.Errorf("of a topic that was made again: got %v, want NotFound", err)
	}
	d.wantVisible("orders", "high")
	d.wantVisible("gone")
}

// TestTransactions_TwoDecisionsAtOnce: whatever order they come in, one kind wins,
// and everybody is told which.
func TestTransactions_TwoDecisionsAtOnce(t *testing.T) {
	for _, flush := range []store.FlushMode{store.SyncFlush, store.AsyncFlush} {
		t.Run(string(flush), func(t *testing.T) {
			d := newDeciding(t, func(c *broker.Config) { c.Store.Flush = flush })
			d.topic("orders", 1)
			p := d.producer("shop", "p1")
			var visible []string
			for round := range 15 {
				body := fmt.Sprint("m", round)
				h := p.half("orders", body)
				if d.race(h) {
					visible = append(visible, body)
				}
			}
			d.wantVisible("orders", visible...)
			d.wantPending(0)
		})
	}
}

// race has many decide on a transaction at once, and reports whether it was
// committed.
func (d *deciding) race(h protocol.Held) (committed bool) {
	d.Helper()
	type outcome struct {
		decision protocol.Decision
		resp     *protocol.EndTransactionResponse
		err      error
	}
	outcomes := make(chan outcome, 8)
	var wg sync.WaitGroup
	for i := range cap(outcomes) {
		decision := protocol.Commit
		if i%2 == 0 {
			decision = protocol.Rollback
		}
		wg.Go(func() {
			resp, err := d.end(h, decision)
			outcomes <- outcome{decision, resp, err}
		})
	}
	wg.Wait()
	close(outcomes)
	won := map[protocol.Decision]int{}
	answers := map[protocol.EndTransactionResponse]bool{}
	for o := range outcomes {
		switch {
		case o.err == nil:
			won[o.decision]++
			answers[*o.resp] = true
		case !errors.Is(o.err, protocol.Conflict):
			d.Errorf("%s of %s: %v", o.decision, heldText(h), o.err)
		}
	}
	if len(won) != 1 || won[protocol.Commit]+won[protocol.Rollback] != 4 || len(answers) != 1 {
		d.Errorf("transaction %s: won %v with answers %v", heldText(h), won, answers)
	}
	return won[protocol.Commit] > 0
}

func TestTransactions_List(t *testing.T) {
	d := newClocked(t)
	d.topic("orders", 1)
	d.topic("mails", 1)
	shop, post := d.producer("shop", "p1"), d.producer("post", "p2")
	orders := shop.halves("orders", 0, d.message("1"), d.message("2", immune(time.Minute)), d.message("3"))
	stored := d.clock.Load()
	d.pass(time.Millisecond)
	mails := append(post.halves("mails", 0, d.message("4")), shop.half("mails", "5"))
	all := append(append([]protocol.Held{}, orders...), mails...)
	for _, c := range []struct {
		topic, group string
		want         []protocol.Held
	}{
		{"", "", all}, {"orders", "", orders}, {"mails", "", mails}, {"", "post", mails[:1]}, {"mails", "shop", mails[1:]}, {"orders", "post", nil}, {"", "none", nil},
	} {
		for page := 1; page <= 6; page++ {
			var got []protocol.Held
			req := protocol.ListTransactionsRequest{Topic: c.topic, Group: c.group, Max: page}
			for more := true; more; {
				l := d.list(req)
				if more = l.More; l.Pending != 5 || len(l.Transactions) > page || more && len(l.Transactions) != page {
					t.Fatalf("%+v: got %+v", req, l)
				}
				for _, x := range l.Transactions {
					got = append(got, x.Held)
					req.AfterOrigin, req.AfterPosition = x.Origin, x.Position
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("topic %q, group %q in pages of %d: got %v, want %v", c.topic, c.group, page, got, c.want)
			}
		}
	}
	l := d.list(protocol.ListTransactionsRequest{Max: 2}).Transactions
	want := []protocol.TransactionStatus{
		{Held: orders[0], Group: "shop", StoreMillis: stored, NextCheckMillis: stored + firstCheck.Milliseconds()},
		{Held: orders[1], Group: "shop", StoreMillis: stored, NextCheckMillis: stored + time.Minute.Milliseconds()},
	}
	if fmt.Sprintf("%+v", l) != fmt.Sprintf("%+v", want) {
		t.Errorf("got %+v, want %+v", l, want)
	}
	for _, bad := range []int{0, -1, protocol.MaxQueryMessages + 1} {
		_, err := call[protocol.ListTransactionsResponse](d, d.conn, protocol.ClassAdmin, &protocol.ListTransactionsRequest{Max: bad})
		if !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("a list of %d: got %v", bad, err)
		}
	}
	_, err := call[protocol.ListTransactionsResponse](d, d.conn, protocol.ClassAdmin, &protocol.ListTransactionsRequest{Topic: "none", Max: 1})
	if !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("of a topic that is not there: got %v", err)
	}
}
