package callers

import (
	"sync/atomic"

	"parley.dev/loadgen/internal/clock"
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/wire"
)

const (
	// waiting is how many frames may wait for a transport that takes no more: 1.28 s of audio.
	waiting = 64
	queue   = 4 * waiting
)

// A parcel is a frame by its number, or any other message.
type parcel struct {
	frame int64 // -1 for another message
	made  int64
	other []byte
	code  byte // WebSocket's, 0 for text
}

func (p *parcel) opcode() byte { return max(p.code, wire.Text) }

// A sender sends one call's frames in time. The wheel says when, a goroutine sends, so that a worker that does not
// read holds nobody else up.
type sender struct {
	call    *call
	parcels chan parcel
	send    func(parcel) error
	quiet   atomic.Bool
	done    chan struct{}
	left    chan struct{} // closed when the goroutine is gone
}

func newSender(c *call, send func(parcel) error) *sender {
	s := &sender{call: c, parcels: make(chan parcel, queue), send: send, done: make(chan struct{}), left: make(chan struct{})}
	go s.run()
	return s
}

func (s *sender) flow() {
	now := clock.Now()
	first := now - now%FramePeriod + phase(s.call.order.Sid)
	if first < now {
		first += FramePeriod
	}
	s.call.pool.Wheel.At(first, s)
}

func (s *sender) silence() { s.quiet.Store(true) }

// Fire is the wheel's call. A frame's time is the moment at which it could have been sent: what waits in the queue
// waits for the worker.
func (s *sender) Fire(now, due int64) int64 {
	if s.quiet.Load() {
		return 0
	}
	if len(s.parcels) >= waiting {
		s.call.shard().Add(meter.FramesUnsent, 1)
	} else {
		s.parcels <- parcel{frame: s.call.session.Sent(now), made: now}
	}
	return due + FramePeriod
}

// say sends another message; one that finds the queue full is lost, as it would be behind a dead worker.
func (s *sender) say(message []byte) { s.sayAs(wire.Text, message) }

func (s *sender) sayAs(code byte, message []byte) {
	select {
	case s.parcels <- parcel{frame: -1, other: message, code: code}:
	default:
	}
}

func (s *sender) run() {
	defer close(s.left)
	var busyUntil int64
	for {
		select {
		case p := <-s.parcels:
			began := clock.Now()
			if p.made > busyUntil {
				s.call.shard().Record(meter.Lag, began-p.made)
			}
			if s.send(p) != nil {
				return
			}
			if len(s.parcels) > 0 {
				busyUntil = clock.Now()
			}
		case <-s.done:
			return
		}
	}
}
