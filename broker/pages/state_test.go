package pages

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// content is all that a file holds, one line for each key.
type content []string

func (c *content) add(depth int, key, value []byte, sequence uint64) {
	*c = append(*c, fmt.Sprintf("%s%x %x %d", strings.Repeat(" ", depth), key, value, sequence))
}

// asBbolt is what bbolt reads.
func asBbolt(t testing.TB, path string) (c content) {
	t.Helper()
	db := mustOpen(t, path)
	defer db.Close()
	var take func(depth int, b *bbolt.Bucket) error
	take = func(depth int, b *bbolt.Bucket) error {
		return b.ForEach(func(key, value []byte) error {
			nested := b.Bucket(key)
			if nested == nil {
				c.add(depth, key, value, 0)
				return nil
			}
			c.add(depth, key, nil, nested.Sequence())
			return take(depth+1, nested)
		})
	}
	err := db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(key []byte, b *bbolt.Bucket) error {
			c.add(0, key, nil, b.Sequence())
			return take(1, b)
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func asRead(t testing.TB, path string, s State) (c content, transaction uint64) {
	t.Helper()
	var take func(depth int, b Bucket)
	take = func(depth int, b Bucket) {
		for key, e := range b.All() {
			if e.Bucket == nil {
				c.add(depth, key, e.Value, 0)
				continue
			}
			c.add(depth, key, nil, e.Bucket.Sequence())
			take(depth+1, *e.Bucket)
		}
	}
	err := Read(path, testPageSize, s, func(root Bucket, id uint64) error {
		transaction = id
		take(0, root)
		return nil
	})
	if err != nil {
		t.Fatalf("state %d: %v", s, err)
	}
	return c, transaction
}

// anyChange changes a few buckets, however deep.
func anyChange(random *rand.Rand) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error {
		var w writer
		for range 1 + random.IntN(8) {
			b := w.bucket(tx, fmt.Sprint("top", random.IntN(3)))
			for random.IntN(3) > 0 {
				b = w.bucket(b, fmt.Sprint("bucket", random.IntN(12)))
			}
			w.change(b, random, random.IntN(2) == 0)
			w.err = errors.Join(w.err, b.SetSequence(random.Uint64()))
		}
		return w.err
	}
}

// TestRead_BothStates compares what is read of either state with what bbolt read
// when it was the newest, takes the last transaction back, and goes on.
func TestRead_BothStates(t *testing.T) {
	path := testPath(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	update(t, path, fill)
	before := asBbolt(t, path)
	for range 60 {
		update(t, path, anyChange(random))
		now := asBbolt(t, path)
		newest, last := asRead(t, path, Newest)
		previous, earlier := asRead(t, path, Previous)
		if !slices.Equal(newest, now) || !slices.Equal(previous, before) || earlier != last-1 {
			t.Fatalf("transactions %d and %d: the states are not what bbolt reads", earlier, last)
		}
		if random.IntN(2) == 0 {
			before = now
			continue
		}
		takeBack(t, path)
		if got := asBbolt(t, path); !slices.Equal(got, before) {
			t.Fatalf("transaction %d was taken back: not what was before it", last)
		}
		if whole, err := Check(path, testPageSize); whole != 2 || err != nil {
			t.Fatalf("after that %d meta pages are whole: %v", whole, err)
		}
	}
}

func takeBack(t testing.TB, path string) {
	t.Helper()
	page, offset, err := TakenBack(path, testPageSize)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteAt(page, offset); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRead_NoPreviousState refuses what would have to be guessed.
func TestRead_NoPreviousState(t *testing.T) {
	whole := sample(t)
	for name, damage := range map[string]func(b []byte){
		"a meta page is not whole": func(b []byte) { b[pageHeader] ^= 1 },
		"one meta page twice":      func(b []byte) { copy(b[testPageSize:2*testPageSize], b[:testPageSize]) },
		"a transaction is missing": func(b []byte) { changeMeta(t, b, metaTransaction, 1000) },
		"the meta pages are exchanged": func(b []byte) {
			first := bytes.Clone(b[:testPageSize])
			copy(b, b[testPageSize:2*testPageSize])
			copy(b[testPageSize:], first)
		},
	} {
		b := bytes.Clone(whole)
		damage(b)
		path := mustWrite(t, b)
		nothing := func(Bucket, uint64) error { t.Errorf("%s: read", name); return nil }
		if err := Read(path, testPageSize, Previous, nothing); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: read: got %v, want ErrDamaged", name, err)
		}
		if _, _, err := TakenBack(path, testPageSize); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: taken back: got %v, want ErrDamaged", name, err)
		}
	}
}
