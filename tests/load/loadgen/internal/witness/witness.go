// Package witness sees a CPU stand still. Its thread waits for no other: it is of the real-time class and does nothing but wake.
// What keeps it from waking is the hypervisor or the hardware, whatever the kernel's account of stolen time says.
package witness

import (
	"runtime"

	"golang.org/x/sys/unix"

	"parley.dev/loadgen/internal/clock"
)

// Every is the time from one waking to the next, in nanoseconds. What is shorter may be missed.
const Every = 5_000_000

// Watch has a thread wake on a CPU for ever; late is told, in nanoseconds, how late each waking was. It returns once the thread has
// its place, or says why it got none: it takes the right to real-time threads (CAP_SYS_NICE).
func Watch(cpu int, late func(nanos int64)) error {
	began := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, nobody else gets its class.
		runtime.LockOSThread()
		err := settle(cpu)
		began <- err
		for due := clock.Now(); err == nil; {
			due += Every
			clock.Until(due)
			now := clock.Now()
			late(now - due)
			if missed := (now - due) / Every; missed > 0 {
				due += missed * Every
			}
		}
	}()
	return <-began
}

func settle(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return err
	}
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
}
