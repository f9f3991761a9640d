package command

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
)

const (
	// pubInFlight bounds the messages whose receipts were not printed yet; the
	// producer bounds their bytes.
	pubInFlight = 1 << 15
	// pubCloseTimeout is what is under way gets when the command is interrupted.
	pubCloseTimeout = 5 * time.Second
)

// sendResult is the answer to one message.
type sendResult struct {
	receipt producer.Receipt
	state   string // of its transaction
	err     error
}

// The decisions of --transaction.
var (
	decisionNames = []string{"commit", "rollback", "unknown"}
	decisions     = map[string]producer.Decision{"commit": producer.Commit, "rollback": producer.Rollback, "unknown": producer.Unknown}
)

// publication is one run of `rmq pub`: the caller's goroutine reads and sends,
// another one counts and prints the answers.
type publication struct {
	app      *app
	flags    pubFlags
	producer *producer.Producer
	opts     []producer.SendOption
	out      *stream
	receipt  receiptLine

	// slots is taken by each message on its way and given back when its answer
	// was printed, so that results, of the same capacity, never fills up: what
	// puts an answer there must not block.
	slots   chan struct{}
	results chan sendResult

	// Of the printing goroutine, until it has ended.
	sent   int
	failed int
	err    error
}

func newPublication(a *app, f pubFlags, p *producer.Producer, opts []producer.SendOption) *publication {
	return &publication{
		app: a, flags: f, producer: p, opts: opts, out: newStream(a),
		slots: make(chan struct{}, pubInFlight), results: make(chan sendResult, pubInFlight),
	}
}

// run sends everything; the first failure stops it. What is under way then is
// still waited for.
func (r *publication) run(ctx context.Context) error {
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var printing sync.WaitGroup
	printing.Go(func() { r.print(stop) })
	err := r.send(sending)
	closed := r.close(ctx)
	close(r.results)
	printing.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if r.err != nil {
		return r.err
	}
	return errors.Join(err, closed)
}

// close flushes what is under way: for as long as each message may take, or,
// after an interruption, for a moment.
func (r *publication) close(ctx context.Context) error {
	ending := context.WithoutCancel(ctx)
	limit := r.flags.sendTimeout + pubCloseTimeout
	if ctx.Err() != nil {
		limit = pubCloseTimeout
	}
	ending, cancel := context.WithTimeout(ending, limit)
	defer cancel()
	return r.producer.Close(ending)
}

// send reads messages and sends them until ctx ends, which is no error of its own.
func (r *publication) send(ctx context.Context) error {
	props, err := r.flags.properties()
	if err != nil {
		return err
	}
	messages, err := r.messages(ctx)
	if err != nil {
		return err
	}
	pace := newPace(r.flags.rate)
	defer pace.stop()
	var gathered []*message.Message
	for m, err := range messages {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		r.flags.apply(m, props)
		if !pace.wait(ctx) || !r.takeSlot(ctx) {
			return nil
		}
		if r.flags.batch == 0 {
			r.sendOne(ctx, m)
			continue
		}
		if gathered = append(gathered, m); len(gathered) == r.flags.batch {
			r.sendBatch(ctx, gathered)
			gathered = nil
		}
	}
	if len(gathered) > 0 {
		r.sendBatch(ctx, gathered)
	}
	return nil
}

func (r *publication) takeSlot(ctx context.Context) bool {
	select {
	case r.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// sendBatch sends an explicit batch. A message that is stored has a store time,
// whatever became of the others.
func (r *publication) sendBatch(ctx context.Context, ms []*message.Message) {
	receipts, err := r.producer.SendBatch(ctx, ms)
	for i := range ms {
		res := sendResult{err: err}
		if i < len(receipts) && !receipts[i].StoreTime.IsZero() {
			res = sendResult{receipt: receipts[i]}
		}
		r.results <- res
	}
}

func (r *publication) sendOne(ctx context.Context, m *message.Message) {
	switch {
	case r.flags.transaction != "":
		r.results <- r.sendInTransaction(ctx, m)
	case r.flags.oneway:
		r.results <- sendResult{err: r.producer.SendOneway(ctx, m)}
	case r.flags.sync:
		receipt, err := r.producer.Send(ctx, m, r.opts...)
		r.results <- sendResult{receipt: receipt, err: err}
	default:
		r.producer.SendAsync(ctx, m, func(receipt producer.Receipt, err error) {
			r.results <- sendResult{receipt: receipt, err: err}
		}, r.opts...)
	}
}

func (r *publication) sendInTransaction(ctx context.Context, m *message.Message) sendResult {
	local := func(context.Context) (producer.Decision, error) { return decisions[r.flags.transaction], nil }
	receipt, err := r.producer.SendInTransaction(ctx, m, local, r.opts...)
	return sendResult{receipt: receipt.Receipt, state: receipt.State.String(), err: err}
}

// print counts the answers and prints the receipts, at once when no others
// wait. On the first failure it stops the sending.
func (r *publication) print(stop func()) {
	for res := range r.results {
		if err := r.answered(res); err != nil && r.err == nil {
			r.err = err
			stop()
		}
		<-r.slots
	}
	if err := r.out.close(); err != nil && r.err == nil {
		r.err = err
	}
}

func (r *publication) answered(res sendResult) error {
	if res.err != nil {
		r.failed++
		return res.err
	}
	r.sent++
	if !r.flags.noReceipts && !r.flags.oneway {
		r.receipt.Receipt, r.receipt.state = res.receipt, res.state
		if err := r.out.add(&r.receipt); err != nil {
			return err
		}
	}
	if len(r.results) == 0 {
		return r.out.flush()
	}
	return nil
}

// receiptLine prints one receipt after another. The fields are API; those that
// only some messages have are left out for the others.
type receiptLine struct {
	producer.Receipt
	state string
}

func (l *receiptLine) appendJSON(dst []byte) []byte {
	dst = hex.AppendEncode(append(dst, `{"messageId":"`...), l.MessageID[:])
	dst = appendQuoted(append(dst, `","topic":`...), l.Queue.Topic)
	dst = appendQuoted(append(dst, `,"broker":`...), l.Queue.Broker)
	dst = strconv.AppendInt(append(dst, `,"queue":`...), int64(l.Queue.ID), 10)
	dst = strconv.AppendInt(append(dst, `,"offset":`...), l.Offset, 10)
	if l.RecallHandle != "" {
		dst = appendQuoted(append(dst, `,"recallHandle":`...), l.RecallHandle)
	}
	if l.state != "" {
		dst = appendQuoted(append(dst, `,"transaction":`...), l.state)
	}
	if l.Duplicate {
		dst = append(dst, `,"duplicate":true`...)
	}
	return append(dst, '}')
}

func (l *receiptLine) appendName(dst []byte) []byte { return hex.AppendEncode(dst, l.MessageID[:]) }

// appendText is the line for people. What is held back has no offset yet.
func (l *receiptLine) appendText(dst []byte) []byte {
	dst = append(l.appendName(dst), ' ')
	dst = append(dst, l.Queue.String()...)
	if l.Offset >= 0 {
		dst = strconv.AppendInt(append(dst, '@'), l.Offset, 10)
	}
	if l.RecallHandle != "" {
		dst = append(append(dst, " recall="...), l.RecallHandle...)
	}
	if l.state != "" {
		dst = append(append(dst, " transaction="...), l.state...)
	}
	if l.Duplicate {
		dst = append(dst, " duplicate"...)
	}
	return dst
}

// interruptible reads from in until ctx ends. A read that is under way then
// cannot be ended: its goroutine lives until the next byte or the end of the
// process.
func interruptible(ctx context.Context, in io.Reader) (r io.Reader, stop func() bool) {
	pr, pw := io.Pipe()
	go func() {
		_, err := io.Copy(pw, in)
		pw.CloseWithError(err) // nil is io.EOF
	}()
	return pr, context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
}
