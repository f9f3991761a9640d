package protocol

import (
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSubjects(t *testing.T) {
	tests := []struct{ got, want string }{
		{NameServerSubject(ClassRoute), "rmq.ns.route"},
		{NameServerSubject(ClassBroker), "rmq.ns.broker"},
		{NameServerEvents, "rmq.ns.events"},
		{BrokerSubject("broker-a", 0, ClassSend), "rmq.b.broker-a.0.send"},
		{BrokerSubject("broker-a", 12, ClassPull), "rmq.b.broker-a.12.pull"},
		{BrokerSubject("a.*", 0, ClassClient), "rmq.b.a=2E=2A.0.client"},
		{BrokerSubject("", 0, ClassAdmin), "rmq.b.=.0.admin"},
		{InboxSubject("host@1#a"), "rmq.c.host=401=23a"},
		{ReplySubject(InboxSubject("a")), "rmq.c.a.reply"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
}

func TestToken(t *testing.T) {
	for in, want := range map[string]string{
		"":         "=",
		"azAZ09_-": "azAZ09_-",
		"=":        "=3D",
		"=41":      "=3D41",
		".":        "=2E",
		"..":       "=2E=2E",
		"*":        "=2A",
		">":        "=3E",
		" ":        "=20",
		"\x00\r\n": "=00=0D=0A",
		"%DLQ%a":   "=25DLQ=25a",
		"ü":        "=C3=BC",
		"\xff":     "=FF",
	} {
		if got := Token(in); got != want {
			t.Errorf("Token(%q): got %q, want %q", in, got, want)
		}
	}
}

// untoken undoes Token; that it can is what makes Token injective.
func untoken(s string) (string, bool) {
	if s == "=" {
		return "", true
	}
	var b strings.Builder
	for len(s) > 0 {
		if s[0] != '=' {
			b.WriteByte(s[0])
			s = s[1:]
			continue
		}
		if len(s) < 3 {
			return "", false
		}
		c, err := strconv.ParseUint(s[1:3], 16, 8)
		if err != nil {
			return "", false
		}
		b.WriteByte(byte(c))
		s = s[3:]
	}
	return b.String(), true
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "=", "==", "=3D", "a.b", "*", ">", " ", "\x00", "broker-a", "ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		token := Token(name)
		if token == "" || strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=") != "" {
			t.Fatalf("Token(%q): got %q, which is not one token", name, token)
		}
		if got, ok := untoken(token); !ok || got != name {
			t.Fatalf("Token(%q): got %q, which reads %q", name, token, got)
		}
	})
}

func TestToken_DifferentNamesDifferentTokens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringOf(rapid.SampledFrom([]rune("a=.23DE"))) // where collisions would be
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		if a != b && Token(a) == Token(b) {
			t.Fatalf("%q and %q: both %q", a, b, Token(a))
		}
	})
}
