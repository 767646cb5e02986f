package callers

import (
	"parley.dev/loadgen/internal/wire"
)

// converseMany is parley.media.v1.MediaService/ConverseMany.
type converseMany struct{}

func newConverseMany(c *call) (leg, error) {
	r := newRider(c, converseMany{})
	r.hello = func(handle uint64) []byte {
		return wire.ManyMessage(handle, wire.Start(c.order.Ticket, c.order.SessionUID, c.format, c.order.wantsEvents()))
	}
	r.goodbye = func(handle uint64) []byte { return wire.ManyMessage(handle, wire.Hangup()) }
	r.listener = &listener{call: c, started: r.ready, reply: func(message []byte) {
		r.trunk.others = append(r.trunk.others, wire.ManyMessage(r.handle, message)...) // take holds the lock
	}}
	return r, nil
}

func (converseMany) method() string { return "/parley.media.v1.MediaService/ConverseMany" }

func (converseMany) frame(b []byte, r *rider, frame int64) []byte {
	return wire.AppendManyAudio(b, r.handle, uint64(frame)+1, r.call.speech.Frames[frame%int64(len(r.call.speech.Frames))])
}

func (converseMany) take(t *trunk, now int64, message []byte) error {
	return wire.ManyEntries(message, func(e *wire.AgentEntry) error {
		r := t.riders[e.Handle]
		if r == nil {
			return nil
		}
		switch {
		case e.Audio != nil:
			if e.HasItem {
				r.listener.about(e.Item)
			}
			r.listener.heard(now, e.Epoch, len(e.Audio))
		case e.Failed != nil:
			code, reason, text, err := wire.LegFailed(e.Failed)
			if err != nil {
				return err
			}
			if reason == "" {
				reason = text
			}
			r.finish(ending{codeName(uint32(code)), reason})
		default:
			response, err := wire.ParseResponse(e.Message)
			if err != nil {
				return err
			}
			r.listener.take(now, &response)
			if response.Kind == wire.Ended {
				r.finish(ending{"OK", string(response.Reason)})
			}
		}
		return nil
	})
}
