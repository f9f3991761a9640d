package filter

import "slices"

// parser reads an expression by recursive descent: OR binds least, then AND, then
// NOT, then the comparisons.
type parser struct {
	lexer
	ahead token
	nodes int
	depth int
	names []string
}

// operand is what a comparison compares: a property or a literal.
type operand struct {
	token
}

func (p *parser) advance() (err error) {
	p.ahead, err = p.next()
	return err
}

// is reports whether the next token is the word or operator.
func (p *parser) is(s string) bool {
	return p.ahead.text == s && (p.ahead.kind == word || p.ahead.kind == operator)
}

// take goes past the next token if it is the word or operator.
func (p *parser) take(s string) (bool, error) {
	if !p.is(s) {
		return false, nil
	}
	return true, p.advance()
}

func (p *parser) want(s string) error {
	if ok, err := p.take(s); ok || err != nil {
		return err
	}
	return p.expected(s)
}

func (p *parser) expected(what string) error {
	return p.fail(p.ahead.at, "found %s, expected %s", p.ahead, what)
}

// count bounds the size of what is compiled.
func (p *parser) count() error {
	if p.nodes++; p.nodes > MaxNodes {
		return p.fail(p.ahead.at, "more than %d operators, names and literals", MaxNodes)
	}
	return nil
}

// deeper bounds the recursion; the caller undoes it with p.depth--.
func (p *parser) deeper() error {
	if p.depth++; p.depth > MaxDepth {
		return p.fail(p.ahead.at, "nested more than %d deep", MaxDepth)
	}
	return nil
}

func (p *parser) expression() (node, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	n, err := p.or()
	if err == nil && p.ahead.kind != end {
		err = p.expected("AND, OR or the end")
	}
	return n, err
}

func (p *parser) or() (node, error) { return p.chain("OR", p.and, or) }

func (p *parser) and() (node, error) { return p.chain("AND", p.not, and) }

// chain reads parts with an operator between them.
func (p *parser) chain(op string, part func() (node, error), join func(a, b node) node) (node, error) {
	left, err := part()
	for err == nil && p.is(op) {
		var right node
		if err = p.count(); err == nil {
			err = p.advance()
		}
		if err == nil {
			right, err = part()
		}
		if err == nil {
			left = join(left, right)
		}
	}
	return left, err
}

func (p *parser) not() (node, error) {
	ok, err := p.take("NOT")
	if !ok || err != nil {
		if err == nil {
			return p.predicate()
		}
		return nil, err
	}
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	n, err := p.not()
	if err != nil {
		return nil, err
	}
	return not(n), p.count()
}

func (p *parser) predicate() (node, error) {
	if ok, err := p.take("("); ok || err != nil {
		return p.parentheses(err)
	}
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	return p.comparison(left)
}

func (p *parser) parentheses(err error) (node, error) {
	if err == nil {
		err = p.deeper()
	}
	if err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	n, err := p.or()
	if err == nil {
		err = p.want(")")
	}
	return n, err
}

func (p *parser) operand() (operand, error) {
	t := p.ahead
	literal := t.kind == number || t.kind == text || t.kind == word && (t.text == "TRUE" || t.text == "FALSE")
	if t.kind != name && !literal {
		return operand{}, p.expected("a property, a number, a string, TRUE, FALSE, NOT or (")
	}
	if t.kind == name && !slices.Contains(p.names, t.text) {
		p.names = append(p.names, t.text)
	}
	if err := p.count(); err != nil {
		return operand{}, err
	}
	return operand{t}, p.advance()
}

// comparison reads what follows an operand.
func (p *parser) comparison(left operand) (node, error) {
	negated, err := p.take("NOT")
	if err != nil {
		return nil, err
	}
	at := p.ahead
	var n node
	switch {
	case p.is("BETWEEN"):
		n, err = p.between(left)
	case p.is("IN"):
		n, err = p.in(left)
	case p.is("CONTAINS"), p.is("STARTSWITH"), p.is("ENDSWITH"):
		n, err = p.substring(left, at.text)
	case negated:
		return nil, p.expected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH")
	case p.is("IS"):
		return p.isNull(left)
	case at.kind == operator && comparisons[at.text] != nil:
		return p.compare(left, at)
	default:
		return p.boolean(left)
	}
	if err == nil && negated {
		n = not(n)
	}
	if err == nil {
		err = p.count()
	}
	return n, err
}

// boolean is an operand alone.
func (p *parser) boolean(o operand) (node, error) {
	switch {
	case o.kind == name:
		return propertyIs(o.text, true), nil
	case o.kind == word:
		t := truthOf(o.text == "TRUE")
		return func(Source) truth { return t }, nil
	}
	return nil, p.expected("a comparison")
}

func (p *parser) compare(left operand, op token) (node, error) {
	if err := p.advance(); err != nil {
		return nil, err
	}
	right, err := p.operand()
	if err != nil {
		return nil, err
	}
	n, reason := compare(left, op.text, right)
	if reason != "" {
		return nil, p.fail(op.at, "%s", reason)
	}
	return n, p.count()
}

func (p *parser) between(left operand) (node, error) {
	at := p.ahead.at
	if err := p.advance(); err != nil {
		return nil, err
	}
	low, err := p.operand()
	if err == nil {
		err = p.want("AND")
	}
	if err != nil {
		return nil, err
	}
	high, err := p.operand()
	if err != nil {
		return nil, err
	}
	from, reason := compare(left, ">=", low)
	to, other := compare(left, "<=", high)
	if reason+other != "" {
		return nil, p.fail(at, "BETWEEN: %s", max(reason, other))
	}
	return and(from, to), nil
}

func (p *parser) in(left operand) (node, error) {
	at := p.ahead.at
	if err := p.advance(); err != nil {
		return nil, err
	}
	if err := p.want("("); err != nil {
		return nil, err
	}
	var any node
	for {
		o, err := p.operand()
		if err != nil {
			return nil, err
		}
		one, reason := compare(left, "=", o)
		switch {
		case reason != "":
			return nil, p.fail(at, "IN: %s", reason)
		case any == nil:
			any = one
		default:
			any = or(any, one)
		}
		if more, err := p.take(","); err != nil {
			return nil, err
		} else if !more {
			return any, p.want(")")
		}
	}
}

func (p *parser) isNull(o operand) (node, error) {
	at := p.ahead.at
	if err := p.advance(); err != nil {
		return nil, err
	}
	negated, err := p.take("NOT")
	if err == nil {
		err = p.want("NULL")
	}
	switch {
	case err != nil:
		return nil, err
	case o.kind != name:
		return nil, p.fail(at, "IS NULL asks for a property, not for %s", o)
	}
	missing := o.text
	return func(s Source) truth {
		_, ok := s.Property(missing)
		return truthOf(ok == negated)
	}, p.count()
}

func (p *parser) substring(left operand, op string) (node, error) {
	at := p.ahead.at
	if err := p.advance(); err != nil {
		return nil, err
	}
	right, err := p.operand()
	switch {
	case err != nil:
		return nil, err
	case left.kind == number || left.kind == word || right.kind != text:
		return nil, p.fail(at, "%s looks for a string in a property, not for %s in %s", op, right, left)
	}
	return contains(left, op, right.text), nil
}
