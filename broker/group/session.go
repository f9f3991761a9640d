package group

import (
	"cmp"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// DefaultTimeout is how long a session lives without a heartbeat.
const DefaultTimeout = 6 * time.Second

// Limits of sessions, so that clients cannot fill the memory of a broker.
const (
	// MaxSessions is the number of clients; one more is refused with Busy.
	MaxSessions = 10_000
	// MaxGroups is the number of producer groups, and of subscriptions, in one
	// heartbeat.
	MaxGroups = 1024
	// MaxTopics is the number of topics in all subscriptions of one heartbeat.
	MaxTopics = 4096
	// MaxInboxBytes is the length of a client's inbox; a subject made of the
	// longest client ID fits in.
	MaxInboxBytes = 1024
	// MaxVersionBytes is the length of a client's version and of its language.
	MaxVersionBytes = 128
)

// Sessions knows which clients are there and which groups they are members of. It
// is a pure machine: it holds no clock, and now never goes back. It is not safe
// for concurrent use; its owner locks it.
//
// A client whose leases were found in the log at start is adopted: it is alive, so
// that its leases stay, but it is in no list of members, because nobody knows
// whether it is still there. Its first heartbeat makes it a member; without one it
// expires as any other.
type Sessions struct {
	// MustAgree says whether members of a group must have the same topics; nil: they
	// need not. It is set before the first heartbeat.
	MustAgree func(group string) bool
	// Remembered is what the members of a group subscribed at last; nil: nobody knows.
	// While clients are expected back that Adopt has taken up, who joins their group
	// must agree with it. It is set before the first heartbeat.
	Remembered func(group string) (Subscription, bool)

	timeout time.Duration
	clients map[string]*session
	// members are the clients that are listed, by group.
	members map[string]map[string]*session
	// adopted are the clients that were adopted and have sent no heartbeat, by group.
	adopted map[string]map[string]*session
	// checkers are the clients that can be asked for the transactions of a producer
	// group, by group.
	checkers map[string]map[string]*session
	joined   uint64 // how many checkers there ever were
}

// session of a client. It is adopted until the first heartbeat: then inbox is
// empty and topics has only keys.
type session struct {
	seen    time.Time
	since   time.Time                  // the first heartbeat
	said    *protocol.HeartbeatRequest // by the last one
	inbox   string
	version string
	topics  map[string][]string // by group; sorted
	filters map[string]filters  // by group
	checks  []string            // producer groups; sorted
}

func (s *session) adopted() bool { return s.inbox == "" }

// Expired is a client whose session ended for want of heartbeats.
type Expired struct {
	Client string
	Groups []string // that it was in, sorted
}

// NewSessions returns a machine without sessions; a timeout of 0 is DefaultTimeout.
func NewSessions(timeout time.Duration) *Sessions {
	return &Sessions{
		timeout: cmp.Or(timeout, DefaultTimeout),
		clients: map[string]*session{},
		members: map[string]map[string]*session{}, checkers: map[string]map[string]*session{},
		adopted: map[string]map[string]*session{},
	}
}

// Timeout is how long a session lives without a heartbeat.
func (s *Sessions) Timeout() time.Duration { return s.timeout }

// Heartbeat opens or renews the session of a client and sets which groups it is in
// to what the request says. It returns, sorted, the groups that the client joined,
// left, or subscribes other topics in. The leases of a group that it left are to
// be ended: those of the changed groups in which Alive is false. Errors, which
// change nothing, are *protocol.Error: InvalidArgument, Busy for one session too
// many, and Conflict when another client with the id has a session, or when a
// member of one of the groups subscribes otherwise. The request is kept and must
// not be changed any more.
func (s *Sessions) Heartbeat(now time.Time, req *protocol.HeartbeatRequest) (changedGroups []string, err error) {
	topics, filters, err := checkHeartbeat(req)
	if err == nil {
		err = s.checkOwner(now, req)
	}
	if err != nil {
		return nil, err
	}
	changedGroups = s.clients[req.ClientID].changed(topics, filters)
	err = s.checkBroadcast(req.ClientID, req.Consumers)
	if err == nil {
		err = s.checkAgreement(now, req.ClientID, changedGroups, topics, filters)
	}
	if err != nil {
		return nil, err
	}
	c, err := s.admit(req.ClientID)
	if err != nil {
		return nil, err
	}
	if len(changedGroups) > 0 {
		s.unlist(req.ClientID, maps.Keys(c.topics))
		s.list(req.ClientID, c, topics)
	}
	s.setChecks(req.ClientID, c, req.Checkers)
	if c.adopted() {
		c.since = now
		s.arrived(req.ClientID, maps.Keys(c.topics))
	}
	c.seen, c.said, c.inbox, c.version, c.topics, c.filters = now, req, req.Inbox, req.Version, topics, filters
	return changedGroups, nil
}

// setChecks sets which producer groups a client can be asked for.
func (s *Sessions) setChecks(client string, c *session, groups []string) {
	groups = slices.Compact(slices.Sorted(slices.Values(groups)))
	if slices.Equal(groups, c.checks) {
		return
	}
	for _, g := range c.checks {
		if delete(s.checkers[g], client); len(s.checkers[g]) == 0 {
			delete(s.checkers, g)
		}
	}
	for _, g := range groups {
		if s.checkers[g] == nil {
			s.checkers[g] = map[string]*session{}
		}
		s.checkers[g][client] = c
		if _, before := slices.BinarySearch(c.checks, g); !before {
			s.joined++
		}
	}
	c.checks = groups
}

// admit finds a client's session or opens one.
func (s *Sessions) admit(client string) (*session, error) {
	if c, ok := s.clients[client]; ok {
		return c, nil
	}
	if len(s.clients) >= MaxSessions {
		busy := protocol.Errorf(protocol.Busy, "the broker has %d sessions and takes no more", len(s.clients))
		busy.RetryAfterMillis = s.timeout.Milliseconds()
		return nil, busy
	}
	c := &session{}
	s.clients[client] = c
	return c, nil
}

// changed returns the groups in which the client would not be what it is now; c is
// nil when it is nothing.
func (c *session) changed(topics map[string][]string, filters map[string]filters) []string {
	if c == nil {
		c = &session{}
	}
	var groups []string
	for g, now := range topics {
		before, ok := c.topics[g]
		if !ok || c.adopted() || !slices.Equal(before, now) || !maps.Equal(c.filters[g], filters[g]) {
			groups = append(groups, g)
		}
	}
	for g := range c.topics {
		if _, ok := topics[g]; !ok {
			groups = append(groups, g)
		}
	}
	slices.Sort(groups)
	return groups
}

func (s *Sessions) list(client string, c *session, topics map[string][]string) {
	for g := range topics {
		if s.members[g] == nil {
			s.members[g] = map[string]*session{}
		}
		s.members[g][client] = c
	}
}

func (s *Sessions) unlist(client string, groups iter.Seq[string]) {
	for g := range groups {
		delete(s.members[g], client)
		if len(s.members[g]) == 0 {
			delete(s.members, g)
		}
	}
}

// Leave takes a client out of a group, or, without a group, ends its session. It
// returns, sorted, the groups that it was in until now.
func (s *Sessions) Leave(now time.Time, client, group string) (changedGroups []string) {
	c, ok := s.clients[client]
	if !ok {
		return nil
	}
	if group == "" {
		return s.drop(client, c)
	}
	if _, ok := c.topics[group]; !ok {
		return nil
	}
	s.unlist(client, slices.Values([]string{group}))
	s.arrived(client, slices.Values([]string{group}))
	delete(c.topics, group)
	delete(c.filters, group)
	if len(c.topics) == 0 && (c.adopted() || len(c.said.Producers) == 0) {
		s.drop(client, c) // so that its id is free
	}
	return []string{group}
}

// drop ends a session and returns its groups, sorted.
func (s *Sessions) drop(client string, c *session) []string {
	s.unlist(client, maps.Keys(c.topics))
	s.arrived(client, maps.Keys(c.topics))
	s.setChecks(client, c, nil)
	delete(s.clients, client)
	return slices.Sorted(maps.Keys(c.topics))
}

// Expire ends the sessions that had no heartbeat for the timeout and returns them,
// sorted by client.
func (s *Sessions) Expire(now time.Time) (expired []Expired) {
	for client, c := range s.clients {
		if now.Sub(c.seen) >= s.timeout {
			expired = append(expired, Expired{Client: client, Groups: s.drop(client, c)})
		}
	}
	slices.SortFunc(expired, func(a, b Expired) int { return cmp.Compare(a.Client, b.Client) })
	return expired
}

// Adopt makes a holder of leases that were found in the log count as alive in a
// group, until it sends a heartbeat or expires. A client that has sent one is left
// as it is. The limit of sessions does not hold for it.
func (s *Sessions) Adopt(now time.Time, client, group string) {
	c, ok := s.clients[client]
	if !ok {
		c = &session{seen: now, topics: map[string][]string{}}
		s.clients[client] = c
	}
	if !c.adopted() {
		return
	}
	c.topics[group] = nil
	if s.adopted[group] == nil {
		s.adopted[group] = map[string]*session{}
	}
	s.adopted[group][client] = c
}

// Alive reports whether a client may keep its leases of a group: it is a member
// or adopted.
func (s *Sessions) Alive(client, group string) bool {
	c, ok := s.clients[client]
	if !ok {
		return false
	}
	_, ok = c.topics[group]
	return ok
}

// IsMember reports whether a client is in Members of a group: without it, requests
// of the group are to be answered with UnknownMember.
func (s *Sessions) IsMember(client, group string) bool {
	_, ok := s.members[group][client]
	return ok
}

// Members returns the members of a group that have sent a heartbeat, sorted by
// client ID. The result is the caller's.
func (s *Sessions) Members(group string) []protocol.Member {
	members := make([]protocol.Member, 0, len(s.members[group]))
	for client, c := range s.members[group] {
		members = append(members, protocol.Member{ClientID: client, Version: c.version, Topics: slices.Clone(c.topics[group]), Broadcast: c.broadcasts(group)})
	}
	slices.SortFunc(members, func(a, b protocol.Member) int { return cmp.Compare(a.ClientID, b.ClientID) })
	return members
}

// Groups returns the groups that have members, sorted.
func (s *Sessions) Groups() []string { return slices.Sorted(maps.Keys(s.members)) }

// Inbox is the subject for a client's events; empty when it has sent no heartbeat.
func (s *Sessions) Inbox(client string) string {
	if c, ok := s.clients[client]; ok {
		return c.inbox
	}
	return ""
}

// Checkers returns the inboxes of the clients that can be asked for the
// transactions of a producer group, sorted by client ID. The result is the
// caller's.
func (s *Sessions) Checkers(group string) []string {
	checkers := s.checkers[group]
	inboxes := make([]string, 0, len(checkers))
	for _, client := range slices.Sorted(maps.Keys(checkers)) {
		inboxes = append(inboxes, checkers[client].inbox)
	}
	return inboxes
}

// Joined counts the times that a client became a checker of a group: when it has
// grown, there is somebody new to be asked.
func (s *Sessions) Joined() uint64 { return s.joined }

// Count is the number of sessions, without the adopted ones.
func (s *Sessions) Count() int {
	n := 0
	for _, c := range s.clients {
		if !c.adopted() {
			n++
		}
	}
	return n
}

// checkHeartbeat holds a request to the rules and returns its topics by group,
// sorted and each once, and its filters by group. Subscriptions of the same group
// are taken together.
func checkHeartbeat(req *protocol.HeartbeatRequest) (map[string][]string, map[string]filters, error) {
	if err := checkClient(req); err != nil {
		return nil, nil, err
	}
	topics := make(map[string][]string, len(req.Consumers))
	if err := checkModels(req); err != nil {
		return nil, nil, err
	}
	total := 0
	for _, sub := range req.Consumers {
		if err := message.CheckGroup(sub.Group); err != nil {
			return nil, nil, protocol.Errorf(protocol.InvalidArgument, "%v", err)
		}
		if total += len(sub.Topics); total > MaxTopics {
			return nil, nil, protocol.Errorf(protocol.InvalidArgument, "client %q subscribes more than %d topics", req.ClientID, MaxTopics)
		}
		for _, t := range sub.Topics {
			if err := message.CheckAnyTopic(t); err != nil {
				return nil, nil, protocol.Errorf(protocol.InvalidArgument, "group %q: %v", sub.Group, err)
			}
		}
		if err := CheckStart(sub.Start); err != nil {
			return nil, nil, err
		}
		topics[sub.Group] = append(topics[sub.Group], sub.Topics...)
	}
	for g, list := range topics {
		slices.Sort(list)
		topics[g] = slices.Compact(list)
	}
	filters, err := filtersOf(req.Consumers, topics)
	return topics, filters, err
}

func checkClient(req *protocol.HeartbeatRequest) error {
	if err := message.CheckClientID(req.ClientID); err != nil {
		return protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	if !isSubject(req.Inbox) {
		return protocol.Errorf(protocol.InvalidArgument, "inbox %.100q of client %q is not a subject", req.Inbox, req.ClientID)
	}
	if len(req.Version) > MaxVersionBytes || len(req.Language) > MaxVersionBytes {
		return protocol.Errorf(protocol.InvalidArgument, "client %q: version or language above %d bytes", req.ClientID, MaxVersionBytes)
	}
	if len(req.Consumers) > MaxGroups || len(req.Producers) > MaxGroups {
		return protocol.Errorf(protocol.InvalidArgument, "client %q is in %d consumer and %d producer groups; %d each are allowed",
			req.ClientID, len(req.Consumers), len(req.Producers), MaxGroups)
	}
	for _, g := range req.Producers {
		if err := message.CheckGroup(g); err != nil {
			return protocol.Errorf(protocol.InvalidArgument, "%v", err)
		}
	}
	return checkCheckers(req)
}

func checkCheckers(req *protocol.HeartbeatRequest) error {
	if len(req.Checkers) == 0 {
		return nil
	}
	producers := make(map[string]bool, len(req.Producers))
	for _, g := range req.Producers {
		producers[g] = true
	}
	for _, g := range req.Checkers {
		if !producers[g] {
			return protocol.Errorf(protocol.InvalidArgument, "client %q can be asked for group %.100q, which is not among its producer groups", req.ClientID, g)
		}
	}
	if len(req.Checkers) > MaxGroups {
		return protocol.Errorf(protocol.InvalidArgument, "client %q can be asked for %d groups; %d are allowed", req.ClientID, len(req.Checkers), MaxGroups)
	}
	return nil
}

// isSubject tells whether something can be published to it: no wildcards, spaces
// or control characters, 1 to MaxInboxBytes.
func isSubject(s string) bool {
	if s == "" || len(s) > MaxInboxBytes {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' || s[i] == '*' || s[i] == '>' {
			return false
		}
	}
	return true
}
