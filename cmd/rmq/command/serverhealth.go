package command

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/rmqio/rmq/transport/fabric"
)

// health answers over HTTP whether the process lives and whether it can serve, and
// with metrics once there are some.
// Its zero value answers nobody; it has one goroutine, from open to close.
type health struct {
	listener net.Listener
	server   *http.Server
	serving  sync.WaitGroup
	err      error // of the serving goroutine

	mu     sync.Mutex
	reason string       // why it is not ready
	store  func() error // why the store takes no writes; nil: there is none
	meters http.Handler // nil: there are no metrics
}

// open begins to answer at addr; not ready yet. An empty addr is no place.
func (h *health) open(addr string) (err error) {
	h.set("starting")
	if addr == "" {
		return nil
	}
	h.listener, err = net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("listen on %s for health: %w", addr, fabric.ErrAddressInUse)
	}
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", h.readyz)
	mux.HandleFunc("GET /metrics", h.metrics)
	h.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	h.serving.Go(func() { h.err = h.server.Serve(h.listener) })
	return nil
}

// addr is where it answers; empty for nowhere.
func (h *health) addr() string {
	if h.listener == nil {
		return ""
	}
	return h.listener.Addr().String()
}

// set says why the server is not ready; empty: it is.
func (h *health) set(reason string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reason = reason
}

// watch has refusing asked each time; it says why the store takes no writes.
func (h *health) watch(refusing func() error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.store = refusing
}

// expose has metrics answer.
func (h *health) expose(metrics http.Handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.meters = metrics
}

func (h *health) metrics(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	meters := h.meters
	h.mu.Unlock()
	if meters == nil {
		http.Error(w, "there is no broker, or not yet", http.StatusNotFound)
		return
	}
	meters.ServeHTTP(w, r)
}

func (h *health) readyz(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	reason, store := h.reason, h.store
	h.mu.Unlock()
	if reason == "" && store != nil {
		if err := store(); err != nil {
			reason = err.Error()
		}
	}
	if reason != "" {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, reason)
		return
	}
	fmt.Fprintln(w, "ok")
}

func (h *health) close() error {
	if h.server == nil {
		return nil
	}
	err := h.server.Close()
	h.serving.Wait()
	if !errors.Is(h.err, http.ErrServerClosed) {
		err = errors.Join(err, h.err)
	}
	return err
}
