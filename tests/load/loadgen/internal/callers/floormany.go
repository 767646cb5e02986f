package callers

import (
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/wire"
)

// floorMany is floor.Media/Mux. A session's first frame opens it; it is empty, and those that come before the floor
// has its provider's connection would be lost.
type floorMany struct{}

func newFloorMany(c *call) (leg, error) {
	r := newRider(c, floorMany{})
	// The floor knows no handles but numbers of sessions; 0 is one, and a rider's 0 means none.
	r.handle = uint64(c.order.Sid) + 1
	r.hello = func(handle uint64) []byte { return wire.AppendFloorFrame(nil, handle-1, 0, nil) }
	close(r.ready)
	return r, nil
}

func (floorMany) method() string { return "/floor.Media/Mux" }

func (floorMany) frame(b []byte, r *rider, frame int64) []byte {
	return wire.AppendFloorFrame(b, r.handle-1, uint64(frame), r.call.speech.Frames[frame%int64(len(r.call.speech.Frames))])
}

func (floorMany) take(t *trunk, now int64, message []byte) error {
	return wire.FloorTick(message, func(sid uint64, sound []byte) {
		if r := t.riders[sid+1]; r != nil && len(sound) > 0 {
			r.call.session.Heard(now, meter.Unknown, len(sound))
		}
	})
}
