package transport

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// maxRemarkBytes is where the text of an error is cut.
const maxRemarkBytes = 4096

// Request is a request that was admitted and is not answered yet. It counts
// against the server's limits until Reply or Fail. Both may be called from any
// goroutine; the first answer is sent, any other is dropped and logged.
type Request struct {
	Code protocol.Code
	// Payload belongs to the handler.
	Payload []byte
	// Deadline is when the caller stops waiting, by this process's clock: the
	// arrival and the frame's timeout. Zero: never.
	Deadline time.Time

	server   *Server
	reply    string
	id       uint64
	answered atomic.Bool
}

// Reply answers with a payload, which may be used again when Reply returns. A
// payload that cannot be encoded or is too large for a frame is answered with
// protocol.SystemError instead. When the caller cannot be reached the answer is
// lost; the caller knows of the cut.
func (r *Request) Reply(resp any) {
	if !r.claim() {
		return
	}
	defer r.server.admission.leave(r.reply, int64(len(r.Payload)))
	err := r.server.answer(protocol.KindResponse, r.reply, r.Code, r.id, resp)
	if err != nil {
		r.server.log.Error("an answer could not be encoded", "code", r.Code, "error", err)
		r.server.refuse(r.reply, r.Code, r.id, protocol.Errorf(protocol.SystemError, "answer of %s: %v", r.Code, err))
	}
}

// Fail answers with an error, as protocol.AsError makes it fit for the wire. A
// handler that was cancelled because the server shuts down is answered with
// protocol.Unavailable.
func (r *Request) Fail(err error) {
	if !r.claim() {
		return
	}
	defer r.server.admission.leave(r.reply, int64(len(r.Payload)))
	if errors.Is(err, context.Canceled) && r.server.ctx.Err() != nil {
		err = protocol.Errorf(protocol.Unavailable, "the server shuts down: %v", err)
	}
	r.server.refuse(r.reply, r.Code, r.id, err)
}

func (r *Request) claim() bool {
	if r.answered.CompareAndSwap(false, true) {
		return true
	}
	r.server.log.Error("a request was answered twice", "code", r.Code)
	return false
}

// wireError is protocol.AsError with a text of bounded length.
func wireError(err error) *protocol.Error {
	e := protocol.AsError(err)
	if len(e.Remark) <= maxRemarkBytes {
		return e
	}
	cut := *e
	cut.Remark = cut.Remark[:maxRemarkBytes] + "..."
	return &cut
}
