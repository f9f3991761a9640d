package command

import (
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/transport/protocol"
)

// retryFlags say how often and when messages are delivered again to a group.
type retryFlags struct {
	max    int
	policy string
}

const policyHelp = "table (10s 30s 1m 2m ... 2h), or exponential[:FIRST[:MOST]] (5s to 2h, doubled each time)"

func (f *retryFlags) declare(cmd *cobra.Command) {
	cmd.Flags().IntVar(&f.max, "retry-max", 0, "how often a message that fails is delivered again before it is a dead letter; 0: 16, -1: never")
	cmd.Flags().StringVar(&f.policy, "retry-policy", "", "when it is: `POLICY` "+policyHelp)
	complete(cmd, "retry-policy", "table", "exponential")
}

// patch sets what was said on the command line.
func (f *retryFlags) patch(cmd *cobra.Command, p *admin.GroupPatch) error {
	policy, err := parsePolicy(f.policy)
	if cmd.Flags().Changed("retry-max") {
		p.RetryMax = &f.max
	}
	if cmd.Flags().Changed("retry-policy") {
		p.RetryPolicy = &policy
	}
	return err
}

func parsePolicy(text string) (p protocol.RetryPolicy, err error) {
	kind, rest, some := strings.Cut(text, ":")
	p.Kind = protocol.RetryKind(kind)
	if kind != "" && p.Kind != protocol.RetryTable && p.Kind != protocol.RetryExponential || some && p.Kind != protocol.RetryExponential {
		return p, usagef("--retry-policy %q: want %s", text, policyHelp)
	}
	first, most, _ := strings.Cut(rest, ":")
	for _, x := range []struct {
		text string
		to   *int64
	}{{first, &p.FirstMillis}, {most, &p.MaxMillis}} {
		if x.text == "" {
			continue
		}
		d, err := time.ParseDuration(x.text)
		if err != nil || d < time.Millisecond {
			return p, usagef("--retry-policy %q: %q is not a duration of 1ms or more", text, x.text)
		}
		*x.to = d.Milliseconds()
	}
	return p, nil
}

// policyText is what parsePolicy reads.
func policyText(p protocol.RetryPolicy) string {
	text := string(p.Kind)
	if text == "" {
		text = string(protocol.RetryTable)
	}
	millis := func(n int64) string {
		if n == 0 {
			return ""
		}
		return (time.Duration(n) * time.Millisecond).String()
	}
	if p.FirstMillis != 0 || p.MaxMillis != 0 {
		text += ":" + millis(p.FirstMillis)
	}
	if p.MaxMillis != 0 {
		text += ":" + millis(p.MaxMillis)
	}
	return text
}

func retryMaxText(n int) string {
	switch n {
	case 0:
		return "16"
	case protocol.NoRetry:
		return "none"
	}
	return number(n)
}
