package meter

import (
	"sync"

	"parley.dev/loadgen/internal/audio"
)

// A Session is one call as both sides see it: the caller and the provider's connection of the same number.
// Times are nanoseconds of package clock. Safe for concurrent use.
type Session struct {
	Sid   int64
	Shard *Shard

	mu       sync.Mutex
	up       upward
	down     downward
	flowing  bool  // the caller's audio counts
	provider int64 // number of the provider's connection, 0 for none
	format   *audio.Format
	seen     chan struct{} // closed when the provider's side is ready
	raw      *Raw
}

// Raw is every time of one call, for analyses elsewhere.
type Raw struct {
	Sid   int64     `json:"sid"`
	SendT []float64 `json:"send_t"`
	RxT   []float64 `json:"rx_t"`
	RxB   []int     `json:"rx_b"`
}

func newSession(sid int64, shard *Shard) *Session {
	return &Session{Sid: sid, Shard: shard, seen: make(chan struct{})}
}

// Seen is closed once the provider has a connection of this session.
func (s *Session) Seen() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// Connected says that a provider's connection belongs to this session and takes caller audio in `format`.
func (s *Session) Connected(connection int64, format *audio.Format) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.provider == connection && s.format == format {
		return
	}
	if s.provider != connection {
		s.up.have = 0
		s.up.moved = s.flowing
	}
	s.provider, s.format = connection, format
	s.up.format = format
	select {
	case <-s.seen:
	default:
		close(s.seen)
	}
}

// Disconnected says that a connection is gone; false where a newer one took its place.
func (s *Session) Disconnected(connection int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.provider == connection {
		s.provider = 0
	}
}

// Flow begins the call's audio, in the caller's format: what the provider got before does not count.
func (s *Session) Flow(format *audio.Format, raw bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = upward{format: s.format}
	if s.format == format {
		s.up.speech = audio.SpeechOf(format)
	}
	s.down.format = format
	s.flowing = true
	if raw {
		s.raw = &Raw{Sid: s.Sid, SendT: []float64{}, RxT: []float64{}, RxB: []int{}}
	}
}

// Sent counts a frame, sent now; its number counts from 0.
func (s *Session) Sent(now int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Shard.Add(FramesSent, 1)
	if s.raw != nil {
		s.raw.SendT = append(s.raw.SendT, float64(now)/1e9)
	}
	return s.up.send(now)
}

// Appended counts audio that the provider got on a connection: n bytes, whose base64 begins with `text`.
func (s *Session) Appended(now, connection int64, n int, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Shard.Add(Appends, 1)
	if !s.flowing || connection != s.provider {
		s.Shard.Add(EarlyBytes, int64(n))
		return
	}
	s.up.took(s.Shard, now, n, text)
}

// Arrived tells whether the provider has every frame that was sent, but for a resampler's rest.
func (s *Session) Arrived() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.up.missing() == 0
}

// Delta counts a piece of an answer that the provider sends now.
func (s *Session) Delta(now, answer int64, millis int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down.delta(s.Shard, now, answer, millis)
}

// Finished says that all of an answer was sent, or that it was cut.
func (s *Session) Finished(now, answer int64, cut bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down.finish(s.Shard, now, answer, cut)
}

// Heard counts audio that the caller got now, of an answer or of Unknown.
func (s *Session) Heard(now, answer int64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.flowing {
		return
	}
	if s.raw != nil {
		s.raw.RxT, s.raw.RxB = append(s.raw.RxT, float64(now)/1e9), append(s.raw.RxB, n)
	}
	s.down.heard(s.Shard, now, answer, n)
}

// Cleared says that the worker threw audio away: of all answers, or of the one heard last and those before it.
func (s *Session) Cleared(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down.cleared(s.Shard, all)
}

// Sweep gives answers up whose audio cannot come any more.
func (s *Session) Sweep(now int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down.sweep(s.Shard, now)
}

// End is the end of the caller's side. `settled` tells that the caller hung up and gave its last frames time to
// come through: what is missing then is lost. What is in flight otherwise counts for nothing.
func (s *Session) End(settled bool) *Raw {
	s.mu.Lock()
	defer s.mu.Unlock()
	if settled && s.flowing {
		s.up.end(s.Shard)
	}
	s.flowing = false
	s.down = downward{}
	return s.raw
}

// Registry finds sessions by number; a session is there as long as either side is.
type Registry struct {
	Meter Meter

	mu       sync.Mutex
	sessions map[int64]*held
}

type held struct {
	session *Session
	holders int
}

// Hold gives the session of a number, made new when nobody holds it.
func (r *Registry) Hold(sid int64) *Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions == nil {
		r.sessions = map[int64]*held{}
	}
	h := r.sessions[sid]
	if h == nil {
		h = &held{session: newSession(sid, r.Meter.Shard(sid))}
		r.sessions[sid] = h
	}
	h.holders++
	return h.session
}

// Drop lets a session go that was held.
func (r *Registry) Drop(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h := r.sessions[s.Sid]; h != nil && h.session == s {
		if h.holders--; h.holders == 0 {
			delete(r.sessions, s.Sid)
		}
	}
}

// Sweep sweeps every session.
func (r *Registry) Sweep(now int64) {
	r.mu.Lock()
	all := make([]*Session, 0, len(r.sessions))
	for _, h := range r.sessions {
		all = append(all, h.session)
	}
	r.mu.Unlock()
	for _, s := range all {
		s.Sweep(now)
	}
}
