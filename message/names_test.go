package message

import (
	"errors"
	"strings"
	"testing"
)

func TestNames_Rules(t *testing.T) {
	checks := map[string]func(string) error{
		"topic": CheckTopic, "any topic": CheckAnyTopic, "group": CheckGroup,
		"broker": CheckBroker, "client id": CheckClientID,
	}
	const (
		topic, anyTopic, group, broker, client = 1, 2, 4, 8, 16
		all                                    = topic | anyTopic | group | broker | client
	)
	bits := map[string]int{"topic": topic, "any topic": anyTopic, "group": group, "broker": broker, "client id": client}
	tests := []struct {
		name string
		in   string
		ok   int // the checks that accept it
	}{
		{"letter", "a", all},
		{"every kind of character", "azAZ09_-", all},
		{"percent and bar", "a%b|c", all &^ broker},
		{"empty", "", 0},
		{"two dots", "..", client},
		{"dot", "a.b", client},
		{"star", "*", client},
		{"greater", ">", client},
		{"slash", "a/b", client},
		{"at sign", "host@1", client},
		{"equals", "=41", client},
		{"space", "a b", 0},
		{"leading space", " a", 0},
		{"trailing space", "a ", 0},
		{"tab", "a\tb", 0},
		{"newline", "a\n", 0},
		{"NUL", "a\x00b", 0},
		{"DEL", "a\x7f", 0},
		{"UTF-8", "größe", 0},
		{"not UTF-8", "\xff", 0},
		{"120 characters", strings.Repeat("g", 120), all},
		{"121 characters", strings.Repeat("g", 121), all &^ group},
		{"127 characters", strings.Repeat("t", 127), all &^ group},
		{"128 characters", strings.Repeat("t", 128), client},
		{"255 characters", strings.Repeat("c", 255), client},
		{"256 characters", strings.Repeat("c", 256), 0},
		{"retry topic", "%RETRY%x", all &^ (topic | broker)},
		{"dead-letter topic", "%DLQ%x", all &^ (topic | broker)},
		{"retry topic of 255", RetryPrefix + strings.Repeat("g", 255-len(RetryPrefix)), anyTopic | client},
		{"retry topic of 256", RetryPrefix + strings.Repeat("g", 256-len(RetryPrefix)), 0},
		{"retry topic with a dot", "%RETRY%a.b", client},
		{"the prefix inside", "x%DLQ%", all &^ broker},
		{"lower case is another name", "%dlq%x", all &^ broker},
		{"system prefix", "rmq_sys_x", all &^ topic},
		{"system topic TBW102", "TBW102", all &^ topic},
		{"system topic for delays", "SCHEDULE_TOPIC_XXXX", all &^ topic},
		{"system topic for half messages", "RMQ_SYS_TRANS_HALF_TOPIC", all &^ topic},
		{"system topic for traces", "RMQ_SYS_TRACE_TOPIC", all &^ topic},
		{"system topic for op messages", "RMQ_SYS_TRANS_OP_HALF_TOPIC", all &^ topic},
		{"system topic for checks", "TRANS_CHECK_MAX_TIME_TOPIC", all &^ topic},
		{"system topic for self tests", "SELF_TEST_TOPIC", all &^ topic},
		{"system topic for moved offsets", "OFFSET_MOVED_EVENT", all &^ topic},
		{"system topic for checkpoints", "CHECKPOINT_TOPIC", all &^ topic},
		{"BenchmarkTest is open to users", "BenchmarkTest", all},
	}
	for _, tt := range tests {
		for kind, check := range checks {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				err := check(tt.in)
				if want := tt.ok&bits[kind] != 0; (err == nil) != want {
					t.Fatalf("check of %q: got %v, want accepted %t", tt.in, err, want)
				}
				if err != nil && !errors.Is(err, ErrIllegalName) {
					t.Fatalf("check of %q: got %v, want ErrIllegalName", tt.in, err)
				}
			})
		}
	}
}

func TestNames_ErrorSaysTheRule(t *testing.T) {
	tests := []struct {
		err  error
		want string
	}{
		{CheckTopic(""), "topic name is empty"},
		{CheckTopic("a.b"), `character '.' at 1 is not one of a-z A-Z 0-9 _ - % |`},
		{CheckTopic(strings.Repeat("t", 128)), "has 128 characters; the limit is 127"},
		{CheckTopic("%DLQ%x"), `"%DLQ%x" is reserved`},
		{CheckGroup(strings.Repeat("g", 121)), "the limit is 120"},
		{CheckBroker("a|b"), "is not one of a-z A-Z 0-9 _ -"},
		{CheckClientID("a b"), "not printable ASCII"},
		{CheckClientID(""), "1 to 255 are allowed"},
	}
	for _, tt := range tests {
		if tt.err == nil || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("got %v, want a text with %q", tt.err, tt.want)
		}
	}
}

// An error text must stay printable whatever the name holds.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "..", "a.b", "*", ">", "a b", "\x00", "%DLQ%x", "TopicTest", strings.Repeat("t", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckTopic(s) == nil && (CheckAnyTopic(s) != nil || IsReserved(s)) {
			t.Fatalf("%q may be created but not read", s)
		}
		if CheckBroker(s) == nil && CheckTopic(s) != nil && !IsReserved(s) {
			t.Fatalf("%q is a broker's name but no topic's", s)
		}
		for _, err := range []error{CheckTopic(s), CheckAnyTopic(s), CheckGroup(s), CheckBroker(s), CheckClientID(s)} {
			if err != nil && (!errors.Is(err, ErrIllegalName) || strings.ContainsFunc(err.Error(), isControl)) {
				t.Fatalf("%q: got %v, want a printable ErrIllegalName", s, err)
			}
		}
	})
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
