package lookup

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// Bounds of one question to an endpoint; the timeout is RocketMQ's.
const (
	endpointTimeout = 3 * time.Second
	endpointBytes   = 64 << 10
)

// Fetch asks the endpoint once. Its answer is a list on the first line; a
// status other than 200 and an answer without an address are errors.
func Fetch(ctx context.Context, url string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, endpointTimeout)
	defer cancel()
	body, err := get(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("ask for name servers: %w", err)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	addrs, err := Split(line)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", url, err)
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("answer of %s: %w", url, ErrNone)
	}
	return addrs, nil
}

// get closes its connection: the next question comes minutes later.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return io.ReadAll(io.LimitReader(resp.Body, endpointBytes))
}
