package filter

// truth is a value of three-valued logic.
type truth int8

const (
	no      truth = -1
	unknown truth = 0
	yes     truth = 1
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// With these values NOT is the sign, AND the lesser, and OR the greater.

func not(a node) node { return func(s Source) truth { return -a(s) } }

func and(a, b node) node {
	return func(s Source) truth {
		t := a(s)
		if t == no {
			return no
		}
		return min(t, b(s))
	}
}

func or(a, b node) node {
	return func(s Source) truth {
		t := a(s)
		if t == yes {
			return yes
		}
		return max(t, b(s))
	}
}
