package filter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/rmqio/rmq/message/batch"
)

// MaxTags bounds the tags of one filter.
const MaxTags = 1024

// Tags is a filter by tag. Its zero value takes every message.
type Tags struct {
	tags   []string // sorted; none: all messages
	hashes []uint32 // sorted
}

// ParseTags reads "a || b"; "*" and "" take every message. Errors: ErrFilter.
func ParseTags(text string) (Tags, error) {
	if len(text) > MaxBytes {
		return Tags{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrFilter, len(text), MaxBytes)
	}
	if t := strings.TrimSpace(text); t == "" || t == "*" {
		return Tags{}, nil
	}
	var f Tags
	at := 1
	for _, part := range strings.Split(text, "||") {
		tag := strings.TrimSpace(part)
		switch {
		case tag == "":
			return Tags{}, fmt.Errorf("%w: column %d: a tag is expected", ErrFilter, at)
		case tag == "*":
			return Tags{}, fmt.Errorf("%w: column %d: * stands alone", ErrFilter, at)
		case strings.ContainsAny(tag, "| \t\r\n"):
			return Tags{}, fmt.Errorf("%w: column %d: %q is not one tag; tags are separated by ||", ErrFilter, at, tag)
		}
		f.tags = append(f.tags, tag)
		f.hashes = append(f.hashes, batch.TagHash(tag))
		at += len(part) + len("||")
	}
	slices.Sort(f.tags)
	slices.Sort(f.hashes)
	f.tags, f.hashes = slices.Compact(f.tags), slices.Compact(f.hashes)
	if len(f.tags) > MaxTags {
		return Tags{}, fmt.Errorf("%w: %d tags, the limit is %d", ErrFilter, len(f.tags), MaxTags)
	}
	return f, nil
}

// All reports whether every message is taken.
func (f Tags) All() bool { return len(f.tags) == 0 }

// Match reports whether a message with the tag is taken.
func (f Tags) Match(tag string) bool {
	if f.All() {
		return true
	}
	_, found := slices.BinarySearch(f.tags, tag)
	return found
}

// MayMatch reports whether a batch with this hash may hold a message that is
// taken. A hash of 0 stands for several tags.
func (f Tags) MayMatch(hash uint32) bool {
	if f.All() || hash == 0 {
		return true
	}
	_, found := slices.BinarySearch(f.hashes, hash)
	return found
}

// String is the filter in one form for all that take the same messages.
func (f Tags) String() string {
	if f.All() {
		return "*"
	}
	return strings.Join(f.tags, " || ")
}
