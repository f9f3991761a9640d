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

// reservedProperties are the names that RocketMQ keeps to itself
// (MessageConst); what they say there is said by fields of Message here.
var reservedProperties = map[string]bool{
	"KEYS": true, "TAGS": true, "WAIT": true, "DELAY": true, "TIMER_DELAY_SEC": true, "TIMER_DELAY_MS": true,
	"TIMER_DELIVER_MS": true, "UNIQ_KEY": true, "RETRY_TOPIC": true, "REAL_TOPIC": true, "REAL_QID": true,
	"TRAN_MSG": true, "PGROUP": true, "ORIGIN_MESSAGE_ID": true, "RECONSUME_TIME": true, "MAX_RECONSUME_TIMES": true,
	"MIN_OFFSET": true, "MAX_OFFSET": true, "CONSUME_START_TIME": true, "MSG_REGION": true, "TRACE_ON": true,
	"CLUSTER": true, "CORRELATION_ID": true, "REPLY_TO_CLIENT": true, "TTL": true, "MSG_TYPE": true, "POP_CK": true,
	"1ST_POP_TIME": true, "__SHARDINGKEY": true, "INNER_NUM": true, "INNER_MULTI_DISPATCH": true,
	"INNER_MULTI_QUEUE_OFFSET": true, "TRANSACTION_CHECK_TIMES": true, "CHECK_IMMUNITY_TIME_IN_SECONDS": true,
	"__transactionId__": true, "DLQ_ORIGIN_TOPIC": true, "DLQ_ORIGIN_MESSAGE_ID": true, "TRACE_CONTEXT": true,
	"INSTANCE_ID": true, "__CRC32#": true,
}

// IsReservedProperty reports whether a user's property may not have the name. It
// allocates nothing, whatever holds the name.
func IsReservedProperty[S string | []byte](name S) bool { return reservedProperties[string(name)] }

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

// RetryTopic is where messages wait that a consumer group has failed to process and
// tries again, and DLQTopic where those are that it has given up.
func RetryTopic(group string) string { return RetryPrefix + group }

// DLQTopic is the dead-letter topic of a consumer group.
func DLQTopic(group string) string { return DLQPrefix + group }

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
