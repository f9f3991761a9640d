package tests

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
)

func TestAdhocFilterSpeed(t *testing.T) {
	if os.Getenv("ADHOC") == "" {
		t.SkipNow()
	}
	n, _ := strconv.Atoi(os.Getenv("ADHOC"))
	tail := int64(1 << 30)
	if os.Getenv("COLD") != "" {
		tail = 1
	}
	_ = tail
	c := struct{ NameServers []string }{[]string{os.Getenv("NS")}}
	p, err := producer.New(t.Context(), producer.Config{NameServers: c.NameServers, SendTimeout: harness.Timeout})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(context.WithoutCancel(t.Context()))
	body := make([]byte, 1024)
	fill := func(topic string, f func(i int, m *message.Message)) {
		errs := make(chan error, n)
		for i := range n {
			m := &message.Message{Topic: topic, Body: body}
			f(i, m)
			p.SendAsync(t.Context(), m, func(_ producer.Receipt, err error) { errs <- err })
		}
		for range n {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(s consumer.Subscription) (int, time.Duration) {
		start := time.Now()
		cl, err := consumer.NewPull(t.Context(), consumer.PullConfig{NameServers: c.NameServers, Subscriptions: []consumer.Subscription{s}, From: consumer.Earliest()})
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close(t.Context())
		<-cl.Ready()
		start = time.Now()
		got := 0
		lag, _ := cl.Lag(t.Context())
		all := int64(0)
		for _, l := range lag {
			all += l
		}
		for {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			ds, err := cl.Poll(ctx, 1024)
			cancel()
			if err != nil {
				t.Log(err)
				return got, time.Since(start)
			}
			got += len(ds)
			if s.Tag == "" && s.SQL == "" && got == n || (s.Tag != "" || s.SQL != "") && got == n/100 {
				return got, time.Since(start)
			}
		}
	}
	for _, k := range []struct {
		topic string
		f     func(i int, m *message.Message)
		s     consumer.Subscription
	}{
		{"mixed", func(i int, m *message.Message) { m.Tag = fmt.Sprintf("t%d", i%100) }, consumer.Subscription{Tag: "t7"}},
		{"uniform", func(i int, m *message.Message) { m.Tag = fmt.Sprintf("t%d", i/8000%100) }, consumer.Subscription{Tag: "t7"}},
		{"sql", func(i int, m *message.Message) {
			m.Properties = map[string]string{"p": strconv.Itoa(i % 100), "region": "eu"}
		}, consumer.Subscription{SQL: "p = 7 AND region IN ('eu', 'us')"}},
		{"plain", func(i int, m *message.Message) {}, consumer.Subscription{}},
	} {
		fill(k.topic, k.f)
		for range 3 {
			n1, d1 := read(consumer.Subscription{Topic: k.topic})
			k.s.Topic = k.topic
			n2, d2 := read(k.s)
			u1, u2 := float64(n1)/100/d1.Seconds(), float64(n2)/d2.Seconds()
			fmt.Printf("%s: all %d in %v (%.0f useful/s); filtered %d in %v (%.0f/s); ratio %.1f\n", k.topic, n1, d1, u1, n2, d2, u2, u2/u1)
		}
	}
}
