package group

import "github.com/rmqio/rmq/transport/protocol"

// broadcasts reports whether a client reads all queues for a group.
func (s *session) broadcasts(group string) bool {
	if s.adopted() {
		return false // it held leases
	}
	for _, sub := range s.said.Consumers {
		if sub.Group == group {
			return sub.Broadcast
		}
	}
	return false
}

// checkBroadcast refuses a client that would read all queues of a group whose members
// share them, or the other way. All members are alike, so that one tells of all.
func (s *Sessions) checkBroadcast(client string, consumers []protocol.Subscription) error {
	for _, sub := range consumers {
		for other, c := range s.members[sub.Group] {
			if other == client {
				continue
			}
			if theirs := c.broadcasts(sub.Group); theirs != sub.Broadcast {
				return protocol.Errorf(protocol.Conflict, "in group %q client %q %s, and client %q, which was there first, %s; members must do the same",
					sub.Group, client, sharing(sub.Broadcast), other, sharing(theirs))
			}
			break
		}
	}
	return nil
}

func sharing(broadcast bool) string {
	if broadcast {
		return "reads all queues (broadcasting)"
	}
	return "shares queues (clustering)"
}

// checkModels refuses a request that has one group twice, in both ways.
func checkModels(req *protocol.HeartbeatRequest) error {
	models := make(map[string]bool, len(req.Consumers))
	for _, sub := range req.Consumers {
		if before, twice := models[sub.Group]; twice && before != sub.Broadcast {
			return protocol.Errorf(protocol.InvalidArgument, "client %q is in group %q with and without broadcasting", req.ClientID, sub.Group)
		}
		models[sub.Group] = sub.Broadcast
	}
	return nil
}
