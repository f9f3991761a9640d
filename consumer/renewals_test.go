package consumer

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Against a model: each message that is held is renewed when it is due, and not
// before; one that is being renewed, once; and wake tells of one that is due earlier
// than all others.
func TestRenewals_AgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const invisible = 10 * time.Second
		r, now := newRenewals(invisible), time.UnixMilli(1e12)
		due := map[*inHand]time.Time{} // zero: it is being renewed
		var next time.Time
		pick := func(t *rapid.T) *inHand {
			if len(due) == 0 {
				t.Skip()
			}
			var all []*inHand
			for h := range due {
				all = append(all, h)
			}
			slices.SortFunc(all, func(a, b *inHand) int { return int(a.popped.offset - b.popped.offset) })
			return rapid.SampledFrom(all).Draw(t, "which")
		}
		offset := int64(0)
		schedule := func(t *rapid.T, h *inHand, at time.Time) {
			due[h] = at
			if next.IsZero() || at.Before(next) {
				next = at
				select {
				case <-r.wake:
				default:
					t.Fatal("nobody is told of what is due first")
				}
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				until := now.Add(time.Duration(rapid.Int64Range(-1, 10).Draw(t, "until")) * time.Second)
				h := &inHand{popped: &Popped{offset: offset, until: until}}
				offset++
				r.add(h)
				schedule(t, h, until.Add(-invisible/2))
			},
			"remove": func(t *rapid.T) {
				h := pick(t)
				r.remove(h)
				delete(due, h)
			},
			"renewed": func(t *rapid.T) {
				h := pick(t)
				if !due[h].IsZero() {
					t.Skip()
				}
				at := now.Add(time.Duration(rapid.Int64Range(1, 9).Draw(t, "in")) * time.Second)
				r.renewed(h, at)
				schedule(t, h, at)
			},
			"gone": func(t *rapid.T) {
				r.renewed(&inHand{popped: &Popped{}}, now) // its handler has returned meanwhile
			},
			"take": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.Int64Range(0, 5).Draw(t, "pass")) * time.Second)
				got, first := r.take(now)
				next = time.Time{}
				want := 0
				for h, at := range due {
					switch {
					case at.IsZero():
					case !at.After(now):
						want++
						due[h] = time.Time{}
						if !slices.Contains(got, h) {
							t.Fatalf("%d is not renewed", h.popped.offset)
						}
					case next.IsZero() || at.Before(next):
						next = at
					}
				}
				if len(got) != want || !first.Equal(next) {
					t.Fatalf("got %d and %v, want %d and %v", len(got), first, want, next)
				}
				select {
				case <-r.wake:
				default:
				}
			},
		})
	})
}
