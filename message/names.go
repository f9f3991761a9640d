package message

import (
	"errors"
	"fmt"
	"strings"
)

// Prefixes and lengths of names, as in RocketMQ (TopicValidator).
const (
	RetryPrefix = "%RETRY%"
	DLQPrefix   = "%DLQ%"

	MaxTopicBytes         = 127
	MaxReservedTopicBytes = 255 // retry and dead-letter topics
	MaxGroupBytes         = 120
	MaxClientIDBytes      = 255
)

// ErrIllegalName is returned for a name of a topic, group, broker, cluster or
// client that breaks the rules; the text says which rule.
var ErrIllegalName = errors.New("illegal name")

// systemTopics are RocketMQ's; a user can create none of them. BenchmarkTest is
// one of them there, but is open to users: it is what `rmq bench` uses.
var systemTopics = []string{
	"TBW102", "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRACE_TOPIC",
	"RMQ_SYS_TRANS_OP_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC", "SELF_TEST_TOPIC",
	"OFFSET_MOVED_EVENT", "CHECKPOINT_TOPIC",
}

const systemPrefix = "rmq_sys_"

// CheckTopic tells whether a client may use the name as a topic of its own:
// 1 to 127 characters of a-z A-Z 0-9 _ - % |, not reserved.
func CheckTopic(name string) error {
	if err := checkName("topic", name, MaxTopicBytes, true); err != nil {
		return err
	}
	if IsReserved(name) {
		return fmt.Errorf("%w: topic %q is reserved for the broker", ErrIllegalName, name)
	}
	return nil
}

// CheckAnyTopic is CheckTopic that lets reserved names pass: for reading.
func CheckAnyTopic(name string) error {
	limit := MaxTopicBytes
	if IsReserved(name) {
		limit = MaxReservedTopicBytes
	}
	return checkName("topic", name, limit, true)
}

// CheckGroup tells whether the name may be a producer or consumer group.
func CheckGroup(name string) error { return checkName("group", name, MaxGroupBytes, true) }

// CheckBroker tells whether the name may be a broker or a cluster.
func CheckBroker(name string) error { return checkName("broker", name, MaxTopicBytes, false) }

// CheckClientID tells whether the name may be a client's: printable ASCII.
func CheckClientID(id string) error {
	if id == "" || len(id) > MaxClientIDBytes {
		return fmt.Errorf("%w: client id of %d bytes; 1 to %d are allowed", ErrIllegalName, len(id), MaxClientIDBytes)
	}
	for i := 0; i < len(id); i++ {
		if id[i] <= ' ' || id[i] > '~' {
			return fmt.Errorf("%w: client id %q holds a character that is not printable ASCII", ErrIllegalName, id)
		}
	}
	return nil
}

// IsReserved reports whether a topic belongs to the broker: retry and
// dead-letter topics, and RocketMQ's system topics.
func IsReserved(topic string) bool {
	if strings.HasPrefix(topic, RetryPrefix) || strings.HasPrefix(topic, DLQPrefix) ||
		strings.HasPrefix(topic, systemPrefix) {
		return true
	}
	for _, s := range systemTopics {
		if topic == s {
			return true
		}
	}
	return false
}

func checkName(kind, name string, limit int, percentAndBar bool) error {
	if name == "" {
		return fmt.Errorf("%w: %s name is empty", ErrIllegalName, kind)
	}
	if len(name) > limit {
		return fmt.Errorf("%w: %s name has %d characters; the limit is %d", ErrIllegalName, kind, len(name), limit)
	}
	for i := 0; i < len(name); i++ {
		if !nameByte(name[i], percentAndBar) {
			return fmt.Errorf("%w: %s %q: character %q at %d is not one of %s",
				ErrIllegalName, kind, name, name[i], i, allowed(percentAndBar))
		}
	}
	return nil
}

func nameByte(c byte, percentAndBar bool) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-':
		return true
	default:
		return percentAndBar && (c == '%' || c == '|')
	}
}

func allowed(percentAndBar bool) string {
	if percentAndBar {
		return "a-z A-Z 0-9 _ - % |"
	}
	return "a-z A-Z 0-9 _ -"
}
