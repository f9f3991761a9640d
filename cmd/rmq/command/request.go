package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
)

// replyError is the property of a reply whose command failed: what it failed of.
const replyError = "rmq.error"

// requestCloseTimeout bounds the goodbye of a command that requests or replies.
const requestCloseTimeout = 5 * time.Second

func (a *app) requestCommand() *cobra.Command {
	var f pubFlags
	c := &cobra.Command{
		Use: "request TOPIC [BODY|-]", Short: "Send a request and print the reply",
		Long: `Send a request and print the reply, within --timeout.

  rmq reply prices --command ./price.sh
  rmq request prices 'apple'`,
		Args: takes("TOPIC", "[BODY]"), ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.topic, f.in, f.count, f.sendTimeout = args[0], inRaw, 1, a.reach.timeout
			if len(args) == 2 && args[1] != "-" {
				f.body, f.hasBody = args[1], true
			}
			if err := f.check(cmd, a.now()); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), a.reach.timeout)
			defer cancel()
			return a.request(ctx, f)
		},
	}
	c.Flags().StringVar(&f.tag, "tag", "", "tag of the request")
	c.Flags().StringArrayVar(&f.keys, "key", nil, "key of the request (repeatable)")
	c.Flags().StringArrayVar(&f.props, "prop", nil, "property `NAME=VALUE` (repeatable)")
	return c
}

func (a *app) request(ctx context.Context, f pubFlags) error {
	if err := a.expectServer(ctx); err != nil {
		return err
	}
	m := &message.Message{Body: []byte(f.body)}
	if !f.hasBody {
		body, err := io.ReadAll(io.LimitReader(a.in, message.MaxBodyBytes+1))
		if err != nil {
			return err
		}
		m.Body = body
	}
	props, err := f.properties()
	if err != nil {
		return err
	}
	f.apply(m, props)
	p, err := a.newProducer(ctx, producer.Config{SendTimeout: a.reach.timeout})
	if err != nil {
		return err
	}
	reply, err := p.Request(ctx, m)
	if err == nil && reply.Properties[replyError] != "" {
		err = &Failure{Code: "REPLIER_FAILED", Message: reply.Properties[replyError], Hint: "see what the replier prints", exit: exitFailure}
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestCloseTimeout)
	defer cancel()
	if errors.Is(err, producer.ErrUnknownOutcome) && errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		err = &Failure{Code: "TIMED_OUT", Message: fmt.Sprintf("nobody replied within %s", a.reach.timeout), Hint: "is there a consumer that replies? rmq reply " + f.topic, exit: exitUnavailable, cause: err}
	}
	if err = errors.Join(err, p.Close(ending)); err != nil {
		return err
	}
	out := newStream(a)
	// A reply is in no queue: people see what it says and no more.
	err = out.add(&deliveryLine{Delivery: &consumer.Delivery{Stored: *reply, Attempt: 1}, raw: true})
	return errors.Join(err, out.close())
}

// replyFlags are the flags of `rmq reply`.
type replyFlags struct {
	topic, group  string
	body, command string
	hasBody       bool
	count         int
}

func (a *app) replyCommand() *cobra.Command {
	var f replyFlags
	c := &cobra.Command{
		Use: "reply TOPIC [BODY]", Short: "Answer requests",
		Long: `Answer requests: with a fixed BODY, with what a command prints (the request's
body is its stdin), or else with the request's own body.

  rmq reply echo
  rmq reply time --command date`,
		Args: takes("TOPIC", "[BODY]"), ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.topic = args[0]
			if len(args) == 2 {
				f.body, f.hasBody = args[1], true
			}
			switch {
			case f.hasBody && f.command != "":
				return usagef("BODY and --command exclude one another")
			case f.count < 0:
				return usagef("--count %d: want 0 (no limit) or more", f.count)
			}
			return a.reply(cmd.Context(), f)
		},
	}
	c.Flags().StringVarP(&f.group, "group", "g", "rmq-reply", "consumer `GROUP` that shares the requests")
	c.Flags().StringVar(&f.command, "command", "", "answer with what this shell `COMMAND` prints")
	c.Flags().IntVar(&f.count, "count", 0, "exit after `N` requests, answered or failed")
	return c
}

// reply answers until ctx ends or the count is reached.
func (a *app) reply(ctx context.Context, f replyFlags) error {
	if err := a.expectTopics(ctx, []string{f.topic}, false); err != nil {
		return err
	}
	c, err := a.newPull(ctx, subFlags{group: f.group, topics: []string{f.topic}}, position{kind: fromLatest})
	if err != nil {
		return err
	}
	answered, failed := 0, 0
	for d, err := range c.Messages(ctx) {
		if err != nil {
			return errors.Join(err, closePull(ctx, c))
		}
		if err := a.answer(ctx, d, f); err != nil {
			failed++
			a.note("request %s: %v", d.ID, err)
		} else {
			answered++
		}
		if answered+failed == f.count {
			break
		}
	}
	a.note("requests answered: %d, failed: %d", answered, failed)
	err = closePull(ctx, c)
	if failed > 0 && f.count > 0 {
		err = errors.Join(err, &Failure{Code: "PARTIAL", Message: fmt.Sprintf("%d of %d requests were not answered", failed, f.count), exit: exitPartial})
	}
	return err
}

func (a *app) answer(ctx context.Context, d *consumer.Delivery, f replyFlags) error {
	body := d.Body
	switch {
	case f.hasBody:
		body = []byte(f.body)
	case f.command != "":
		cmd := exec.CommandContext(ctx, "sh", "-c", f.command)
		cmd.Stdin, cmd.Stderr = bytes.NewReader(d.Body), a.err
		printed, err := cmd.Output()
		if err != nil {
			err = fmt.Errorf("%s: %w", f.command, err)
			return errors.Join(err, d.Reply(ctx, &message.Message{Properties: map[string]string{replyError: err.Error()}}))
		}
		body = printed
	}
	return d.Reply(ctx, &message.Message{Body: body})
}

// closePull commits and leaves the group, also when ctx has ended.
func closePull(ctx context.Context, c *consumer.Pull) error {
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestCloseTimeout)
	defer cancel()
	return c.Close(ending)
}
