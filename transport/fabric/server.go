// Package fabric embeds the NATS servers that carry frames. It owns their
// settings and their life. It never looks at what they carry, stores nothing
// (JetStream is off), and never ends the process.
package fabric

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/rmqio/rmq/transport/protocol"
)

// ErrAddressInUse is returned by Start when another process listens there.
var ErrAddressInUse = errors.New("address already in use")

// Settings of the server. A client that takes nothing for writeDeadline, or for
// which maxPending bytes wait, is cut off.
const (
	writeDeadline = 10 * time.Second
	maxPending    = 256 << 20
	pingInterval  = 10 * time.Second
	maxPingsOut   = 2
)

// Config are the settings of a server.
type Config struct {
	// Name is for logs and clients' logs; it must be unique in a fabric. Empty:
	// a random one.
	Name string
	// Listen is host:port; port 0 takes any free one, an empty host all addresses.
	Listen string
	// Logger takes the server's log at debug, its warnings and errors as such;
	// nil: nothing is logged.
	Logger *slog.Logger
}

// Server is an embedded NATS server that takes connections.
type Server struct {
	ns   *server.Server
	addr string
}

// Start runs a server and returns when it takes connections. When the port is
// in use the error is ErrAddressInUse and names the address.
func Start(cfg Config) (*Server, error) {
	opts, err := options(cfg)
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("nats server at %s: %w", cfg.Listen, err)
	}
	log := newLogger(cfg.Logger)
	ns.SetLoggerV2(log, false, false, false)
	ns.Start() // binds the port before it returns, or logs a fatal error
	addr := ns.Addr()
	if addr == nil || log.fatalError() != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, startError(cfg.Listen, log.fatalError())
	}
	return &Server{ns: ns, addr: addr.String()}, nil
}

func options(cfg Config) (*server.Options, error) {
	host, portText, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address %q is not host:port: %w", cfg.Listen, err)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: port %q is not 0 to 65535", cfg.Listen, portText)
	}
	opts := &server.Options{
		ServerName:      cfg.Name,
		Host:            host,
		Port:            int(port),
		NoSigs:          true,
		NoLog:           true, // the logger is set by hand
		NoSystemAccount: true,
		MaxPayload:      protocol.MaxFrameBytes,
		MaxPending:      maxPending,
		WriteDeadline:   writeDeadline,
		PingInterval:    pingInterval,
		MaxPingsOut:     maxPingsOut,
	}
	if port == 0 {
		opts.Port = server.RANDOM_PORT
	}
	return opts, nil
}

// startError finds out why a server did not start: it reports texts only, so
// the port is tried once more for an error with a type.
func startError(listen string, fatal error) error {
	l, err := net.Listen("tcp", listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen on %s: %w", listen, ErrAddressInUse)
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", listen, err)
	}
	_ = l.Close() // it was opened for nothing
	if fatal == nil {
		fatal = errors.New("it did not listen")
	}
	return fmt.Errorf("nats server at %s: %w", listen, fatal)
}

// Addr is the host:port on which the server really listens.
func (s *Server) Addr() string { return s.addr }

// InProcessConn connects to the server without TCP.
func (s *Server) InProcessConn() (net.Conn, error) { return s.ns.InProcessConn() }

// Peers returns the addresses, host:port, that the connections come from, by the
// names that they gave themselves: the newest one of each name. Connections without
// TCP have no address and are not in it. The map is the caller's.
func (s *Server) Peers() map[string]string {
	peers := map[string]string{}
	for offset := 0; ; {
		page, err := s.ns.Connz(&server.ConnzOptions{Sort: server.ByCid, Offset: offset, Limit: peersPage})
		if err != nil || len(page.Conns) == 0 { // the options are good: there is no error
			return peers
		}
		for _, c := range page.Conns {
			if c.Name != "" && c.IP != "" {
				peers[c.Name] = net.JoinHostPort(c.IP, strconv.Itoa(c.Port))
			}
		}
		offset += len(page.Conns)
	}
}

// peersPage is how many connections are looked at with one lock of the server.
const peersPage = 4096

// Close cuts all connections, with what is queued for them sent first, and
// returns when the server's goroutines have ended. It may be called twice.
func (s *Server) Close() {
	s.ns.Shutdown()
	s.ns.WaitForShutdown()
}
