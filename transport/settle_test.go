package transport_test

import (
	"bufio"
	"fmt"
	"net"
	"testing"

	"github.com/rmqio/rmq/transport"
)

// TestServeIsKnownWhenItReturns calls subjects at once that nobody served before,
// over another connection.
func TestServeIsKnownWhenItReturns(t *testing.T) {
	f := startFabric(t, "127.0.0.1:0")
	for name, o := range map[string]transport.Options{"tcp": {}, "in process": {InProcess: f}} {
		t.Run(name, func(t *testing.T) {
			r := &rig{serving: dial(t, f.Addr(), o), conn: dial(t, f.Addr(), transport.Options{})}
			for i := range 200 {
				fresh := fmt.Sprintf("%s.%s.%d", subject, name[:2], i)
				r.serve(t, fresh, transport.Limits{})
				if _, err := transport.Call[echo](t.Context(), r.conn, fresh, &echo{}); err != nil {
					t.Fatalf("subject %d: %v", i, err)
				}
			}
		})
	}
}

// TestServeWithoutConnection does not wait for one.
func TestServeWithoutConnection(t *testing.T) {
	addr := freeAddr(t)
	r := &rig{serving: dial(t, addr, transport.Options{})}
	r.serve(t, subject, transport.Limits{})
	startFabric(t, addr)
	r.conn = dial(t, addr, transport.Options{})
	r.awaitServed(t, subject)
}

// TestServeEndsItsWait when the NATS server says nothing more and the connection
// is closed or cut.
func TestServeEndsItsWait(t *testing.T) {
	for name, end := range map[string]func(c *transport.Conn, s *muteServer){
		"closed": func(c *transport.Conn, _ *muteServer) { c.Close() },
		"cut":    func(_ *transport.Conn, s *muteServer) { s.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			s := startMuteServer(t)
			c := dial(t, s.addr(), transport.Options{})
			served := make(chan error, 1)
			go func() {
				_, err := transport.Serve(c, subject, transport.Limits{}, transport.NewMux())
				served <- err
			}()
			receive(t, s.pinged)
			if len(served) != 0 {
				t.Fatal("it did not wait")
			}
			end(c, s)
			if err := receive(t, served); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// muteServer welcomes one client as a NATS server does and then answers nothing.
type muteServer struct {
	listener net.Listener
	conn     net.Conn      // set when pinged receives
	pinged   chan struct{} // receives when a ping stays without an answer
	done     chan struct{}
}

func startMuteServer(t *testing.T) *muteServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &muteServer{listener: l, pinged: make(chan struct{}, 16), done: make(chan struct{})}
	go s.run()
	t.Cleanup(func() {
		l.Close()
		<-s.done
	})
	return s
}

func (s *muteServer) addr() string { return s.listener.Addr().String() }

// stop cuts the connection and takes no other.
func (s *muteServer) stop() {
	s.listener.Close()
	s.conn.Close()
}

func (s *muteServer) run() {
	defer close(s.done)
	conn, err := s.listener.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	s.conn = conn
	fmt.Fprint(conn, `INFO {"server_id":"mute","version":"2.10.0","proto":1,"headers":true,"max_payload":8388608}`+"\r\n")
	pings := 0
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if lines.Text() != "PING" {
			continue
		}
		if pings++; pings == 1 {
			fmt.Fprint(conn, "PONG\r\n")
			continue
		}
		select {
		case s.pinged <- struct{}{}:
		default:
		}
	}
}
