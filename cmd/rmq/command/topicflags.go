package command

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/message"
)

// topicFlags are the settings of a topic on the command line.
type topicFlags struct {
	queues, readQueues, writeQueues int
	perm                            string
	retention                       string
	keep                            bool
	kind                            string
	rates                           rateFlags
}

func (f *topicFlags) declare(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.queues, "queues", 0, "read and write queues on each broker")
	cmd.Flags().IntVar(&f.readQueues, "read-queues", 0, "queues to read on each broker")
	cmd.Flags().IntVar(&f.writeQueues, "write-queues", 0, "queues to write on each broker")
	cmd.Flags().StringVar(&f.perm, "perm", "", "permission: rw, r, w or none")
	complete(cmd, "perm", "rw", "r", "w", "none")
	cmd.Flags().StringVar(&f.retention, "retention", "", "how long messages are kept: a `DURATION` (72h, 7d), forever, or default: as the broker does")
	complete(cmd, "retention", "default", "forever", "1h", "24h", "72h", "7d")
	cmd.Flags().BoolVar(&f.keep, "keep-until-consumed", false, "keep messages beyond that until all groups have consumed them")
	cmd.Flags().StringVar(&f.kind, "type", "", "`KIND` of messages that the topic takes: "+strings.Join(typeNames(), ", ")+" (all of them)")
	complete(cmd, "type", typeNames()...)
	f.rates.declare(cmd, "for the topic")
}

// patch is what was said on the command line, checked.
func (f *topicFlags) patch(cmd *cobra.Command) (admin.TopicPatch, error) {
	var p admin.TopicPatch
	if err := errors.Join(exclusive(cmd, "queues", "read-queues"), exclusive(cmd, "queues", "write-queues")); err != nil {
		return p, err
	}
	for _, q := range []struct {
		flag  string
		value int
		to    []**int
	}{
		{"queues", f.queues, []**int{&p.ReadQueues, &p.WriteQueues}},
		{"read-queues", f.readQueues, []**int{&p.ReadQueues}},
		{"write-queues", f.writeQueues, []**int{&p.WriteQueues}},
	} {
		if !cmd.Flags().Changed(q.flag) {
			continue
		}
		if q.value < 1 {
			return p, usagef("--%s %d: want at least 1", q.flag, q.value)
		}
		for _, to := range q.to {
			*to = &q.value
		}
	}
	if f.perm != "" {
		perm, err := message.ParsePerm(f.perm)
		if err != nil {
			return p, usagef("--perm: %v", err)
		}
		p.Perm = &perm
	}
	if cmd.Flags().Changed("keep-until-consumed") {
		p.KeepUntilConsumed = &f.keep
	}
	if cmd.Flags().Changed("retention") {
		millis, err := topicRetention(f.retention)
		if err != nil {
			return p, usagef("--retention %q: %v", f.retention, err)
		}
		p.RetentionMillis = &millis
	}
	if cmd.Flags().Changed("type") {
		kind, err := parseType(f.kind)
		if err != nil {
			return p, err
		}
		p.Type = &kind
	}
	var err error
	p.Quota, err = f.rates.patch(cmd)
	return p, err
}

func newTopicSpec(name string, p admin.TopicPatch) admin.TopicSpec {
	s := admin.TopicSpec{Name: name}
	if p.ReadQueues != nil {
		s.ReadQueues = *p.ReadQueues
	}
	if p.WriteQueues != nil {
		s.WriteQueues = *p.WriteQueues
	}
	if p.Perm != nil {
		s.Perm = *p.Perm
	}
	if p.RetentionMillis != nil {
		s.RetentionMillis = *p.RetentionMillis
	}
	if p.KeepUntilConsumed != nil {
		s.KeepUntilConsumed = *p.KeepUntilConsumed
	}
	if p.Type != nil {
		s.Type = *p.Type
	}
	if p.Quota.MessagesPerSecond != nil {
		s.Quota.MessagesPerSecond = *p.Quota.MessagesPerSecond
	}
	if p.Quota.BytesPerSecond != nil {
		s.Quota.BytesPerSecond = *p.Quota.BytesPerSecond
	}
	return s
}
