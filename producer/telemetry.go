package producer

import (
	"errors"

	"github.com/rmqio/rmq/internal/telemetry"
	"github.com/rmqio/rmq/transport/protocol"
)

// observe prepares what looks at messages on their way: codec and telemetry.
func (p *Producer) observe() (err error) {
	if p.codec, err = newCodec(&p.cfg); err != nil {
		return err
	}
	p.telemetry, err = telemetry.NewSends(telemetry.Config{
		Scope: "github.com/rmqio/rmq/producer", ClientID: p.client.ID(), NextID: p.ids.Next,
		TracerProvider: p.cfg.TracerProvider, MeterProvider: p.cfg.MeterProvider,
	})
	return err
}

// traced ends what was begun for a message.
func (p *Producer) traced(x *telemetry.Send, r Receipt, err error) {
	if x != nil {
		x.End(p.outcomeOf(r, err))
	}
}

// tracedAll ends what was begun for a batch, all of which is answered.
func (p *Producer) tracedAll(x *telemetry.Send, c *call) {
	if x == nil {
		return
	}
	outcomes := make([]telemetry.Outcome, len(c.errs))
	for i := range outcomes {
		outcomes[i] = p.outcomeOf(c.receipts[i], c.errs[i])
	}
	x.End(outcomes...)
}

// outcomeOf says what became of a message in the words of telemetry.
func (p *Producer) outcomeOf(r Receipt, err error) telemetry.Outcome {
	o := telemetry.Outcome{Queue: r.Queue, Err: err}
	broker := r.Queue.Broker
	if err != nil {
		o.Failure = protocol.CodeOf(err).String()
		var e *Error
		if errors.As(err, &e) {
			o.Failure, broker = e.Code.String(), e.Broker
		}
	}
	o.Server = p.client.Address(broker)
	return o
}
