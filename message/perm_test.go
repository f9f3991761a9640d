package message

import "testing"

func TestPerm_Bits(t *testing.T) {
	tests := []struct {
		perm               Perm
		read, write, valid bool
		text               string
	}{
		{0, false, false, true, "--"},
		{PermWrite, false, true, true, "-W"},
		{PermRead, true, false, true, "R-"},
		{PermReadWrite, true, true, true, "RW"},
		{1, false, false, false, "--"}, // RocketMQ's inherit
		{8 | PermReadWrite, true, true, false, "RW"},
		{-1, true, true, false, "RW"},
	}
	for _, tt := range tests {
		p := tt.perm
		if p.CanRead() != tt.read || p.CanWrite() != tt.write || p.Valid() != tt.valid || p.String() != tt.text {
			t.Errorf("perm %d: got read %t, write %t, valid %t, %q; want %t, %t, %t, %q",
				p, p.CanRead(), p.CanWrite(), p.Valid(), p, tt.read, tt.write, tt.valid, tt.text)
		}
	}
}

func TestParsePerm(t *testing.T) {
	for want, texts := range map[Perm][]string{
		0:             {"none", "NONE", "0", "--"},
		PermRead:      {"r", "R", "4", "R-"},
		PermWrite:     {"w", "W", "2", "-W"},
		PermReadWrite: {"rw", "RW", "Rw", "6"},
	} {
		for _, s := range append(texts, want.String()) {
			if got, err := ParsePerm(s); err != nil || got != want {
				t.Errorf("ParsePerm(%q): got %d, %v, want %d", s, got, err, want)
			}
		}
	}
	for _, s := range []string{"", "wr", "x", "1", "7", "8", "14", " rw"} {
		if got, err := ParsePerm(s); err == nil {
			t.Errorf("ParsePerm(%q): got %d, want an error", s, got)
		}
	}
}
