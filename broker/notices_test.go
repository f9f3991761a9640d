package broker

import "testing"

// What changes while nobody is told is told once.
func TestNotices_ChangesGather(t *testing.T) {
	n := newNotices()
	for range 3 {
		n.add("a")
		n.add("b")
	}
	<-n.wake
	select {
	case <-n.wake:
		t.Error("woken twice")
	default:
	}
	if due := n.take(); len(due) != 2 {
		t.Errorf("got %v, want a and b", due)
	}
	n.add("a")
	<-n.wake
	if due := n.take(); len(due) != 1 {
		t.Errorf("got %v, want a", due)
	}
}
