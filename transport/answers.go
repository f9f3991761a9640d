package transport

import (
	"sync"

	"github.com/rmqio/rmq/transport/protocol"
)

// maxGathered is how many bytes of answers to one caller are sent as one NATS
// message; what is larger by itself is copied into none.
const maxGathered = 64 << 10

// answers are those of a connection that wait for the end of Gather.
type answers struct {
	mu        sync.Mutex
	gathering int                // calls of Gather
	frames    map[string]*[]byte // by the inbox that they go to
}

// Gather calls fn, and sends the answers that are given meanwhile, to whatever
// requests, when it returns: those to one connection in one NATS message. What many
// requests wait for is answered for less so than one by one. It may be called from
// several goroutines, whose answers go when the last of them is done; fn must not block.
func (c *Conn) Gather(fn func()) {
	c.answers.begin()
	defer c.sendGathered()
	fn()
}

// answer sends an answer, or has it wait for the end of Gather.
func (c *Conn) answer(inbox string, f protocol.Frame, payload any) error {
	return c.build(f, payload, func(frame []byte) error {
		full, taken := c.answers.take(inbox, frame, c.buffers.Get)
		if full != nil {
			c.sendFrames(inbox, full)
		}
		if taken {
			return nil
		}
		return c.publish(inbox, "", frame)
	})
}

func (c *Conn) sendGathered() {
	for inbox, frames := range c.answers.end() {
		c.sendFrames(inbox, frames)
	}
}

func (c *Conn) sendFrames(inbox string, frames *[]byte) {
	if err := c.publish(inbox, "", *frames); err != nil {
		c.logger.Debug("answers were lost", "inbox", inbox, "error", err)
	}
	*frames = (*frames)[:protocol.FrameHeader]
	c.buffers.Put(frames)
}

func (a *answers) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gathering++
}

// end returns what was gathered, when this was the last call of Gather.
func (a *answers) end() map[string]*[]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gathering--; a.gathering > 0 {
		return nil
	}
	frames := a.frames
	a.frames = nil
	return frames
}

// take is false when nobody gathers, or the frame is too large. full is what must be
// sent to make room for it.
func (a *answers) take(inbox string, frame []byte, buffer func() any) (full *[]byte, taken bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gathering == 0 || len(frame) > maxGathered {
		return nil, false
	}
	frames := a.frames[inbox]
	if frames != nil && len(*frames)+len(frame) > maxGathered {
		full, frames = frames, nil
	}
	if frames == nil {
		if a.frames == nil {
			a.frames = map[string]*[]byte{}
		}
		frames = buffer().(*[]byte)
		*frames = (*frames)[:0]
		a.frames[inbox] = frames
	}
	*frames = append(*frames, frame...)
	return full, true
}
