// Package store is the log of a broker: every message and every change of its
// state is a record of it, on disk before it is acknowledged.
//
// A log is a chain of segments. A segment is one bbolt file of fixed capacity,
// written with zeros beforehand so that a commit overwrites. A group commit is
// one sub-bucket in the newest segment: the records' data as they came, and a
// row for each. No other key is written when messages are committed, whatever
// the number of queues. docs/storage.md shows every byte.
//
// Four goroutines belong to a Log, and Close joins them:
//
//   - the writer turns what is waiting into one group commit;
//   - the applier takes what is committed, in log order: it enters batches into
//     the queue index, hands every record to Options.Apply, wakes those who wait
//     for messages, and answers those who appended;
//   - the preparer makes the next segment, from the file of a dropped one if there
//     is one;
//   - the sealer seals full ones.
//
// State has these owners: tail holds what is appended and not yet on disk;
// catalog holds the segments and what readers may see; a segment holds its file
// and, until it is sealed, its queue index in memory; newestChunks holds the data
// of the last commits for readers; pace, how far the active segment is.
package store
