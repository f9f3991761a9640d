package client

import (
	"errors"
	"testing"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

func TestRefusals(t *testing.T) {
	start := time.Unix(1_000, 0)
	conflict := protocol.Errorf(protocol.Conflict, "others are there")
	passing := protocol.Errorf(protocol.Conflict, "somebody has the id")
	passing.RetryAfterMillis = 2500
	away := protocol.Errorf(protocol.Unreachable, "nobody answers")
	type told struct{ any, final bool }
	type answer struct {
		after int // seconds since the start
		err   error
		want  told
	}
	tests := map[string][]answer{
		"a newcomer is refused for good":    {{0, conflict, told{true, true}}, {1, conflict, told{}}},
		"a member goes on asking":           {{0, nil, told{}}, {9, conflict, told{true, false}}, {10, conflict, told{}}, {11, nil, told{}}, {12, conflict, told{true, false}}},
		"an id may become free":             {{0, passing, told{true, false}}, {1, passing, told{}}, {2, nil, told{}}},
		"an id that does not become free":   {{0, passing, told{true, false}}, {2, passing, told{}}, {3, passing, told{true, true}}},
		"a member whose id is taken":        {{0, nil, told{}}, {9, passing, told{true, false}}, {99, passing, told{}}},
		"servers that do not answer":        {{0, away, told{}}, {1, errors.New("what?"), told{}}, {2, conflict, told{true, true}}},
		"one that is away for a while":      {{0, passing, told{true, false}}, {1, away, told{}}, {3, passing, told{true, true}}},
		"it is told once more when it ends": {{0, passing, told{true, false}}, {3, conflict, told{true, true}}},
	}
	for name, answers := range tests {
		t.Run(name, func(t *testing.T) {
			var got told
			c := &Client{}
			c.OnRefused(func(r Refusal) {
				got = told{true, r.Final}
				var e *Error
				if !errors.As(r.Err, &e) || e.Code != protocol.Conflict || e.Broker != "b" {
					t.Errorf("got %v", r.Err)
				}
			})
			for _, a := range answers {
				got = told{}
				c.refusals.answered("other", nil, start)
				c.refusals.answered("b", a.err, start.Add(time.Duration(a.after)*time.Second))
				if got != a.want {
					t.Errorf("after %d s, %v: got %+v, want %+v", a.after, a.err, got, a.want)
				}
			}
		})
	}
	if r := new(refusals).answered("b", conflict, start); r == nil || !r.Final {
		t.Errorf("nobody wants to know, and it is not returned: %+v", r)
	}
}
