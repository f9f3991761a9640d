package command

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
)

func (a *app) topicPeek() *cobra.Command {
	var t admin.Target
	var queue string
	var count int
	c := &cobra.Command{
		Use: "peek TOPIC", Short: "Print the newest messages of a topic, newest first, without consuming them",
		Example: `  rmq topic peek orders
  rmq topic peek orders --queue broker-a/3 --count 100 -o ndjson`,
		Args:              takes("TOPIC"),
		ValidArgsFunction: a.completeTopics,
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		if count < 1 {
			return usagef("--count %d: want at least 1", count)
		}
		p := admin.Peek{Topic: args[0]}
		if queue != "" {
			var err error
			if p.Queue, err = parseQueue(queue, &t); err != nil {
				return err
			}
		}
		return topicError(ctx, ad, args[0], a.printFound(ctx, ad.Newest(ctx, p, t), count, ""))
	})
	c.Flags().StringVar(&queue, "queue", "", "only the queue `BROKER/N`, or N of each broker that has it")
	c.Flags().IntVar(&count, "count", 10, "at most `N` messages")
	targetFlags(c, &t)
	return c
}
