package store

// bloom is a Bloom filter over 64-bit hashes: a sealed segment's, over the keys
// and producer instances in it, so that a query need not look into segments
// that have nothing for it. With ten bits for each hash and seven probes about
// one in a hundred segments is looked into in vain.
type bloom []byte

const (
	bloomBitsPerHash = 10
	bloomProbes      = 7
)

func newBloom(hashes int) bloom { return make(bloom, max(hashes*bloomBitsPerHash/8, 8)) }

func (b bloom) add(hash uint64) {
	for i := range uint64(bloomProbes) {
		bit := b.bit(hash, i)
		b[bit/8] |= 1 << (bit % 8)
	}
}

func (b bloom) has(hash uint64) bool {
	for i := range uint64(bloomProbes) {
		bit := b.bit(hash, i)
		if b[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
	}
	return true
}

// bit is the i-th probe, by double hashing over the mixed hash.
func (b bloom) bit(hash, i uint64) uint64 {
	h := mix(hash)
	return (h + i*(h>>32|1)) % uint64(len(b)*8)
}

// mix spreads a hash over all bits (the finalizer of SplitMix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
