package command

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// How a retention is said that is no duration.
const (
	retentionDefault = "default"
	retentionForever = "forever"
)

var errRetention = errors.New("want a duration of at least 1s (72h, 7d), or forever")

// parseRetention reads a duration, in days too, or forever, which is -1.
func parseRetention(s string) (time.Duration, error) {
	if s == retentionForever {
		return -1, nil
	}
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int64
		n, err = strconv.ParseInt(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < protocol.MinRetentionMillis*time.Millisecond {
		return 0, errRetention
	}
	return d, nil
}

// topicRetention is parseRetention for a topic, which may leave it to the broker.
func topicRetention(s string) (millis int64, err error) {
	if s == retentionDefault {
		return protocol.KeepByDefault, nil
	}
	d, err := parseRetention(s)
	switch {
	case err != nil:
		return 0, errors.New("want default, forever, or a duration of at least 1s (72h, 7d)")
	case d < 0:
		return protocol.KeepForever, nil
	}
	return d.Milliseconds(), nil
}

// retentionText is what topicRetention reads.
func retentionText(millis int64) string {
	switch {
	case millis == protocol.KeepByDefault:
		return retentionDefault
	case millis < 0:
		return retentionForever
	}
	text := (time.Duration(millis) * time.Millisecond).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

func keepText(untilConsumed bool) string {
	if untilConsumed {
		return "yes"
	}
	return "no"
}
