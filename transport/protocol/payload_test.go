package protocol

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// exchange is a request with where it goes and what answers it.
type exchange struct {
	class    Class
	request  Request
	response any
}

// toClients is the class of what brokers ask of clients, in docs/wire.md.
const toClients Class = "reply"

var exchanges = []exchange{
	{ClassSend, new(SendRequest), new(SendResponse)},
	{ClassPull, new(PullRequest), new(PullResponse)},
	{ClassPull, new(PopRequest), new(PopResponse)},
	{ClassClient, new(AckRequest), new(AckResponse)},
	{ClassClient, new(ChangeInvisibleRequest), new(AckResponse)},
	{ClassClient, new(HeartbeatRequest), new(HeartbeatResponse)},
	{ClassClient, new(LeaveGroupRequest), new(Empty)},
	{ClassClient, new(ListMembersRequest), new(ListMembersResponse)},
	{ClassClient, new(SyncLeasesRequest), new(SyncLeasesResponse)},
	{ClassClient, new(CommitOffsetsRequest), new(CommitOffsetsResponse)},
	{ClassClient, new(QueryOffsetsRequest), new(QueryOffsetsResponse)},
	{ClassClient, new(EndTransactionRequest), new(EndTransactionResponse)},
	{ClassClient, new(RecallRequest), new(RecallResponse)},
	{ClassClient, new(SendBackRequest), new(SendBackResponse)},
	{ClassAdmin, new(ResendDeadLetterRequest), new(ResendDeadLetterResponse)},
	{ClassClient, new(SendReplyRequest), new(Empty)},
	{toClients, new(PushReplyRequest), new(Empty)},
	{ClassAdmin, new(QueryMessagesRequest), new(QueryMessagesResponse)},
	{ClassAdmin, new(TraceMessageRequest), new(TraceMessageResponse)},
	{ClassAdmin, new(PutTopicRequest), new(PutTopicResponse)},
	{ClassAdmin, new(DeleteTopicRequest), new(Empty)},
	{ClassAdmin, new(ListTopicsRequest), new(ListTopicsResponse)},
	{ClassAdmin, new(PutGroupRequest), new(Empty)},
	{ClassAdmin, new(DeleteGroupRequest), new(DeleteGroupResponse)},
	{ClassAdmin, new(ListGroupsRequest), new(ListGroupsResponse)},
	{ClassAdmin, new(ResetOffsetsRequest), new(ResetOffsetsResponse)},
	{ClassAdmin, new(CloneOffsetsRequest), new(CloneOffsetsResponse)},
	{ClassAdmin, new(ListClientsRequest), new(ListClientsResponse)},
	{ClassAdmin, new(BrokerStatusRequest), new(BrokerStatusResponse)},
	{ClassAdmin, new(ListDelayedRequest), new(ListDelayedResponse)},
	{ClassAdmin, new(ListTransactionsRequest), new(ListTransactionsResponse)},
	{ClassAdmin, new(CheckTransactionsRequest), new(CheckTransactionsResponse)},
	{ClassAdmin, new(PutQuotaRequest), new(Empty)},
	{ClassAdmin, new(ListQuotasRequest), new(ListQuotasResponse)},
	{ClassBroker, new(RegisterBrokerRequest), new(RegisterBrokerResponse)},
	{ClassBroker, new(BrokerHeartbeatRequest), new(BrokerHeartbeatResponse)},
	{ClassBroker, new(LeaveBrokerRequest), new(Empty)},
	{ClassRoute, new(QueryRouteRequest), new(QueryRouteResponse)},
	{ClassRoute, new(QueryClusterRequest), new(QueryClusterResponse)},
	{ClassRoute, new(QueryTopicsRequest), new(QueryTopicsResponse)},
}

// events are the payloads that nobody answers.
var events = map[Code]any{
	MembersChanged: new(MembersChangedEvent), RouteChanged: new(RouteChangedEvent),
	CheckTransaction: new(CheckTransactionEvent),
}

// payloads are all of them by name.
func payloads() map[string]any {
	all := map[string]any{"Error": new(Error)}
	for _, x := range exchanges {
		all[nameOf(x.request)], all[nameOf(x.response)] = x.request, x.response
	}
	for _, e := range events {
		all[nameOf(e)] = e
	}
	return all
}

func nameOf(v any) string { return reflect.TypeOf(v).Elem().Name() }

// declared calls fn for each constant, variable and type of the package.
func declared(t *testing.T, fn func(ast.Spec)) {
	t.Helper()
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			if g, ok := d.(*ast.GenDecl); ok {
				for _, s := range g.Specs {
					fn(s)
				}
			}
		}
	}
}

// The tables above must not forget a payload: the golden file and docs/wire.md
// are held to them.
func TestPayloads_TheTestsKnowAll(t *testing.T) {
	known, found := payloads(), 0
	declared(t, func(s ast.Spec) {
		spec, ok := s.(*ast.TypeSpec)
		if !ok {
			return
		}
		for _, suffix := range []string{"Request", "Response", "Event"} {
			name := spec.Name.Name
			if name == suffix || !strings.HasSuffix(name, suffix) {
				continue
			}
			if found++; known[name] == nil {
				t.Errorf("%s is in no table of this file", name)
			}
		}
	})
	if want := len(known) - len([]string{"Error", "Empty"}); found != want {
		t.Errorf("found %d payloads in the source, want %d", found, want)
	}
}

func TestCodes(t *testing.T) {
	numbers := map[Code]string{
		10: "SEND_MESSAGE", 11: "PULL_MESSAGE", 12: "QUERY_MESSAGES", 14: "QUERY_OFFSETS", 15: "COMMIT_OFFSETS", 17: "PUT_TOPIC",
		21: "LIST_TOPICS", 28: "BROKER_STATUS", 34: "HEARTBEAT", 35: "LEAVE_GROUP", 36: "CONSUMER_SEND_MSG_BACK", 37: "END_TRANSACTION",
		38: "LIST_MEMBERS", 39: "CHECK_TRANSACTION", 40: "MEMBERS_CHANGED", 41: "SYNC_LEASES", 103: "REGISTER_BROKER", 104: "LEAVE_BROKER", 105: "QUERY_ROUTE",
		106: "QUERY_CLUSTER", 200: "PUT_GROUP", 201: "LIST_GROUPS", 206: "QUERY_TOPICS", 207: "DELETE_GROUP",
		215: "DELETE_TOPIC", 222: "RESET_OFFSETS", 314: "CLONE_OFFSETS", 323: "CHECK_TRANSACTIONS", 325: "SEND_REPLY", 326: "PUSH_REPLY",
		370: "RECALL_MESSAGE", 904: "BROKER_HEARTBEAT", 2001: "ROUTE_CHANGED", 3101: "LIST_DELAYED",
		2050: "POP_MESSAGE", 2051: "ACK_MESSAGE", 2053: "CHANGE_MESSAGE_INVISIBLETIME",
		3102: "LIST_TRANSACTIONS", 3103: "PUT_QUOTA", 3104: "LIST_QUOTAS", 3105: "LIST_CLIENTS", 3106: "RESEND_DEAD_LETTER", 3107: "TRACE_MESSAGE",
	}
	if !reflect.DeepEqual(codeNames, numbers) {
		t.Errorf("numbers and names of codes are for ever; got %v", codeNames)
	}
	constants := 0
	declared(t, func(s ast.Spec) {
		if v, ok := s.(*ast.ValueSpec); ok {
			if id, ok := v.Type.(*ast.Ident); ok && id.Name == "Code" {
				constants += len(v.Names)
			}
		}
	})
	if constants != len(numbers) {
		t.Errorf("got %d constants and %d names", constants, len(numbers))
	}
	if got := Code(9999).String(); got != "CODE_9999" {
		t.Errorf("got %s", got)
	}
	used := make(map[Code]bool)
	for _, x := range exchanges {
		c := x.request.RequestCode()
		if used[c] || numbers[c] == "" {
			t.Errorf("%T: code %d is used twice or has no name", x.request, c)
		}
		used[c] = true
	}
	if got, want := len(used)+len(events), len(numbers); got != want {
		t.Errorf("got %d codes in use, want %d", got, want)
	}
}

func TestUnmarshal_SkipsWhatNewerPeersAdd(t *testing.T) {
	var r QueryRouteRequest
	if err := Unmarshal([]byte(`{"topic":"a","later":{"x":[1]}}`), &r); err != nil || r.Topic != "a" {
		t.Fatalf("got %+v, %v", r, err)
	}
}

func TestUnmarshal_Refuses(t *testing.T) {
	tests := map[string]string{
		"nothing":      "",
		"cut":          `{"topic":"a"`,
		"no JSON":      "\x00\x01",
		"two values":   `{"topic":"a"}{}`,
		"wrong type":   `{"topic":1}`,
		"above limit":  `{"topic":"` + strings.Repeat("a", MaxControlJSON) + `"}`,
		"very deep":    strings.Repeat("[", 1<<20),
		"not a struct": `"topic"`,
	}
	for name, in := range tests {
		if err := Unmarshal([]byte(in), new(QueryRouteRequest)); !errors.Is(err, InvalidArgument) {
			t.Errorf("%s: got %v, want InvalidArgument", name, err)
		}
	}
	for _, in := range []string{`{"queues":[1.5]}`, `{"queues":[99999999999999999999]}`, `{"queues":[true]}`} {
		if err := Unmarshal([]byte(in), new(SyncLeasesRequest)); !errors.Is(err, InvalidArgument) {
			t.Errorf("%s: got %v, want InvalidArgument", in, err)
		}
	}
}

func TestMarshal_AppendsOrSaysWhatItCannot(t *testing.T) {
	b, err := Marshal([]byte("x"), &QueryRouteRequest{Topic: "a"})
	if err != nil || string(b) != `x{"topic":"a"}` {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := Marshal(nil, func() {}); err == nil || !strings.Contains(err.Error(), "func()") {
		t.Errorf("got %v, want an error with the type", err)
	}
}
