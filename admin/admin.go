// Package admin is the SDK for operators, and all that the rmq command stands on. An
// Admin talks to the brokers of a cluster, to all of them or to those of a Target:
//
//   - topics: CreateTopic, AlterTopic, DeleteTopic, ListTopics, DescribeTopic (with
//     the offsets of each queue), TopicRoute, TopicNames
//   - messages: Messages finds them by key, id or place in the log, MessageAt reads
//     one offset, Newest looks at the end of a topic, TraceMessage tells what became of
//     one; none of them consumes
//   - held messages: Delayed, Recall, Transactions and what decides them
//   - consumer groups: CreateGroup, AlterGroup, DeleteGroup, ListGroups,
//     DescribeGroup, GroupLag (exact, queue by queue)
//   - offsets: ResetOffsets, SkipBacklog, CloneOffsets
//   - clients: Clients and Client, with their subscriptions and the queues they own
//   - quotas: ListQuotas, SetQuota, DeleteQuota
//   - the cluster: Cluster, NameServers, Health
//
// A change goes to every broker of the target at once. With DryRun nothing is
// changed and the answer is what would be. When some brokers made the change and
// others did not, the error is a PartialError; trying again is safe. Questions fail
// when one of the brokers asked does not answer: half an answer would pass for a
// whole one. Refusals are matched by their code, as in
// errors.Is(err, protocol.TopicNotFound).
//
// The package owns a client connection and no state of the cluster: every answer is
// asked for anew. It neither sends nor consumes messages.
package admin

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message/compress"
	"github.com/rmqio/rmq/transport/protocol"
)

// Config says how to reach the cluster. Name servers are looked for in four
// places; the first that gives an address wins.
type Config struct {
	// NameServers are host:port addresses; one string may hold a list
	// separated by ; or ,.
	NameServers []string
	// ConfigFile is a file with the property rocketmq.namesrv.addr.
	ConfigFile string
	// LookupEnv reads RMQ_NAMESRV, then NAMESRV_ADDR; nil is os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// NameServerEndpoint is an HTTP URL that answers with a list of addresses.
	NameServerEndpoint string
	// EndpointInterval is how often it is asked again; 0 is 120 s.
	EndpointInterval time.Duration
	// ClientID names this client to brokers; empty is host@pid#random.
	ClientID string
	// Logger takes warnings; nil discards them.
	Logger *slog.Logger
}

// Admin talks to all brokers of a cluster. It is safe for concurrent use; make
// one with New and end it with Close.
type Admin struct {
	client  *client.Client
	decoder compress.Decoder
}

// New checks the configuration. It needs no running server; the calls do.
// ErrNoNameServer is returned when no address is configured anywhere.
func New(ctx context.Context, cfg Config) (*Admin, error) {
	c, err := client.New(ctx, client.Config{
		NameServers:        cfg.NameServers,
		ConfigFile:         cfg.ConfigFile,
		LookupEnv:          cfg.LookupEnv,
		NameServerEndpoint: cfg.NameServerEndpoint,
		EndpointInterval:   cfg.EndpointInterval,
		ClientID:           cfg.ClientID,
		Logger:             cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Admin{client: c}, nil
}

// Close ends the connections; calls under way fail with protocol.Closed.
func (a *Admin) Close() { a.client.Close() }

// Target says which brokers a call is for and whether it only looks.
type Target struct {
	// Cluster restricts the call to the brokers of one cluster; empty: all.
	Cluster string
	// Brokers restricts it to brokers by name; none: all.
	Brokers []string
	// DryRun finds out what would be changed and changes nothing.
	DryRun bool
}

// masters are the names of the target's brokers, sorted.
func (a *Admin) masters(ctx context.Context, t Target) ([]string, error) {
	infos, err := a.client.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, b := range infos {
		if b.ID == 0 && (t.Cluster == "" || t.Cluster == b.Cluster) {
			names = append(names, b.Broker)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil, noBroker(t.Cluster)
	}
	return chosen(names, t.Brokers)
}

func chosen(known, wanted []string) ([]string, error) {
	if len(wanted) == 0 {
		return known, nil
	}
	for _, w := range wanted {
		if !slices.Contains(known, w) {
			return nil, brokerNotFound(w, known)
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(wanted))), nil
}

// answer is what one broker said.
type answer[T any] struct {
	broker string
	value  T
	err    error
}

// ask calls fn for all brokers at once and waits for all answers, which come
// in the order of the brokers.
func ask[T any](ctx context.Context, brokers []string, fn func(ctx context.Context, broker string) (T, error)) []answer[T] {
	answers := make([]answer[T], len(brokers))
	var wg sync.WaitGroup
	for i, b := range brokers {
		wg.Go(func() {
			v, err := fn(ctx, b)
			answers[i] = answer[T]{broker: b, value: v, err: err}
		})
	}
	wg.Wait()
	return answers
}

// request is ask for a request that is the same for all.
func request[Resp any](ctx context.Context, a *Admin, brokers []string, req protocol.Request) []answer[*Resp] {
	return ask(ctx, brokers, func(ctx context.Context, broker string) (*Resp, error) {
		return client.Call[Resp](ctx, a.client, broker, protocol.ClassAdmin, req)
	})
}

// without drops the answers that failed with the code; when no other is left
// the first of them is the error.
func without[T any](answers []answer[T], code protocol.ErrorCode) ([]answer[T], error) {
	kept := slices.DeleteFunc(slices.Clone(answers), func(x answer[T]) bool { return isCode(x.err, code) })
	if len(kept) == 0 && len(answers) > 0 {
		return nil, answers[0].err
	}
	return kept, firstError(kept)
}

func firstError[T any](answers []answer[T]) error {
	for _, x := range answers {
		if x.err != nil {
			return x.err
		}
	}
	return nil
}

// outcome sorts the answers of a change: nil when all brokers made it, the
// error when none did, else a PartialError.
func outcome[T any](op string, answers []answer[T]) error {
	var p PartialError
	p.Op = op
	for _, x := range answers {
		if x.err == nil {
			p.Done = append(p.Done, x.broker)
			continue
		}
		p.Failed = append(p.Failed, BrokerFailure{Broker: x.broker, Err: x.err})
	}
	switch {
	case len(p.Failed) == 0:
		return nil
	case len(p.Done) == 0:
		return p.Failed[0].Err
	default:
		return &p
	}
}

func joined(names []string) string { return strings.Join(names, ", ") }
