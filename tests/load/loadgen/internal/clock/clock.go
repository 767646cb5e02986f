// Package clock is the one clock of the program and the wheel that paces everything by it.
package clock

import (
	"time"

	"golang.org/x/sys/unix"
)

var (
	began  = time.Now()
	offset = monotonic() - int64(time.Since(began))
)

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// Now is CLOCK_MONOTONIC in nanoseconds, comparable with that of other processes of the machine.
func Now() int64 { return int64(time.Since(began)) + offset }

// Seconds gives nanoseconds as seconds.
func Seconds(nanos int64) float64 { return float64(nanos) / 1e9 }

// Until sleeps until due. It blocks a thread: the runtime's own timers may be a millisecond late, the kernel's are not.
func Until(due int64) {
	at := unix.NsecToTimespec(due)
	for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil) == unix.EINTR {
	}
}
