package command

import (
	"cmp"
	"slices"
	"strings"

	"github.com/rmqio/rmq/message"
)

// typeNames are the types that a topic may have; the last one takes all messages.
func typeNames() []string {
	var names []string
	for _, k := range message.Kinds() {
		names = append(names, string(k))
	}
	return names
}

// parseType reads a topic's type, in small letters too.
func parseType(s string) (message.Kind, error) {
	name := strings.ToUpper(s)
	if slices.Contains(typeNames(), name) {
		return message.Kind(name), nil
	}
	f := usagef("--type %q is not known", s)
	f.Hint = "one of: " + strings.Join(typeNames(), ", ")
	return "", f
}

// typeText is a topic's type; one that has none takes all messages.
func typeText(k message.Kind) string { return string(cmp.Or(k, message.Mixed)) }

// eachType joins the types that brokers have given a topic, each once.
func eachType(before, next string) string {
	if before == "" || slices.Contains(strings.Split(before, ","), next) {
		return cmp.Or(before, next)
	}
	return before + "," + next
}

const topicTypesText = `Create a topic on all brokers, or on chosen ones.

The type says which messages the brokers take, whoever sends them:

  NORMAL       messages without group, delay, priority or transaction
  FIFO         messages with a group
  DELAY        messages with a delay or a time of delivery
  TRANSACTION  messages that are sent in a transaction
  PRIORITY     messages with or without a priority, 0 to 9
  MIXED        all of them; also what a topic is that nobody created

In a topic of priorities each queue holds a band of them: with 10 queues on a
broker, one priority each. Consumers are given the highest first, and lower ones
wait as long as there are higher ones, for ever if need be.

A type that is changed holds for what is sent from then on. A quota bounds what
each broker takes; what is more is refused and told when to come again.`
