package admin

import (
	"errors"
	"fmt"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/transport/protocol"
)

// Error says what was attempted, where, and with which code it was refused. Errors
// of single brokers are of this type.
type Error = client.Error

// Errors of this package. Refusals of brokers are matched by their code, as in
// errors.Is(err, protocol.TopicNotFound).
var (
	// ErrNoNameServer is returned by New when none of the four ways of Config
	// gives an address.
	ErrNoNameServer = client.ErrNoNameServer
	// ErrNoBroker is returned when the name server knows no broker, or none of
	// the cluster that was asked for.
	ErrNoBroker = errors.New("no broker is registered")
	// ErrBrokerNotFound is returned when a broker was chosen by a name that the
	// name server does not know.
	ErrBrokerNotFound = errors.New("broker not found")
	// ErrBadHandle is returned for a text that was never the handle of a delayed
	// message or a transaction, or is not whole.
	ErrBadHandle = client.ErrBadHandle
)

// PartialError is returned when a change was made on some brokers and not on
// others. Trying again is safe.
type PartialError struct {
	// Op is what was tried, as in `create topic "orders"`.
	Op string
	// Done are the brokers where it was made.
	Done []string
	// Failed are the others.
	Failed []BrokerFailure
}

// BrokerFailure is what one broker answered.
type BrokerFailure struct {
	Broker string
	Err    error
}

func (e *PartialError) Error() string {
	f := e.Failed[0]
	return fmt.Sprintf("%s: done on %s; %d failed, first broker %s: %v", e.Op, joined(e.Done), len(e.Failed), f.Broker, f.Err)
}

// Unwrap gives the errors of the brokers that failed.
func (e *PartialError) Unwrap() []error {
	errs := make([]error, len(e.Failed))
	for i, f := range e.Failed {
		errs[i] = f.Err
	}
	return errs
}

func noBroker(cluster string) error {
	if cluster == "" {
		return ErrNoBroker
	}
	return fmt.Errorf("cluster %q: %w", cluster, ErrNoBroker)
}

func brokerNotFound(name string, known []string) error {
	return fmt.Errorf("%w: %q is not one of %s", ErrBrokerNotFound, name, joined(known))
}

func isCode(err error, code protocol.ErrorCode) bool { return errors.Is(err, code) }
