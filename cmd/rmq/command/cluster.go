package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rmqio/rmq/admin"
)

// waitForHealth is how long health --wait waits when --timeout is not given,
// and between tries.
const (
	waitForHealth  = 30 * time.Second
	healthInterval = 50 * time.Millisecond
)

func (a *app) clusterCommand() *cobra.Command {
	return noun("cluster", "The cluster: its brokers, and whether it can send and receive", a.clusterInfo(), a.clusterHealth())
}

// brokerRow is a broker with its status; what it did not answer is null. The
// fields are API.
type brokerRow struct {
	Cluster   string     `json:"cluster"`
	Broker    string     `json:"broker"`
	ID        int        `json:"id"`
	Addresses []string   `json:"addresses"`
	LastSeen  *time.Time `json:"lastSeen"`
	Version   *string    `json:"version"`
	StartedAt *time.Time `json:"startedAt"`
	Writable  *bool      `json:"writable"`
	Reason    *string    `json:"reason"`
	FlushMode *string    `json:"flushMode"`
	Topics    int        `json:"topics"`
	Groups    *int       `json:"groups"`
	Clients   *int       `json:"clients"`
	DiskBytes *int64     `json:"diskBytes"`
	// The disk as a whole: ok, warn, clean (old messages go early) or refuse (new
	// ones are refused).
	DiskUsedPercent *int    `json:"diskUsedPercent"`
	DiskFreeBytes   *int64  `json:"diskFreeBytes"`
	DiskLevel       *string `json:"diskLevel"`
	FirstIndex      *uint64 `json:"firstIndex"`
	LastIndex       *uint64 `json:"lastIndex"`
	Error           *string `json:"error"`
}

func newBrokerRow(b admin.Broker) brokerRow {
	r := brokerRow{
		Cluster: b.Cluster, Broker: b.Broker, ID: b.ID, Addresses: append([]string{}, b.Addresses...),
		LastSeen: moment(b.LastSeenMillis), Topics: b.Topics, Error: errorText(b.Err),
	}
	s := b.Status
	if s == nil {
		return r
	}
	r.Version, r.StartedAt, r.Writable, r.FlushMode = &s.Version, moment(s.StartedAt), &s.Writable, &s.FlushMode
	r.Groups, r.Clients, r.Topics = &s.Groups, &s.Clients, s.Topics
	r.DiskBytes, r.FirstIndex, r.LastIndex = &s.DiskBytes, &s.FirstIndex, &s.LastIndex
	r.DiskUsedPercent, r.DiskFreeBytes, r.DiskLevel = &s.DiskUsedPercent, &s.DiskFreeBytes, &s.DiskLevel
	if s.Reason != "" {
		r.Reason = &s.Reason
	}
	return r
}

func errorText(err error) *string {
	if err == nil {
		return nil
	}
	return new(err.Error())
}

func (a *app) clusterInfo() *cobra.Command {
	return &cobra.Command{
		Use: "info", Aliases: []string{"list", "ls"}, Short: "All brokers and how they are",
		Args: takes(),
		RunE: a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
			brokers, err := ad.Cluster(ctx)
			if err != nil {
				return err
			}
			rows := make([]brokerRow, len(brokers))
			for i, b := range brokers {
				rows[i] = newBrokerRow(b)
			}
			return printList(a, rows, brokerTable())
		}),
	}
}

func brokerTable() table[brokerRow] {
	return table[brokerRow]{
		name: func(r brokerRow) string { return r.Broker },
		columns: []column[brokerRow]{
			{title: "CLUSTER", cell: func(r brokerRow) string { return r.Cluster }},
			{title: "BROKER", cell: func(r brokerRow) string { return r.Broker }},
			{title: "ID", cell: func(r brokerRow) string { return number(r.ID) }},
			{title: "ADDRESSES", cell: func(r brokerRow) string { return strings.Join(r.Addresses, ",") }},
			{title: "STATE", cell: brokerRow.state},
			{title: "TOPICS", cell: func(r brokerRow) string { return number(r.Topics) }},
			{title: "GROUPS", cell: func(r brokerRow) string { return optional(r.Groups) }},
			{title: "CLIENTS", cell: func(r brokerRow) string { return optional(r.Clients) }},
			{title: "DISK", cell: func(r brokerRow) string { return bytesText(r.DiskBytes) }},
			{title: "VERSION", cell: func(r brokerRow) string { return optional(r.Version) }},
			{title: "DISK LEVEL", cell: brokerRow.diskText, wide: true},
			{title: "FLUSH", cell: func(r brokerRow) string { return optional(r.FlushMode) }, wide: true},
			{title: "STARTED", cell: func(r brokerRow) string { return momentText(r.StartedAt) }, wide: true},
			{title: "LAST SEEN", cell: func(r brokerRow) string { return momentText(r.LastSeen) }, wide: true},
			{title: "FIRST INDEX", cell: func(r brokerRow) string { return optional(r.FirstIndex) }, wide: true},
			{title: "LAST INDEX", cell: func(r brokerRow) string { return optional(r.LastIndex) }, wide: true},
		},
	}
}

// state is one word for people.
func (r brokerRow) state() string {
	switch {
	case r.Error != nil:
		return "unreachable"
	case r.Writable == nil:
		return "unknown"
	case !*r.Writable:
		return "read-only"
	}
	return "ok"
}

func (r brokerRow) diskText() string {
	if r.DiskLevel == nil {
		return ""
	}
	return fmt.Sprintf("%s (%d%%)", *r.DiskLevel, *r.DiskUsedPercent)
}

func optional[T any](v *T) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(*v)
}

func bytesText(n *int64) string {
	if n == nil {
		return ""
	}
	v, units := float64(*n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; v >= 1024 && i < len(units)-1; i++ {
		v /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", *n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}

// healthView says whether the cluster can send and receive. The fields are API.
type healthView struct {
	Healthy     bool            `json:"healthy"`
	Problems    []string        `json:"problems"`
	NameServers []nameServerRow `json:"nameServers"`
	Brokers     []brokerRow     `json:"brokers"`
}

func newHealthView(h *admin.Health) healthView {
	v := healthView{
		Healthy: h.Healthy, Problems: append([]string{}, h.Problems...),
		NameServers: newNameServerRows(h.NameServers), Brokers: []brokerRow{},
	}
	for _, b := range h.Brokers {
		v.Brokers = append(v.Brokers, newBrokerRow(b))
	}
	return v
}

func (a *app) clusterHealth() *cobra.Command {
	var wait bool
	c := &cobra.Command{
		Use: "health", Short: "Whether the cluster can send and receive: exit code 0 when it can, else 5",
		Args: takes(),
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if wait && !cmd.Flags().Changed("timeout") {
			a.reach.timeout = waitForHealth
		}
		return a.withAdmin(func(ctx context.Context, ad *admin.Admin, _ []string) error {
			return a.health(ctx, ad, wait)
		})(cmd, args)
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until it can, for --timeout (then 30s by default)")
	return c
}

func (a *app) health(ctx context.Context, ad *admin.Admin, wait bool) error {
	h := ad.Health(ctx)
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for wait && !h.Healthy && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			h = newerHealth(ctx, ad, h)
		}
	}
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	v := newHealthView(h)
	if err := printObject(a, v, healthWord(v.Healthy), v.write); err != nil {
		return err
	}
	if v.Healthy {
		return nil
	}
	return unhealthy(v)
}

// newerHealth keeps the older answer when the time ran out during the new one,
// so that the problem shown is the cluster's and not the clock's.
func newerHealth(ctx context.Context, ad *admin.Admin, old *admin.Health) *admin.Health {
	h := ad.Health(ctx)
	if ctx.Err() != nil && !h.Healthy {
		return old
	}
	return h
}

func unhealthy(v healthView) error {
	f := &Failure{Code: "UNHEALTHY", Message: "the cluster cannot send and receive", exit: exitUnavailable}
	if len(v.Problems) > 0 {
		f.Message += ": " + v.Problems[0]
	}
	f.Hint = "start a server with: rmq server, or wait for one with: rmq cluster health --wait"
	return f
}

func healthWord(healthy bool) string {
	if healthy {
		return "healthy"
	}
	return "unhealthy"
}

func (v healthView) write(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%s: %d name servers, %d brokers\n", healthWord(v.Healthy), len(v.NameServers), len(v.Brokers))
	for _, p := range v.Problems {
		fmt.Fprintf(w, "- %s\n", p)
	}
	return err
}
