package consumer

import "time"

// Pauses between attempts: the first, and the longest after doubling. They have
// no random part: what they pace is spread already by the queues, brokers and
// messages that fail each at its own time.
const (
	handlerRetryFirst, handlerRetryMost = time.Second, 30 * time.Second
	queueRetryFirst, queueRetryMost     = 200 * time.Millisecond, 30 * time.Second
	brokerRetryFirst, brokerRetryMost   = 50 * time.Millisecond, time.Second
	placeRetryFirst, placeRetryMost     = 50 * time.Millisecond, time.Second
)

// doubled is the pause after so many failures in a row, from 1 on.
func doubled(first, most time.Duration, failures int) time.Duration {
	pause := first
	for range failures - 1 {
		if pause *= 2; pause >= most {
			return most
		}
	}
	return pause
}
