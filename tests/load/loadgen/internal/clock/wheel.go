package clock

import "sync"

// Grain is the length of a wheel's slot, in nanoseconds: tasks come due on its multiples.
const Grain = 1_000_000

const slots = 4096

// A Task is run by a wheel. Fire must not block. It gets the time of the wake-up and the time that was due, and
// gives the time at which it is due again, or 0 for never.
type Task interface {
	Fire(now, due int64) (next int64)
}

// A Wheel runs tasks at their times in one goroutine.
type Wheel struct {
	// Lag is told how late each wake-up was, in nanoseconds.
	Lag func(nanos int64)

	mu    sync.Mutex
	at    int64 // the slot to be run next, as a number since the clock's zero
	slots [slots][]entry
}

type entry struct {
	due  int64
	task Task
}

// NewWheel starts at `now`.
func NewWheel(now int64, lag func(int64)) *Wheel {
	return &Wheel{Lag: lag, at: now/Grain + 1}
}

// At runs the task at `due` (at the next slot when that is past), rounded up to the grain.
func (w *Wheel) At(due int64, task Task) {
	w.mu.Lock()
	w.put(due, task)
	w.mu.Unlock()
}

func (w *Wheel) put(due int64, task Task) {
	slot := max((due+Grain-1)/Grain, w.at)
	w.slots[slot%slots] = append(w.slots[slot%slots], entry{slot * Grain, task})
}

// Run never returns.
func (w *Wheel) Run() {
	var fired []entry
	for {
		Until(w.at * Grain)
		fired = w.Turn(Now(), fired[:0])
	}
}

// Turn runs all that is due at `now`. The slice is scratch, given back for the next turn.
func (w *Wheel) Turn(now int64, scratch []entry) []entry {
	for w.at*Grain <= now {
		w.Lag(now - w.at*Grain)
		scratch = w.take(scratch[:0])
		for _, e := range scratch {
			if next := e.task.Fire(now, e.due); next != 0 {
				w.At(next, e.task)
			}
		}
	}
	return scratch
}

// take removes the tasks of the next slot; those of a later round stay.
func (w *Wheel) take(into []entry) []entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	slot := w.slots[w.at%slots]
	kept := slot[:0]
	for _, e := range slot {
		if e.due <= w.at*Grain {
			into = append(into, e)
		} else {
			kept = append(kept, e)
		}
	}
	clear(slot[len(kept):])
	w.slots[w.at%slots] = kept
	w.at++
	return into
}
