package pop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/rmqio/rmq/broker/payload"
)

// ErrRecord is returned for the payload of a record, or for a row, that this build
// cannot read.
var ErrRecord = errors.New("illegible pop record")

const (
	recordVersion = 1
	maxNameBytes  = 255

	// maxHandout bounds the messages of one record, which are entries one by one.
	maxHandout = 1 << 16

	runPlain = 0
	runLane  = 1
	runWaits = 2

	kindAck   = 0
	kindAgain = 1

	leastRunBytes = 3
	leastSetBytes = 3
)

// Handout is a record that hands out messages of a queue.
type Handout struct {
	Key
	// After is Progress.Last as it was when this was decided; 0: the group had popped
	// nothing of the queue.
	After uint64
	// Committed is the group's committed offset then; -1: none.
	Committed int64
	// First is the queue's first offset: unfinished messages below are dropped.
	First int64
	// Next is the first offset that nobody has looked at afterwards.
	Next int64
	// InvisibleMillis is how long the messages are invisible.
	InvisibleMillis int64
	// Again are unfinished messages, ascending.
	Again []int64
	// Fresh are messages that nobody had looked at, ascending. What is between them
	// was passed over.
	Fresh []Run
}

// Run is messages one after another. With a lane it is one message.
type Run struct {
	First, Count int64
	Lane         uint32 // 0: none
	Waits        bool   // for its lane: it is not handed out
}

func (r *Run) end() int64 { return r.First + r.Count }

// Ack is a record that acknowledges messages of a queue, or gives them another time.
type Ack struct {
	Key
	// Again gives them InvisibleMillis from the record's store time on.
	Again           bool
	InvisibleMillis int64
	Sets            []Set
}

// Set is messages that one record handed out.
type Set struct {
	Fence   uint64
	Offsets []int64 // ascending
}

// The encoders expect what the broker has checked, as those of package group do.

// EncodeHandout is the payload of a record that hands out messages.
func EncodeHandout(h *Handout) []byte {
	b := appendKey([]byte{recordVersion}, h.Key)
	b = binary.AppendUvarint(b, h.After)
	b = binary.AppendUvarint(b, uint64(h.Committed+1))
	b = binary.AppendUvarint(b, uint64(h.First))
	b = binary.AppendUvarint(b, uint64(h.Next))
	b = binary.AppendUvarint(b, uint64(h.InvisibleMillis))
	b = appendOffsets(b, h.Again)
	b = binary.AppendUvarint(b, uint64(len(h.Fresh)))
	end := int64(0)
	for _, r := range h.Fresh {
		b = binary.AppendUvarint(b, uint64(r.First-end))
		switch {
		case r.Lane == 0:
			b = binary.AppendUvarint(append(b, runPlain), uint64(r.Count))
		case r.Waits:
			b = binary.AppendUvarint(append(b, runWaits), uint64(r.Lane))
		default:
			b = binary.AppendUvarint(append(b, runLane), uint64(r.Lane))
		}
		end = r.end()
	}
	return b
}

// EncodeAck is the payload of a record that acknowledges messages or gives them
// another time.
func EncodeAck(a *Ack) []byte {
	kind := byte(kindAck)
	if a.Again {
		kind = kindAgain
	}
	b := appendKey([]byte{recordVersion, kind}, a.Key)
	if a.Again {
		b = binary.AppendUvarint(b, uint64(a.InvisibleMillis))
	}
	b = binary.AppendUvarint(b, uint64(len(a.Sets)))
	for _, s := range a.Sets {
		b = appendOffsets(binary.AppendUvarint(b, s.Fence), s.Offsets)
	}
	return b
}

func appendKey(b []byte, k Key) []byte {
	b = binary.AppendUvarint(payload.AppendText(b, k.Group), k.Topic)
	return binary.AppendUvarint(b, uint64(k.Queue))
}

func appendOffsets(b []byte, offsets []int64) []byte {
	b = binary.AppendUvarint(b, uint64(len(offsets)))
	last := int64(-1)
	for _, o := range offsets {
		b = binary.AppendUvarint(b, uint64(o-last-1))
		last = o
	}
	return b
}

// DecodeHandout reads what EncodeHandout wrote. Errors: ErrRecord.
func DecodeHandout(data []byte) (*Handout, error) {
	p := open(data)
	h := &Handout{Key: p.key()}
	h.After, h.Committed = p.Number(math.MaxUint64), int64(p.Number(math.MaxInt64))-1
	h.First, h.Next, h.InvisibleMillis = p.offset(), p.offset(), p.offset()
	h.Again = p.offsets()
	h.Fresh = p.runs(h.Next)
	if err := p.end("handout"); err != nil {
		return nil, err
	}
	return h, nil
}

// DecodeAck reads what EncodeAck wrote. Errors: ErrRecord.
func DecodeAck(data []byte) (*Ack, error) {
	p := open(data)
	a := &Ack{Again: p.Byte(kindAgain) == kindAgain}
	a.Key = p.key()
	if a.Again {
		a.InvisibleMillis = p.offset()
	}
	a.Sets = make([]Set, p.Count(leastSetBytes))
	for i := range a.Sets {
		a.Sets[i] = Set{Fence: p.Number(math.MaxUint64), Offsets: p.offsets()}
	}
	if err := p.end("ack"); err != nil {
		return nil, err
	}
	return a, nil
}

// fields are those of a record or row of this package.
type fields struct{ payload.Reader }

// open takes the version.
func open(data []byte) *fields { return &fields{payload.Versioned(data, recordVersion)} }

func (p *fields) key() Key {
	return Key{Group: p.Text(1, maxNameBytes), Topic: p.Number(math.MaxUint64), Queue: uint32(p.Number(math.MaxInt32))}
}

func (p *fields) offset() int64 { return int64(p.Number(math.MaxInt64)) }

// offsets takes ascending offsets.
func (p *fields) offsets() []int64 {
	n, last := p.Count(1), int64(-1)
	if n == 0 {
		return nil
	}
	offsets := make([]int64, n)
	for i := range offsets {
		last = p.after(last)
		offsets[i] = last
	}
	return offsets
}

// after takes an offset above another one.
func (p *fields) after(last int64) int64 {
	return last + 1 + int64(p.Number(uint64(math.MaxInt64-last-1)))
}

// runs takes ascending runs that end before next.
func (p *fields) runs(next int64) []Run {
	n, end, messages := p.Count(leastRunBytes), int64(0), int64(0)
	if n == 0 {
		return nil
	}
	runs := make([]Run, n)
	for i := range runs {
		r := &runs[i]
		r.First = end + int64(p.Number(uint64(max(next-end, 0))))
		kind := p.Byte(runWaits)
		r.Count, r.Waits = 1, kind == runWaits
		if kind == runPlain {
			r.Count = int64(p.Number(maxHandout))
		} else if r.Lane = uint32(p.Number(math.MaxUint32)); r.Lane == 0 {
			p.Fail()
		}
		end, messages = r.end(), messages+r.Count
		if r.Count == 0 || end > next || messages > maxHandout {
			p.Fail()
		}
	}
	return runs
}

func (p *fields) end(kind string) error {
	if !p.Done() {
		return fmt.Errorf("%w: payload of %s is cut, too long or damaged", ErrRecord, kind)
	}
	return nil
}
