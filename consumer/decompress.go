package consumer

import (
	"errors"
	"fmt"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// ErrCompressed is what a consumer reports of a message whose body cannot be
// decompressed; the errors of package message/compress say why. The message is
// handed out all the same, with its Compression set and its Body as it came, so
// that it is not lost and the program decides: a message like any other has
// Compression message.None.
var ErrCompressed = errors.New("body cannot be decompressed")

// open is what is handed out for an item. A body is decompressed then and not
// before, and in a copy, so that what waits, or waits to be tried again, takes
// the memory that it took on the wire, however large it is said to become.
func (e *engine) open(it *item) *Delivery {
	if it.Compression == message.None {
		return &it.Delivery
	}
	d := it.Delivery
	if err := e.decoder.Open(&d.Message); err != nil {
		e.sealed(it, err)
	}
	return &d
}

// sealed tells of a body that stays compressed, once.
func (e *engine) sealed(it *item, err error) {
	if it.Attempt > 1 {
		return
	}
	q := it.queue.queue
	err = sealedError(q, it.offset, it.ID, err)
	e.log.Error("body cannot be decompressed, the message is handed out as it came",
		"topic", q.Topic, "broker", q.Broker, "queue", q.ID, "offset", it.offset, "message_id", it.ID, "error", err)
	if e.onFault != nil {
		e.onFault(err)
	}
}

// sealedError is that of a body that stays compressed.
func sealedError(q message.Queue, offset int64, id message.ID, err error) error {
	return client.Wrap("decompress message of", q.Topic, q.Broker,
		fmt.Errorf("%w: %w: message %s at %d of %v: %w", protocol.Damaged, ErrCompressed, id, offset, q, err))
}
