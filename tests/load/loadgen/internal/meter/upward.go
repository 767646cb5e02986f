package meter

import "parley.dev/loadgen/internal/audio"

// ring is for how many frames the times of sending are kept: 41 s.
const ring = 2048

// upward follows a caller's frames to the provider, by counting bytes. Where the worker passes the audio on as it
// is, frames are known by how they begin as well, so that a lost frame is seen at once.
type upward struct {
	sent   int64 // frames sent
	times  [ring]int64
	next   int64 // the frame that the next byte belongs to
	have   int   // bytes of it
	format *audio.Format
	speech *audio.Speech // nil where worker or provider convert the audio
	exact  bool          // frames were recognised
	moved  bool          // the provider's connection is a new one
}

func (u *upward) send(now int64) int64 {
	k := u.sent
	u.times[k%ring] = now
	u.sent++
	return k
}

// took counts `n` bytes whose base64 begins with `text`.
func (u *upward) took(s *Shard, now int64, n int, text []byte) {
	if u.speech != nil && u.have == 0 {
		if k, ok := u.speech.Find(text); ok {
			u.exact = true
			u.seek(s, int64(k))
		}
	}
	if u.moved && !u.exact && u.sent > 0 {
		// Nothing tells which frame this is: what a worker kept while it had no provider is not known, so take the
		// newest frame and all before it for lost.
		s.Add(DropsUp, max(u.sent-1-u.next, 0))
		u.next = max(u.next, u.sent-1)
	}
	u.moved = false
	u.have += n
	// Resamplers round: the last byte may be missing.
	for size := u.format.Frame; u.have >= size-1; u.have -= size {
		if u.next >= u.sent {
			s.Add(EarlyBytes, int64(max(u.have, 0)))
			u.have = 0
			return
		}
		if u.sent-u.next <= ring {
			s.Record(Up, now-u.times[u.next%ring])
		}
		s.Add(FramesAtProvider, 1)
		u.next++
	}
}

// seek moves to the frame that begins like number k of the speech: forward over lost ones where that frame was
// sent already, back where it was received before.
func (u *upward) seek(s *Shard, k int64) {
	ahead := (k - u.next%audio.Frames + audio.Frames) % audio.Frames
	if ahead == 0 && !u.moved {
		return
	}
	if u.moved { // the newest that it can be: workers keep the newest audio
		for u.next+ahead+audio.Frames < u.sent {
			ahead += audio.Frames
		}
	}
	if u.next+ahead < u.sent {
		s.Add(DropsUp, ahead)
		u.next += ahead
		return
	}
	if back := audio.Frames - ahead; back <= u.next {
		s.Add(RepeatsUp, back)
		s.Add(FramesAtProvider, -back)
		u.next -= back
	}
}

// slack is how many frames a resampler may hold back at the end of a call.
const slack = 10

// missing is how many frames have not arrived; a resampler's rest is none.
func (u *upward) missing() int64 {
	n := max(u.sent-u.next, 0)
	if u.speech == nil && n <= slack {
		return 0
	}
	return n
}

// end counts what never came.
func (u *upward) end(s *Shard) {
	s.Add(DropsUp, u.missing())
	u.next = u.sent
}
