package protocol

import (
	"fmt"
	"strings"
)

// Class is a kind of request with a subject and limits of its own, so that one
// kind does not hold up another.
type Class string

// The classes of requests.
const (
	ClassSend   Class = "send"
	ClassPull   Class = "pull"
	ClassClient Class = "client" // heartbeats, leases, offsets
	ClassAdmin  Class = "admin"
	ClassBroker Class = "broker" // brokers at the name server
	ClassRoute  Class = "route"  // clients at the name server
)

// Subjects are few and fixed: one for each broker and class, one for each name
// server's class, one inbox for each connection, with one for replies where they
// are waited for. No topic, group or queue is
// ever part of a subject.

// NameServerSubject is where the name server of a fabric takes requests.
func NameServerSubject(c Class) string { return "rmq.ns." + string(c) }

// NameServerEvents is where a name server tells of changed routes.
const NameServerEvents = "rmq.ns.events"

// BrokerSubject is where one broker takes requests of a class.
func BrokerSubject(broker string, id int, c Class) string {
	return fmt.Sprintf("rmq.b.%s.%d.%s", Token(broker), id, c)
}

// InboxSubject is where one connection takes answers and events.
func InboxSubject(connection string) string { return "rmq.c." + Token(connection) }

// ReplySubject is where the connection with an inbox takes replies to its
// client's requests.
func ReplySubject(inbox string) string { return inbox + ".reply" }

// Token turns any name into one token of a subject, without wildcards, dots or
// spaces: bytes other than a-z A-Z 0-9 _ - become =XX. Different names give
// different tokens; the empty name gives "=".
func Token(name string) string {
	if name == "" {
		return "="
	}
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	return b.String()
}
