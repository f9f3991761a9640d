package command

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
)

const perMemberUsage = "let members have different topics, though not different filters of one topic"

func (a *app) groupAlter() *cobra.Command {
	var t admin.Target
	var consume, perMember bool
	var retries retryFlags
	c := &cobra.Command{
		Use: "alter GROUP", Short: "Change the settings of a consumer group",
		Example: `  rmq group alter billing --consume-enabled=false
  rmq group alter billing --per-member-subscriptions
  rmq group alter billing --retry-max 5 --retry-policy exponential:1s:10m`,
		Args:              takes("GROUP"),
		ValidArgsFunction: a.completeGroups,
	}
	c.RunE = a.withAdmin(func(ctx context.Context, ad *admin.Admin, args []string) error {
		var p admin.GroupPatch
		if c.Flags().Changed("consume-enabled") {
			p.ConsumeEnabled = &consume
		}
		if c.Flags().Changed("per-member-subscriptions") {
			p.PerMemberSubscriptions = &perMember
		}
		if err := retries.patch(c, &p); err != nil {
			return err
		}
		if p == (admin.GroupPatch{}) {
			return usagef("nothing to change: give --consume-enabled, --per-member-subscriptions, --retry-max or --retry-policy")
		}
		changes, err := ad.PatchGroup(ctx, args[0], p, t)
		err = groupError(ctx, ad, args[0], err)
		return a.changed(err, func() error { return a.printGroupChanges(args[0], changes, t.DryRun) })
	})
	c.Flags().BoolVar(&consume, "consume-enabled", true, "let the group consume")
	c.Flags().BoolVar(&perMember, "per-member-subscriptions", false, perMemberUsage)
	retries.declare(c)
	changeFlags(c, &t)
	return c
}
