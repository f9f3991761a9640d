package command

import (
	"strconv"
	"strings"
	"time"
)

// positionKind says what a position is measured by.
type positionKind int

const (
	fromEarliest positionKind = iota
	fromLatest
	fromOffset
	fromTime
)

// position is a place in a queue, as --from and --to say it.
type position struct {
	kind   positionKind
	offset int64
	time   time.Time
}

// parsePosition reads earliest, latest, -10m (that long ago), a time in RFC
// 3339 or an offset.
func parsePosition(flag, s string, now time.Time) (position, error) {
	switch s {
	case "earliest":
		return position{kind: fromEarliest}, nil
	case "latest":
		return position{kind: fromLatest}, nil
	}
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		if d, err := time.ParseDuration(ago); err == nil && d >= 0 {
			return position{kind: fromTime, time: now.Add(-d)}, nil
		}
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return position{kind: fromOffset, offset: n}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return position{kind: fromTime, time: t}, nil
	}
	f := usagef("%s %q is not a position", flag, s)
	f.Hint = "earliest, latest, -10m (that long ago), 2006-01-02T15:04:05Z or an offset"
	return position{}, f
}
