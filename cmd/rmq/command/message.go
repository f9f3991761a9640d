package command

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func (a *app) messageCommand() *cobra.Command {
	return noun("message", "Messages: get one, query by key, trace its journey, list and recall delayed ones",
		a.messageGet(), a.messageQuery(), a.messageTrace(), a.messageDelayed(), a.messageRecall())
}

// messagePlace says where one message is, without its id.
type messagePlace struct {
	broker, topic string
	queue         int
	offset        int64
	logIndex      uint64
}

func (a *app) messageGet() *cobra.Command {
	var p messagePlace
	c := &cobra.Command{
		Use: "get [ID]", Short: "Print the message with an id, at an offset, or of a log record",
		Long: `Print the message with an id, at an offset, or of a log record.

  rmq message get 28d709fc037fa7410000000000000001
  rmq message get --topic orders --broker broker-a --queue 3 --offset 17
  rmq message get --broker broker-a --log-index 1200

A message that was stored more than once, because an answer was lost and it was
sent again, is printed as often.`,
		Args: takes("[ID]"),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error { return a.getMessage(ctx, ad, p, args) }),
	}
	f := c.Flags()
	f.StringVar(&p.topic, "topic", "", "`TOPIC` of the message")
	f.StringVar(&p.broker, "broker", "", "`NAME` of the broker that has it")
	f.IntVar(&p.queue, "queue", -1, "queue `NUMBER`")
	f.Int64Var(&p.offset, "offset", -1, "`OFFSET` in the queue")
	f.Uint64Var(&p.logIndex, "log-index", 0, "`INDEX` in the broker's log")
	return c
}

// getMessage takes one of the three ways to name a message, and no mixture.
func (a *app) getMessage(ctx context.Context, ad *admin.Admin, p messagePlace, args []string) error {
	byID := messagePlace{topic: p.topic, queue: -1, offset: -1}
	byIndex := messagePlace{broker: p.broker, queue: -1, offset: -1, logIndex: p.logIndex}
	switch {
	case len(args) == 1 && p == byID:
		id, err := message.ParseID(args[0])
		if err != nil {
			return usagef("%v", err)
		}
		return a.printMessages(ctx, ad, admin.MessageQuery{ID: id, Topic: p.topic}, admin.Target{}, 0, "no broker has message "+args[0])
	case len(args) == 0 && p == byIndex && p.logIndex != 0 && p.broker != "":
		none := fmt.Sprintf("record %d of %s is not there or holds no messages", p.logIndex, p.broker)
		return a.printMessages(ctx, ad, admin.MessageQuery{LogIndex: p.logIndex}, admin.Target{Brokers: []string{p.broker}}, 0, none)
	case len(args) == 0 && p.logIndex == 0 && p.topic != "" && p.broker != "" && p.queue >= 0 && p.offset >= 0:
		return a.printMessageAt(ctx, ad, p)
	}
	return usagef("message get needs an ID, or --topic --broker --queue --offset, or --broker --log-index")
}

func (a *app) messageQuery() *cobra.Command {
	var key string
	var limit int
	c := &cobra.Command{
		Use: "query TOPIC", Short: "Print the messages of a topic that have a key, newest first",
		Args: takes("TOPIC"), ValidArgsFunction: a.completeTopics,
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
			switch {
			case key == "":
				return usagef("--key is missing")
			case limit < 0:
				return usagef("--limit %d is negative", limit)
			}
			if _, err := ad.TopicRoute(ctx, args[0]); err != nil {
				return err
			}
			q := admin.MessageQuery{Topic: args[0], Key: key}
			return a.printMessages(ctx, ad, q, admin.Target{}, limit, "")
		}),
	}
	c.Flags().StringVar(&key, "key", "", "the `KEY`, as a whole")
	c.Flags().IntVar(&limit, "limit", 0, "at most so many messages; 0: all")
	return c
}

// printMessages prints what a query finds. Nothing found is an error when there
// is a text for it. What could not be searched makes the exit code partial.
func (a *app) printMessages(ctx context.Context, ad *admin.Admin, q admin.MessageQuery, t admin.Target, limit int, none string) error {
	return a.printFound(ctx, ad.Messages(ctx, q, t), limit, none)
}

func (a *app) printFound(ctx context.Context, found iter.Seq2[message.Stored, error], limit int, none string) error {
	out := newStream(a)
	line := &deliveryLine{}
	var failures []error
	for m, err := range found {
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if out.truncated = limit > 0 && out.items == limit; out.truncated {
			break
		}
		line.Delivery = &consumer.Delivery{Stored: m, Attempt: m.ReconsumeTimes + 1}
		if err := out.add(line); err != nil {
			return err
		}
	}
	failure := errors.Join(failures...)
	if out.items == 0 && (failure != nil || none != "") {
		if failure == nil {
			return messageNotFound(none, nil)
		}
		return failure
	}
	out.truncated = out.truncated || failure != nil
	if err := out.close(); err != nil {
		return err
	}
	if failure == nil || ctx.Err() == context.Canceled {
		return failure
	}
	return &Failure{Code: "PARTIAL", Message: "some messages could not be searched: " + failure.Error(), exit: exitPartial, cause: failure}
}

func messageNotFound(text string, cause error) *Failure {
	f := &Failure{Message: text, cause: cause}
	f.named("MESSAGE_NOT_FOUND")
	return f
}

func (a *app) printMessageAt(ctx context.Context, ad *admin.Admin, p messagePlace) error {
	q := message.Queue{Topic: p.topic, Broker: p.broker, ID: p.queue}
	m, err := ad.MessageAt(ctx, q, p.offset)
	if errors.Is(err, protocol.OffsetOutOfRange) {
		return messageNotFound(fmt.Sprintf("queue %s/%d of topic %q has no message at offset %d", q.Broker, q.ID, q.Topic, p.offset), err)
	}
	if err != nil {
		return err
	}
	out := newStream(a)
	if err := out.add(&deliveryLine{Delivery: &consumer.Delivery{Stored: m, Attempt: m.ReconsumeTimes + 1}}); err != nil {
		return err
	}
	return out.close()
}
