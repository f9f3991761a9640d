package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
)

// completionBudget is how long the shell may wait for names from the cluster.
const completionBudget = 300 * time.Millisecond

var shells = []string{"bash", "zsh", "fish", "powershell"}

func (a *app) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "A script that teaches the shell to complete rmq's commands and names",
		Long: `A script that teaches the shell to complete rmq's commands and names.

  bash: source <(rmq completion bash)
  zsh:  rmq completion zsh > "${fpath[1]}/_rmq"
  fish: rmq completion fish > ~/.config/fish/completions/rmq.fish`,
		Args:              takes("SHELL"),
		ValidArgsFunction: cobra.FixedCompletions(shells, cobra.ShellCompDirectiveNoFileComp),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(a.out, true)
			case "zsh":
				return root.GenZshCompletion(a.out)
			case "fish":
				return root.GenFishCompletion(a.out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(a.out)
			}
			f := usagef("shell %q is not known", args[0])
			f.Hint = "one of: " + strings.Join(shells, ", ")
			return f
		},
	}
}

// completeTopics offers the cluster's topics for the first argument.
func (a *app) completeTopics(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeNames(cmd, args, func(ctx context.Context, ad *admin.Admin) []string {
		return topicNames(ctx, ad)
	})
}

// completeGroups offers the cluster's consumer groups for the first argument.
func (a *app) completeGroups(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeNames(cmd, args, func(ctx context.Context, ad *admin.Admin) []string {
		return groupNames(ctx, ad)
	})
}

func (a *app) completeNames(cmd *cobra.Command, args []string, names func(context.Context, *admin.Admin) []string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx := cmd.Context()
	if ctx == nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(ctx, completionBudget)
	defer cancel()
	ad, err := a.admin(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer ad.Close()
	return names(ctx, ad), cobra.ShellCompDirectiveNoFileComp
}

// topicNames are the names for completion and suggestions; none on any error.
func topicNames(ctx context.Context, ad *admin.Admin) []string {
	names, err := ad.TopicNames(ctx)
	if err != nil {
		return nil
	}
	return names
}

func groupNames(ctx context.Context, ad *admin.Admin) []string {
	groups, err := ad.ListGroups(ctx, admin.Target{})
	if err != nil {
		return nil
	}
	var names []string
	for _, g := range groups {
		names = append(names, g.Name)
	}
	slices.Sort(names)
	return names
}
