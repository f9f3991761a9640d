// Package lookup finds the addresses of the name servers, in RocketMQ's four
// ways and with its precedence: what the program says, the property
// rocketmq.namesrv.addr of a configuration file, the environment, an HTTP
// endpoint. It owns nothing and keeps no state; package client decides when to
// ask the endpoint again.
package lookup

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Names of the ways that have one.
const (
	Property = "rocketmq.namesrv.addr"
	Env      = "RMQ_NAMESRV"  // before OldEnv
	OldEnv   = "NAMESRV_ADDR" // RocketMQ's

	defaultPort = "9876"
)

// Errors of this package, wrapped with what was looked at.
var (
	// ErrNone is returned when none of the four ways gives an address.
	ErrNone = errors.New("no name server address")
	// ErrAddress is returned for an address that is not host or host:port.
	ErrAddress = errors.New("illegal name server address")
)

// Config says where to look. Zero fields are skipped.
type Config struct {
	// Addrs are what the program says. An element may itself be a list.
	Addrs []string
	// File is a configuration file; one that cannot be read is an error.
	File string
	// Env looks up environment variables.
	Env func(string) (string, bool)
	// Endpoint is the URL that Fetch asks.
	Endpoint string
}

// Source is the way that was found: fixed addresses, or an endpoint to ask.
type Source struct {
	Addrs    []string
	Endpoint string
}

// Find returns the first way that gives something. The endpoint is not asked.
func Find(cfg Config) (Source, error) {
	for _, way := range []func(Config) ([]string, error){fromProgram, fromFile, fromEnv} {
		addrs, err := way(cfg)
		if err != nil {
			return Source{}, err
		}
		if len(addrs) > 0 {
			return Source{Addrs: addrs}, nil
		}
	}
	if cfg.Endpoint == "" {
		return Source{}, fmt.Errorf("%w: none given, no property %s, neither %s nor %s set, no endpoint", ErrNone, Property, Env, OldEnv)
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return Source{}, fmt.Errorf("%w: endpoint %q is not an http URL", ErrAddress, cfg.Endpoint)
	}
	return Source{Endpoint: cfg.Endpoint}, nil
}

func fromProgram(cfg Config) ([]string, error) {
	return Split(strings.Join(cfg.Addrs, ";"))
}

func fromFile(cfg Config) ([]string, error) {
	if cfg.File == "" {
		return nil, nil
	}
	value, err := readProperty(cfg.File, Property)
	if err != nil {
		return nil, err
	}
	addrs, err := Split(value)
	if err != nil {
		return nil, fmt.Errorf("property %s in %s: %w", Property, cfg.File, err)
	}
	return addrs, nil
}

func fromEnv(cfg Config) ([]string, error) {
	if cfg.Env == nil {
		return nil, nil
	}
	for _, name := range []string{Env, OldEnv} {
		value, _ := cfg.Env(name)
		addrs, err := Split(value)
		if err != nil {
			return nil, fmt.Errorf("environment variable %s: %w", name, err)
		}
		if len(addrs) > 0 {
			return addrs, nil
		}
	}
	return nil, nil
}

// Split cuts a list at ';' and ','. Spaces and empty parts are dropped, a
// missing port is 9876, "http://" before an address is ignored as in RocketMQ,
// and an address that comes twice is kept once.
func Split(list string) ([]string, error) {
	var addrs []string
	for part := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ';' || r == ',' }) {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		addr, err := normalize(part)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs, nil
}

func normalize(part string) (string, error) {
	addr := strings.TrimSuffix(strings.TrimPrefix(part, "http://"), "/")
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		host, port = strings.TrimSuffix(strings.TrimPrefix(addr, "["), "]"), defaultPort
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("%w: %q: port %q", ErrAddress, part, port)
	}
	if !legalHost(host) {
		return "", fmt.Errorf("%w: %q", ErrAddress, part)
	}
	return net.JoinHostPort(host, port), nil
}

// legalHost takes an IP address, or a name of letters, digits, '-', '_' and '.'.
func legalHost(host string) bool {
	if net.ParseIP(host) != nil {
		return true
	}
	outside := func(r rune) bool {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return false
		}
		return true
	}
	return host != "" && !strings.ContainsFunc(host, outside)
}
