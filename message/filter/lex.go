package filter

import (
	"fmt"
	"strconv"
	"strings"
)

// tokenKind is what a token is.
type tokenKind uint8

const (
	end      tokenKind = iota
	name               // of a property
	word               // of the language, in capitals
	number             // a literal
	text               // a literal
	operator           // a comparison, a parenthesis, a comma
)

// token is a piece of an expression.
type token struct {
	kind   tokenKind
	text   string // as it counts: a word in capitals, a string without its quotes
	number float64
	at     int // column, from 1
}

func (t token) String() string {
	switch t.kind {
	case end:
		return "the end"
	case text:
		return "'" + t.text + "'"
	case name:
		return "the name " + t.text
	}
	return t.text
}

// words of the language; everything else that begins with a letter is a name.
var words = map[string]bool{
	"AND": true, "OR": true, "NOT": true, "BETWEEN": true, "IN": true, "IS": true, "NULL": true,
	"TRUE": true, "FALSE": true, "CONTAINS": true, "STARTSWITH": true, "ENDSWITH": true,
}

// lexer cuts an expression into tokens.
type lexer struct {
	text string
	pos  int
}

func (l *lexer) fail(at int, format string, args ...any) error {
	return fmt.Errorf("%w: column %d: %s", ErrFilter, at, fmt.Sprintf(format, args...))
}

func (l *lexer) next() (token, error) {
	for l.pos < len(l.text) && strings.IndexByte(" \t\r\n", l.text[l.pos]) >= 0 {
		l.pos++
	}
	t := token{at: l.pos + 1}
	if l.pos == len(l.text) {
		return t, nil
	}
	rest := l.text[l.pos:]
	switch c := rest[0]; {
	case c == '\'':
		return l.quoted(t)
	case isDigit(c) || c == '.' || (c == '-' || c == '+') && len(rest) > 1 && (isDigit(rest[1]) || rest[1] == '.'):
		return l.number(t)
	case isLetter(c):
		n := 1
		for n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n]) || rest[n] == '.' || rest[n] == '-') {
			n++
		}
		l.pos += n
		t.kind, t.text = name, rest[:n]
		if w := strings.ToUpper(t.text); words[w] {
			t.kind, t.text = word, w
		}
		return t, nil
	}
	for _, op := range []string{"<>", ">=", "<=", "=", ">", "<", "(", ")", ","} {
		if strings.HasPrefix(rest, op) {
			l.pos += len(op)
			t.kind, t.text = operator, op
			return t, nil
		}
	}
	return t, l.fail(t.at, "%q begins nothing that is known", rest[:1])
}

// quoted reads a string; a quote within it is doubled.
func (l *lexer) quoted(t token) (token, error) {
	var b strings.Builder
	for i := l.pos + 1; i < len(l.text); i++ {
		switch {
		case l.text[i] != '\'':
			b.WriteByte(l.text[i])
		case i+1 < len(l.text) && l.text[i+1] == '\'':
			b.WriteByte('\'')
			i++
		default:
			l.pos = i + 1
			t.kind, t.text = text, b.String()
			return t, nil
		}
	}
	return t, l.fail(t.at, "the string has no closing quote")
}

func (l *lexer) number(t token) (token, error) {
	rest, n := l.text[l.pos:], 1
	for n < len(rest) {
		c := rest[n]
		exponent := n > 0 && (rest[n-1] == 'e' || rest[n-1] == 'E')
		if !isDigit(c) && !isLetter(c) && c != '.' && !(exponent && (c == '-' || c == '+')) {
			break
		}
		n++
	}
	v, ok := parseNumber(rest[:n])
	if !ok {
		return t, l.fail(t.at, "%q is not a number", rest[:n])
	}
	l.pos += n
	t.kind, t.text, t.number = number, rest[:n], v
	return t, nil
}

// parseNumber reads a decimal number; not the hexadecimal ones, infinities and
// underscores that strconv knows.
func parseNumber(s string) (float64, bool) {
	for i := range len(s) {
		if c := s[i]; !isDigit(c) && c != '.' && c != '-' && c != '+' && c != 'e' && c != 'E' {
			return 0, false
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$' || c >= 0x80
}
