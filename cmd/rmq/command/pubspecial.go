package command

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/message"
)

// specialFlags are the flags that make the messages of `rmq pub` more than
// normal ones.
type specialFlags struct {
	delay    time.Duration
	level    int
	at       string
	until    time.Time // of at
	priority int
	dedupKey string
}

func (f *specialFlags) declare(c *cobra.Command) {
	c.Flags().DurationVar(&f.delay, "delay", 0, "deliver the messages after this time, by the broker's clock")
	c.Flags().IntVar(&f.level, "delay-level", 0, "deliver after the time of the broker's delay level `N`, from 1; above the last: the last")
	c.Flags().StringVar(&f.at, "at", "", "deliver the messages at `TIME`: RFC 3339, or +1h30m")
	c.Flags().IntVar(&f.priority, "priority", 0, "priority of the messages, 0 to 9, in a topic of type PRIORITY")
	c.Flags().StringVar(&f.dedupKey, "dedup-key", "", "store only one message with this `KEY` within the broker's window")
}

// check also holds what was given to the rules that bind it to a message group.
func (f *specialFlags) check(cmd *cobra.Command, group string, now time.Time) (err error) {
	if err := exclusive(cmd, "delay", "delay-level", "at"); err != nil {
		return err
	}
	switch {
	case f.delay < 0:
		return usagef("--delay %s is negative", f.delay)
	case cmd.Flags().Changed("delay-level") && f.level < 1:
		return usagef("--delay-level %d: they begin with 1", f.level)
	}
	if f.until, err = deliveryTime(f.at, now); err != nil {
		return err
	}
	m := message.Message{Group: group}
	f.apply(&m)
	return m.Validate()
}

// deliveryTime reads --at; zero for none.
func deliveryTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if text[0] == '+' {
		if d, err := time.ParseDuration(text[1:]); err == nil && d >= 0 {
			return now.Add(d), nil
		}
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usagef("--at %q: want a time as 2006-01-02T15:04:05Z, or +DURATION", text)
	}
	return t, nil
}

// apply sets what was given; the rest stays as the input has it.
func (f *specialFlags) apply(m *message.Message) {
	if f.delay > 0 || f.level != 0 || !f.until.IsZero() {
		m.Delay, m.DelayLevel, m.DeliverAt = f.delay, f.level, f.until
	}
	if f.priority != 0 {
		m.Priority = f.priority
	}
	if f.dedupKey != "" {
		m.DedupKey = f.dedupKey
	}
}
