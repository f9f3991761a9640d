package producer

import (
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
)

// The default values that RocketMQ's users know, as far as they are the
// producer's, one by one.
func TestDefaults(t *testing.T) {
	p, err := New(t.Context(), Config{NameServers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close(t.Context()) })
	cfg := p.cfg
	table := []struct {
		name      string
		got, want any
	}{
		{"producer group", cfg.Group, "DEFAULT_PRODUCER"},
		{"send timeout, over all tries", cfg.SendTimeout, 3 * time.Second},
		{"retries, sync and async", cfg.Retries, 2},
		{"compression threshold", cfg.CompressOver, 4096},
		{"compression is on", p.codec.encoder != nil, true},
		{"compression", cfg.Compression, message.Zstd}, // RocketMQ: zlib of level 5
		{"body", message.MaxBodyBytes, 4_194_304},
		{"properties", message.MaxPropertiesBytes, 32_767},
		{"topics are created", !cfg.NoAutoCreate, true},
		{"memory that waits, in bytes", cfg.MaxBufferedBytes, 64 << 20}, // RocketMQ: off, or 100 MiB
		{"a full buffer blocks", cfg.OnFull, Block},
		{"batches, in bytes", cfg.MaxBatchBytes, 256 << 10},    // RocketMQ: off, or 32 KiB
		{"latency fault tolerance", !cfg.NoLatencyFault, true}, // RocketMQ: off
		{"a failure counts as", exceptionLatency, 10 * time.Second},
		{"isolation of a failure", isolation(exceptionLatency), 10 * time.Second},
		{"probe interval", probeInterval, 2 * time.Second},
		{"probe timeout", probeTimeout, 200 * time.Millisecond},
		{"isolation after 50 ms", isolation(50 * time.Millisecond), time.Duration(0)},
		{"isolation after 100 ms", isolation(100 * time.Millisecond), time.Duration(0)},
		{"isolation after 550 ms", isolation(550 * time.Millisecond), 2 * time.Second},
		{"isolation after 1.8 s", isolation(1800 * time.Millisecond), 5 * time.Second},
		{"isolation after 3 s", isolation(3 * time.Second), 6 * time.Second},
		{"isolation after 5 s", isolation(5 * time.Second), 10 * time.Second},
		{"isolation after 15 s", isolation(15 * time.Second), 30 * time.Second},
		{"checks at once", cfg.CheckConcurrency, 1},
		{"checks that wait", MaxPendingChecks, 2000},
		{"delay levels", message.MaxDelayLevel, 18},
		{"topic names", message.MaxTopicBytes, 127},
		{"group names", message.MaxGroupBytes, 120},
		{"retry and dead-letter topics", message.MaxReservedTopicBytes, 255},
		{"longest topic", message.CheckTopic(strings.Repeat("t", 127)), nil},
		{"characters of names", message.CheckTopic("%|azAZ09_-"), nil},
	}
	for _, row := range table {
		if row.got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, row.got, row.want)
		}
	}
	for _, name := range []string{strings.Repeat("t", 128), "a.b", "a b", ""} {
		if message.CheckTopic(name) == nil {
			t.Errorf("topic %q is legal", name)
		}
	}
}
