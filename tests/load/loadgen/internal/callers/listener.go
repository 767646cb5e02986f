package callers

import (
	"parley.dev/loadgen/internal/meter"
	"parley.dev/loadgen/internal/provider"
	"parley.dev/loadgen/internal/wire"
)

// A listener takes what a Parley worker says to one caller.
type listener struct {
	call    *call
	reply   func(message []byte)
	started chan struct{}

	begun bool
	item  string
	epoch uint64
	key   int64
}

func (l *listener) take(now int64, r *wire.Response) {
	switch r.Kind {
	case wire.Audio:
		if string(r.Item) != l.item {
			l.about(r.Item)
		}
		l.heard(now, r.Epoch, len(r.Payload))
		return
	case wire.Started:
		if !l.begun {
			l.begun = true
			close(l.started)
		}
		return
	case wire.Clear:
		l.call.session.Cleared(r.Epoch > l.epoch)
		l.reply(wire.Cleared(r.Epoch))
	case wire.Mark:
		l.reply(wire.MarkPlayed(r.Name, r.Epoch))
	}
	l.call.shard().Add(meter.EventsReceived, 1)
}

// about says whose audio follows.
func (l *listener) about(item []byte) {
	l.item, l.key = string(item), meter.Unknown
	if key, ok := provider.KeyOf(item); ok {
		l.key = key
	}
}

func (l *listener) heard(now int64, epoch uint64, n int) {
	l.epoch = epoch
	l.call.session.Heard(now, l.key, n)
}
