package command

import (
	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/consumer"
)

// broadcastFlags are the flags of `rmq sub` for members that read all queues.
type broadcastFlags struct {
	broadcast     bool
	clientID      string
	offsetsDir    string
	brokerOffsets bool
}

func (f *broadcastFlags) register(c *cobra.Command) {
	c.Flags().BoolVar(&f.broadcast, "broadcast", false, "read all queues, as every member of the --group does; what was printed is remembered for this --client-id")
	c.Flags().StringVar(&f.clientID, "client-id", "", "the member's `NAME`, the same each time and nobody else's (with --broadcast: HOST@GROUP)")
	c.Flags().StringVar(&f.offsetsDir, "offsets-dir", "", "with --broadcast, `DIR` where offsets are kept (rmq/offsets in the user's configuration folder)")
	c.Flags().BoolVar(&f.brokerOffsets, "broker-offsets", false, "with --broadcast, keep offsets on the brokers, as those of the group GROUP%BROADCAST%CLIENT")
}

func (f subFlags) checkBroadcast() error {
	b := f.broadcast
	switch {
	case b.broadcast && f.group == "":
		return usagef("--broadcast: want --group, too")
	case b.broadcast && f.pop:
		return usagef("--broadcast and --pop: want one of them")
	case b.clientID != "" && (f.pop || f.group == ""):
		return usagef("--client-id goes with --group, and not with --pop")
	case !b.broadcast && (b.offsetsDir != "" || b.brokerOffsets):
		return usagef("--offsets-dir and --broker-offsets go with --broadcast")
	case b.offsetsDir != "" && b.brokerOffsets:
		return usagef("--offsets-dir and --broker-offsets: want one of them")
	}
	return nil
}

func (f broadcastFlags) apply(cfg *consumer.PullConfig) {
	cfg.ClientID, cfg.Broadcast, cfg.OffsetsDir, cfg.BrokerOffsets = f.clientID, f.broadcast, f.offsetsDir, f.brokerOffsets
}
