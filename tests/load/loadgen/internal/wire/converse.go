package wire

import "parley.dev/loadgen/internal/audio"

// Numbers of ConverseRequest's messages that this program sends.
const (
	requestStart      = 1
	startEvents       = 13
	requestAudio      = 2
	requestMarkPlayed = 5
	requestCleared    = 6
	requestHangup     = 10
)

// Kinds of ConverseResponse, by field number.
const (
	Started  = 1
	Audio    = 2
	Clear    = 3
	Mark     = 4
	Event    = 5
	Draining = 6
	Moved    = 7
	Ended    = 8
)

func appendFormat(b []byte, field int, f *audio.Format) []byte {
	encoding, rate := uint64(1), uint64(24000)
	if f == audio.Ulaw8 {
		encoding, rate = 2, 8000
	}
	return AppendMessage(b, field, AppendVarint(AppendVarint(nil, 1, encoding), 2, rate))
}

// Start is the first request: playout REALTIME, one format both ways.
func Start(ticket, sessionUID string, f *audio.Format, events bool) []byte {
	inner := AppendString(nil, 1, ticket)
	inner = appendFormat(appendFormat(inner, 3, f), 4, f)
	inner = AppendString(AppendVarint(inner, 5, 1), 8, sessionUID)
	if !events {
		inner = AppendString(inner, startEvents, "none")
	}
	return AppendMessage(nil, requestStart, inner)
}

// AudioHead is an audio request without its payload, which follows: sequence counts from 1.
func AudioHead(b []byte, sequence uint64, payload int) []byte {
	at := (sequence - 1) * 20
	size := SizeVarint(2, sequence) + SizeVarint(3, at) + SizeBytes(1, payload)
	b = AppendLength(b, requestAudio, size)
	return AppendLength(AppendVarint(AppendVarint(b, 2, sequence), 3, at), 1, payload)
}

// MarkPlayed answers a mark.
func MarkPlayed(name []byte, epoch uint64) []byte {
	return AppendMessage(nil, requestMarkPlayed, AppendVarint(AppendBytes(nil, 1, name), 2, epoch))
}

// Cleared answers a clear: nothing was queued, so nothing was thrown away.
func Cleared(epoch uint64) []byte {
	return AppendMessage(nil, requestCleared, AppendVarint(nil, 1, epoch))
}

// Hangup ends the session.
func Hangup() []byte { return AppendMessage(nil, requestHangup, nil) }

// Response is a ConverseResponse as far as this program reads it. Slices point into the message.
type Response struct {
	Kind    int
	Payload []byte // of Audio
	Item    []byte // of Audio
	Epoch   uint64 // of Audio, Clear and Mark
	Name    []byte // of Mark
	Reason  []byte // of Ended
}

// ParseResponse reads a ConverseResponse. An unknown kind is given as its number.
func ParseResponse(b []byte) (r Response, err error) {
	for len(b) > 0 {
		var f Field
		if f, b, err = Next(b); err != nil {
			return r, err
		}
		r = Response{Kind: f.Number}
		if err = r.read(f.B); err != nil {
			return r, err
		}
	}
	return r, nil
}

func (r *Response) read(b []byte) (err error) {
	if r.Kind != Audio && r.Kind != Clear && r.Kind != Mark && r.Kind != Ended {
		return nil
	}
	for len(b) > 0 {
		var f Field
		if f, b, err = Next(b); err != nil {
			return err
		}
		switch {
		case r.Kind == Audio && f.Number == 1:
			r.Payload = f.B
		case r.Kind == Audio && f.Number == 2:
			r.Item = f.B
		case r.Kind == Audio && f.Number == 4:
			r.Epoch = f.V
		case r.Kind == Clear && f.Number == 1:
			r.Epoch = f.V
		case r.Kind == Mark && f.Number == 1:
			r.Name = f.B
		case r.Kind == Mark && f.Number == 2:
			r.Epoch = f.V
		case r.Kind == Ended && f.Number == 1:
			r.Reason = f.B
		}
	}
	return nil
}
