package transport

import (
	"context"
	"fmt"

	"github.com/rmqio/rmq/transport/protocol"
)

// Mux says which function handles which request. It is filled before it is
// served; it must not change after that.
type Mux struct{ handlers map[protocol.Code]handler }

// handler is one of the two kinds of functions; the other is nil.
type handler struct {
	async func(*Request)
	sync  func(context.Context, *Request)
}

// NewMux makes a Mux without handlers.
func NewMux() *Mux { return &Mux{handlers: make(map[protocol.Code]handler)} }

// Handle registers fn for the code of Req. Each request has a goroutine of its
// own; ctx has the request's deadline and is cancelled when the server or its
// connection gives up waiting, after which fn must return soon. An error of fn
// is answered as protocol.AsError says. Registering a code twice panics.
func Handle[Req, Resp any, P interface {
	*Req
	protocol.Request
}](m *Mux, fn func(ctx context.Context, req P) (*Resp, error)) {
	m.add(P(new(Req)).RequestCode(), handler{sync: func(ctx context.Context, r *Request) {
		req := P(new(Req))
		if err := protocol.Unmarshal(r.Payload, req); err != nil {
			r.Fail(err)
			return
		}
		resp, err := fn(ctx, req)
		switch {
		case err != nil:
			r.Fail(err)
		case resp == nil:
			r.Fail(protocol.Errorf(protocol.SystemError, "%s has no answer", r.Code))
		default:
			r.Reply(resp)
		}
	}})
}

// HandleAsync registers fn for a code. It is called on the goroutine that
// receives all requests of a subject, so it must not block; it answers through
// Reply or Fail, then or later, from any goroutine. Registering a code twice
// panics.
func (m *Mux) HandleAsync(code protocol.Code, fn func(*Request)) { m.add(code, handler{async: fn}) }

func (m *Mux) add(code protocol.Code, h handler) {
	if _, ok := m.handlers[code]; ok {
		panic(fmt.Sprintf("transport: two handlers of %s", code))
	}
	m.handlers[code] = h
}
