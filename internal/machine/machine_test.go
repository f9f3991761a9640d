package machine

import (
	"runtime"
	"testing"
)

func TestLook_KnowsTheMachine(t *testing.T) {
	f := Look()
	if f.CPUs != runtime.GOMAXPROCS(0) || f.Platform == "" {
		t.Errorf("got %+v", f)
	}
	if runtime.GOOS == "linux" && (f.MemoryBytes <= 0 || f.Kernel == "") {
		t.Errorf("got %+v", f)
	}
}

func TestFind(t *testing.T) {
	text := "processor\t: 0\nmodel name\t: A: B\nMemTotal:       1024 kB\n"
	for name, want := range map[string]string{"model name": "A: B", "processor": "0", "model": "", "MemTotal": "1024 kB"} {
		if got := find(text, name); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	for s, want := range map[string]int64{"1024 kB": 1 << 20, "": 0, "x kB": 0} {
		if got := kibibytes(s); got != want {
			t.Errorf("%q: got %d, want %d", s, got, want)
		}
	}
}
