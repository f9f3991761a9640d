// Package filter decides which messages a consumer gets: by tag, in RocketMQ's
// form "a || b", or by an SQL92 expression over properties. It is pure: a filter
// is compiled once, never changes, and is safe for concurrent use.
//
// An expression has the operators = <> > >= < <=, AND, OR, NOT, [NOT] BETWEEN x AND
// y, [NOT] IN (...), IS [NOT] NULL, [NOT] CONTAINS, [NOT] STARTSWITH, [NOT]
// ENDSWITH, parentheses, numbers, strings in single quotes (a quote is doubled),
// TRUE and FALSE. Words are written in any case; names of properties are not.
//
// Logic has three values, as in SQL: a comparison with a property that is not
// there is unknown, NOT unknown is unknown, and a message is taken only when the
// whole is true. Properties are strings. One that is compared with a number, or
// with TRUE or FALSE, is read as such, and the comparison is unknown when it is
// none. Two properties are compared as numbers when both are, else = and <> as
// strings, and the order is unknown.
//
// TAGS and KEYS are the message's tag and its keys with a space between them.
package filter

import (
	"errors"
	"fmt"

	"github.com/rmqio/rmq/message"
)

// Limits of an expression.
const (
	MaxBytes = 8 << 10
	MaxNodes = 512 // operators, names, literals
	MaxDepth = 64  // of parentheses and NOT
)

// ErrFilter is returned for an expression that cannot be compiled; the text says
// at which column, and what is expected there.
var ErrFilter = errors.New("illegal filter")

// Source gives the values that an expression names.
type Source interface {
	// Property returns a property, or TAGS or KEYS; false: there is none.
	Property(name string) (value string, ok bool)
}

// Expression is a compiled SQL92 expression.
type Expression struct {
	text  string
	eval  node
	names []string
}

// node is a compiled part of an expression.
type node func(Source) truth

// Compile reads an expression. Errors: ErrFilter.
func Compile(text string) (*Expression, error) {
	if len(text) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrFilter, len(text), MaxBytes)
	}
	p := parser{lexer: lexer{text: text}}
	eval, err := p.expression()
	if err != nil {
		return nil, err
	}
	return &Expression{text: text, eval: eval, names: p.names}, nil
}

// Match reports whether the expression is true for a message.
func (e *Expression) Match(s Source) bool { return e.eval(s) == yes }

// String is the expression as it was written.
func (e *Expression) String() string { return e.text }

// Names are the properties that the expression looks at, each once.
func (e *Expression) Names() []string { return e.names }

// Of is the source that a message is.
type Of struct{ *message.Message }

// Property implements Source.
func (o Of) Property(name string) (string, bool) {
	switch name {
	case "TAGS":
		return o.Tag, o.Tag != ""
	case "KEYS":
		return joinKeys(o.Keys), len(o.Keys) > 0
	}
	v, ok := o.Properties[name]
	return v, ok
}

func joinKeys(keys []string) string {
	switch len(keys) {
	case 0:
		return ""
	case 1:
		return keys[0]
	}
	n := len(keys) - 1
	for _, k := range keys {
		n += len(k)
	}
	b := make([]byte, 0, n)
	for i, k := range keys {
		if i > 0 {
			b = append(b, ' ')
		}
		b = append(b, k...)
	}
	return string(b)
}
