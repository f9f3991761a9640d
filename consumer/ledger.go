package consumer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rmqio/rmq/message"
)

// ledger keeps the offsets of a broadcasting member in a file, which is its alone
// for as long as it is open. A new state replaces the old one in one step and is on
// disk before anyone is told, so that a crash leaves one or the other.
type ledger struct {
	path   string
	client string
	group  string
	lock   io.Closer

	mu      sync.Mutex
	offsets map[message.Queue]int64
}

const (
	ledgerName    = "offsets.json"
	ledgerVersion = 1
)

var ledgerChecksum = crc32.MakeTable(crc32.Castagnoli)

// ledgerFile is what the file holds. The checksum is that of the state's bytes.
type ledgerFile struct {
	Checksum string          `json:"checksum"`
	State    json.RawMessage `json:"state"`
}

type ledgerState struct {
	Version  int            `json:"version"`
	ClientID string         `json:"clientId"`
	Group    string         `json:"group"`
	Offsets  []ledgerOffset `json:"offsets"`
}

type ledgerOffset struct {
	Topic  string `json:"topic"`
	Broker string `json:"broker"`
	Queue  int    `json:"queue"`
	Offset int64  `json:"offset"`
}

// openLedger takes the member's folder for this process and reads what is there.
// Errors are ErrOffsetsInUse, ErrOffsetsDamaged and those of the file system. A
// file that does not exist is empty.
func openLedger(dir, client, group string) (*ledger, error) {
	folder := filepath.Join(dir, folderName(client), folderName(group))
	if err := makeFolder(folder); err != nil {
		return nil, err
	}
	lock, err := lockFolder(folder)
	if err != nil {
		return nil, err
	}
	l := &ledger{path: filepath.Join(folder, ledgerName), client: client, group: group, lock: lock, offsets: map[message.Queue]int64{}}
	if err := l.load(); err != nil {
		lock.Close()
		return nil, err
	}
	return l, nil
}

// folderName is a name as one element of a path.
func folderName(name string) string { return escaped(name, "-_@#") }

// escaped is a name in which each byte that is not a letter, a digit or one of those
// allowed is %XX: names stay different.
func escaped(name, allowed string) string {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(allowed, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// makeFolder makes a folder that is there after a power cut too: what it holds says
// which messages were processed.
func makeFolder(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeFolder(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(parent)
}

// lockFolder takes a folder until the file is closed. The file LOCK tells who has it.
func lockFolder(folder string) (io.Closer, error) {
	f, err := os.OpenFile(filepath.Join(folder, "LOCK"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	switch err := lockFile(f); {
	case errors.Is(err, errLocked):
		holder, _ := io.ReadAll(io.LimitReader(f, 100)) // an unreadable holder is an unnamed one
		f.Close()
		return nil, fmt.Errorf("%w: %s is held by process %s", ErrOffsetsInUse, folder, bytes.TrimSpace(holder))
	case err != nil:
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", folder, err)
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid()) // for people alone
	}
	return f, nil
}

func (l *ledger) load() error {
	b, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	state, err := decodeLedger(b)
	if err == nil && (state.ClientID != l.client || state.Group != l.group) {
		err = fmt.Errorf("it is that of client %q in group %q", state.ClientID, state.Group)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w; put a copy of it back, or remove it to begin as a new member", ErrOffsetsDamaged, l.path, err)
	}
	for _, o := range state.Offsets {
		l.offsets[message.Queue{Topic: o.Topic, Broker: o.Broker, ID: o.Queue}] = o.Offset
	}
	return nil
}

func decodeLedger(b []byte) (*ledgerState, error) {
	var file ledgerFile
	if err := decodeStrictly(b, &file); err != nil {
		return nil, err
	}
	if sum := checksumOf(file.State); sum != file.Checksum {
		return nil, fmt.Errorf("its checksum is %s, and it says %.20q", sum, file.Checksum)
	}
	state := &ledgerState{}
	if err := decodeStrictly(file.State, state); err != nil {
		return nil, err
	}
	if state.Version != ledgerVersion {
		return nil, fmt.Errorf("version %d; %d is known", state.Version, ledgerVersion)
	}
	for _, o := range state.Offsets {
		if o.Offset < 0 {
			return nil, fmt.Errorf("offset %d of topic %q is negative", o.Offset, o.Topic)
		}
	}
	return state, nil
}

// decodeStrictly takes one value, and nothing that is not known.
func decodeStrictly(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more behind its end")
	}
	return nil
}

func checksumOf(b []byte) string { return fmt.Sprintf("%08x", crc32.Checksum(b, ledgerChecksum)) }

func (l *ledger) encode(offsets map[message.Queue]int64) ([]byte, error) {
	state := ledgerState{Version: ledgerVersion, ClientID: l.client, Group: l.group, Offsets: []ledgerOffset{}}
	for _, q := range slices.SortedFunc(maps.Keys(offsets), message.Queue.Compare) {
		state.Offsets = append(state.Offsets, ledgerOffset{Topic: q.Topic, Broker: q.Broker, Queue: q.ID, Offset: offsets[q]})
	}
	b, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	b, err = json.Marshal(ledgerFile{Checksum: checksumOf(b), State: b})
	return append(b, '\n'), err
}

// of is where the member goes on in a queue.
func (l *ledger) of(q message.Queue) (offset int64, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	offset, known = l.offsets[q]
	return offset, known
}

// forget removes a queue that is no more: one with its name is another one.
func (l *ledger) forget(q message.Queue) error {
	return l.change(func(all map[message.Queue]int64) { delete(all, q) })
}

// change writes what fn makes of the offsets. When that fails the old ones stay.
func (l *ledger) change(fn func(map[message.Queue]int64)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := maps.Clone(l.offsets)
	if fn(all); maps.Equal(all, l.offsets) {
		return nil
	}
	b, err := l.encode(all)
	if err == nil {
		err = replaceFile(l.path, b)
	}
	if err != nil {
		return fmt.Errorf("write offsets: %w", err)
	}
	l.offsets = all
	return nil
}

// close leaves the folder to others. It may be called on nil.
func (l *ledger) close() {
	if l != nil {
		l.lock.Close() // what it has written is on disk
	}
}

// replaceFile writes a file beside the old one, and takes its place when all of it
// is on disk.
func replaceFile(path string, b []byte) error {
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}
