package consumer

import (
	"context"
	"errors"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/internal/telemetry"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// The operations that settle messages, as spans name them.
const (
	nackOperation   = "nack"
	rejectOperation = "reject"
	commitOperation = "commit"
	ackOperation    = "ack"
	hideOperation   = "change_invisible"
)

// observe prepares what is told of the client's deliveries.
func (s *settings) observe(c *client.Client) (*telemetry.Receives, error) {
	return telemetry.NewReceives(telemetry.Config{
		Scope: "github.com/rmqio/rmq/consumer", ClientID: c.ID(), Group: s.announcedGroup(), Address: c.Address,
		TracerProvider: s.tracerProvider, MeterProvider: s.meterProvider,
	})
}

// failureOf is the error of an operation by one of a few names: the broker's code,
// what this package knows, or OpenTelemetry's word for others.
func failureOf(err error) telemetry.Failure {
	f := telemetry.Failure{Name: "_OTHER", Err: err}
	var panicked *handlerPanic
	var refused *protocol.Error
	switch {
	case err == nil:
		f.Name = ""
	case errors.Is(err, ErrReject):
		f.Name = "reject"
	case errors.As(err, &panicked):
		f.Name = "panic"
	case errors.As(err, &refused), protocol.CodeOf(err) != protocol.SystemError:
		f.Name = protocol.CodeOf(err).String()
	case errors.Is(err, context.DeadlineExceeded):
		f.Name = "timeout"
	}
	return f
}

// settling observes that the broker is told what became of a message.
func (c *Push) settling(ctx context.Context, e *engine, it *item, v verdict) (context.Context, *telemetry.Operation) {
	operation := nackOperation
	if v.back.Dead {
		operation = rejectOperation
	}
	return e.telemetry.Settle(ctx, operation, &it.Stored)
}

// processing observes the handling of a batch.
func (e *engine) processing(ctx context.Context, items []*item) (context.Context, *telemetry.Operation) {
	if e.telemetry.Idle(ctx) {
		return ctx, nil
	}
	ms := make([]*message.Stored, len(items))
	for i, it := range items {
		ms[i] = &it.Stored
	}
	return e.telemetry.Process(ctx, ms...)
}

// observe has messages settled by do, and tells of it. A nil Simple has nobody to tell.
func (s *Simple) observe(ctx context.Context, operation string, ps []*Popped, do func(context.Context) error) error {
	if s == nil || s.settings.telemetry.Idle(ctx) {
		return do(ctx)
	}
	ms := make([]*message.Stored, len(ps))
	for i, p := range ps {
		ms[i] = &p.Stored
	}
	ctx, x := s.settings.telemetry.Settle(ctx, operation, ms...)
	err := do(ctx)
	x.End(failureOf(err))
	return err
}

// deliveriesOf is for received, which needs none of what nobody observes.
func deliveriesOf(x *telemetry.Operation, ps []*Popped) []*Delivery {
	if x == nil {
		return nil
	}
	ds := make([]*Delivery, len(ps))
	for i, p := range ps {
		ds[i] = &p.Delivery
	}
	return ds
}

// received tells of a poll. That there was nothing before the program stopped to
// wait is not worth a word.
func received(ctx context.Context, x *telemetry.Operation, ds []*Delivery, err error) {
	if x == nil || len(ds) == 0 && (err == nil || ended(ctx, err)) {
		return
	}
	ms := make([]*message.Stored, len(ds))
	for i, d := range ds {
		ms[i] = &d.Stored
	}
	x.EndReceive(failureOf(err), ms...)
}
