package lookup

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func env(vars ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(vars); i += 2 {
			if vars[i] == name {
				return vars[i+1], true
			}
		}
		return "", false
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "client.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFind_FirstWayWins(t *testing.T) {
	program, file := []string{"code:1"}, writeFile(t, Property+"=file:2\n")
	both, old := env(Env, "env:3", OldEnv, "old:4"), env(OldEnv, "old:4")
	const endpoint = "http://there/nsaddr"
	for _, tc := range []struct {
		name string
		cfg  Config
		want Source
	}{
		{"program", Config{program, file, both, endpoint}, Source{Addrs: []string{"code:1"}}},
		{"file", Config{nil, file, both, endpoint}, Source{Addrs: []string{"file:2"}}},
		{"environment", Config{nil, "", both, endpoint}, Source{Addrs: []string{"env:3"}}},
		{"RocketMQ's variable", Config{nil, "", old, endpoint}, Source{Addrs: []string{"old:4"}}},
		{"endpoint", Config{nil, "", env(), endpoint}, Source{Endpoint: endpoint}},
		{"empty ones are skipped", Config{[]string{" ; "}, writeFile(t, Property+"=\n"), env(Env, "", OldEnv, "old:4"), endpoint},
			Source{Addrs: []string{"old:4"}}},
		{"file without the property", Config{nil, writeFile(t, "a=b\n"), nil, endpoint}, Source{Endpoint: endpoint}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Find(tc.cfg)
			if err != nil || got.Endpoint != tc.want.Endpoint || !slices.Equal(got.Addrs, tc.want.Addrs) {
				t.Fatalf("got %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

func TestFind_Refusals(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want error
		says string
	}{
		{"nothing", Config{Env: env()}, ErrNone, Env},
		{"no such file", Config{File: filepath.Join(t.TempDir(), "none")}, os.ErrNotExist, "none"},
		{"bad port in the program", Config{Addrs: []string{"a:b"}}, ErrAddress, `"a:b"`},
		{"bad address in the file", Config{File: writeFile(t, Property+": a b:1")}, ErrAddress, Property},
		{"bad address in the environment", Config{Env: env(OldEnv, "a:99999")}, ErrAddress, OldEnv},
		{"endpoint without a scheme", Config{Endpoint: "there/nsaddr"}, ErrAddress, "there"},
		{"endpoint of another scheme", Config{Endpoint: "ftp://there/nsaddr"}, ErrAddress, "ftp"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Find(tc.cfg)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Fatalf("got %v, want %v that says %s", err, tc.want, tc.says)
			}
		})
	}
}

func TestSplit(t *testing.T) {
	for list, want := range map[string][]string{
		"":                             nil,
		"a:1":                          {"a:1"},
		"a:1;b:2,c:3":                  {"a:1", "b:2", "c:3"},
		" a:1 ;; b:2 , ":               {"a:1", "b:2"},
		"a:1;a:1":                      {"a:1"},
		"a;127.0.0.1":                  {"a:9876", "127.0.0.1:9876"},
		"http://a:1;http://b/":         {"a:1", "b:9876"},
		"[::1]:1;::1;[::2]":            {"[::1]:1", "[::1]:9876", "[::2]:9876"},
		"name-server_1.example.org:80": {"name-server_1.example.org:80"},
	} {
		got, err := Split(list)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Split(%q): got %q, %v; want %q", list, got, err, want)
		}
	}
	for _, list := range []string{"a:", ":1", "a:0", "a:65536", "a:-1", "a b:1", "a:1;*:2", "ftp://a:1", "a/b:1", "a\x00:1"} {
		if got, err := Split(list); !errors.Is(err, ErrAddress) {
			t.Errorf("Split(%q): got %q, %v; want %v", list, got, err, ErrAddress)
		}
	}
}

func TestReadProperty_Forms(t *testing.T) {
	for text, want := range map[string]string{
		Property + "=a:1;b:2":                         "a:1;b:2",
		"  " + Property + " = a:1  # the first":       "a:1",
		"x: y\n" + Property + ": a:1;b:2\nz: 1":       "a:1;b:2",
		Property + `: "a:1"`:                          "a:1",
		`"` + Property + `": 'a:1'`:                   "a:1",
		"#" + Property + "=a:1":                       "",
		Property + "ess=a:1":                          "",
		Property:                                      "",
		Property + "=a:1\r\n" + Property + "=b:2\r\n": "b:2",
	} {
		got, err := readProperty(writeFile(t, text), Property)
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestFetch(t *testing.T) {
	answer, status := "", http.StatusOK
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		w.Write([]byte(answer))
	}))
	defer s.Close()
	for _, tc := range []struct {
		answer string
		status int
		want   []string
		err    error
	}{
		{"a:1;b:2\n", http.StatusOK, []string{"a:1", "b:2"}, nil},
		{"\r\na:1\r\nsecond line", http.StatusOK, []string{"a:1"}, nil},
		{"", http.StatusOK, nil, ErrNone},
		{"<html>", http.StatusOK, nil, ErrAddress},
	} {
		answer, status = tc.answer, tc.status
		got, err := Fetch(t.Context(), s.URL)
		if !slices.Equal(got, tc.want) || !errors.Is(err, tc.err) {
			t.Errorf("%q: got %q, %v; want %q, %v", tc.answer, got, err, tc.want, tc.err)
		}
	}
	answer, status = "a:1", http.StatusInternalServerError
	if got, err := Fetch(t.Context(), s.URL); err == nil {
		t.Errorf("status 500: got %q, want an error", got)
	}
	s.Close()
	if got, err := Fetch(t.Context(), s.URL); err == nil {
		t.Errorf("no server: got %q, want an error", got)
	}
}
