package meter

import "parley.dev/loadgen/internal/audio"

const millisecond = 1_000_000

// Unknown is the number of an answer that a transport does not tell.
const Unknown = -1

// giveUp is how long after its end an answer's audio is waited for.
const giveUp = 2000 * millisecond

// An answer is a response with audio, followed from the provider to the caller.
type answer struct {
	key     int64
	began   int64 // when its first delta was sent
	millis  int   // of audio sent so far
	done    bool  // the provider has sent all of it
	cut     bool  // cancelled by the worker: what is missing is not lost
	got     int   // bytes heard
	heardAt int64 // when its first and its last audio was heard
	lastAt  int64
	starved bool
}

// downward follows answers to the caller.
type downward struct {
	format  *audio.Format
	answers []*answer // that are not settled, oldest first
	playing *answer
}

func (d *downward) find(key int64) *answer {
	for _, a := range d.answers {
		if a.key == key {
			return a
		}
	}
	return nil
}

// delta counts a piece of an answer, sent now.
func (d *downward) delta(s *Shard, now, key int64, millis int) {
	a := d.find(key)
	if a == nil {
		a = &answer{key: key, began: now}
		d.answers = append(d.answers, a)
		s.Add(Responses, 1)
	}
	a.millis += millis
}

// finish says that the provider sent the last of an answer.
func (d *downward) finish(s *Shard, now, key int64, cut bool) {
	if a := d.find(key); a != nil {
		a.done, a.cut = true, cut
		d.settleIf(s, a, a.complete(d.format) || cut)
	}
}

func (a *answer) due() int { return (a.millis + 19) / 20 }

func (a *answer) frames(f *audio.Format) int {
	return min((a.got+f.Frame/2)/f.Frame, a.due())
}

func (a *answer) complete(f *audio.Format) bool { return a.done && f != nil && a.frames(f) >= a.due() }

// heard takes audio that the caller got now: of the answer `key`, or of the one that it must be.
func (d *downward) heard(s *Shard, now, key int64, n int) {
	a := d.choose(now, key)
	if a == nil {
		s.Add(StrayFrames, int64((n+d.format.Frame-1)/d.format.Frame))
		return
	}
	d.playing = a
	if a.got == 0 {
		a.heardAt = now
		s.Record(First, now-a.began)
	}
	a.lastAt = now
	for size := d.format.Frame; n > 0; {
		in := a.got % size
		if in == 0 {
			a.frame(s, now, int64(a.got/size)*20*millisecond)
		}
		step := min(n, size-in)
		a.got, n = a.got+step, n-step
	}
	d.settleIf(s, a, a.complete(d.format))
}

// frame measures a frame that lies `at` within its answer.
func (a *answer) frame(s *Shard, now, at int64) {
	s.Add(FramesHeard, 1)
	s.Record(Heard, now-a.began-at)
	if at == 0 {
		return
	}
	late := now - a.heardAt - at
	s.Record(Late, late)
	if late > 20*millisecond {
		s.Add(Underruns, 1)
		a.starved = true
	}
}

// choose gives the answer that audio belongs to. Without a number it is the newest one, unless one before is
// still being heard without a pause and is not over.
func (d *downward) choose(now, key int64) *answer {
	if key != Unknown {
		return d.find(key)
	}
	if len(d.answers) == 0 {
		return nil
	}
	p, newest := d.playing, d.answers[len(d.answers)-1]
	if p != nil && p != newest && d.find(p.key) == p && !p.complete(d.format) && now-p.lastAt < 100*millisecond {
		return p
	}
	return newest
}

// cleared says that the worker threw away what is queued: of the answer heard last and those before it, or of all.
func (d *downward) cleared(s *Shard, all bool) {
	for len(d.answers) > 0 {
		a := d.answers[0]
		if !all && (d.playing == nil || a.began > d.playing.began) {
			return
		}
		a.cut = true
		d.settleIf(s, a, true)
	}
}

// sweep settles answers whose audio cannot come any more.
func (d *downward) sweep(s *Shard, now int64) {
	for i := 0; i < len(d.answers); {
		a := d.answers[i]
		over := a.began + int64(a.millis)*millisecond
		if a.done && now > max(over, a.lastAt)+giveUp {
			d.settleIf(s, a, true)
		} else {
			i++
		}
	}
}

func (d *downward) settleIf(s *Shard, a *answer, over bool) {
	if !over {
		return
	}
	for i, other := range d.answers {
		if other == a {
			d.answers = append(d.answers[:i], d.answers[i+1:]...)
			break
		}
	}
	if a.cut {
		s.Add(ResponsesCut, 1)
		return
	}
	s.Add(ResponsesSettled, 1)
	if a.complete(d.format) {
		s.Add(ResponsesComplete, 1)
	}
	if a.starved {
		s.Add(StarvedResponses, 1)
	}
	if d.format != nil {
		s.Add(FramesDue, int64(a.due()))
		s.Add(FramesReceived, int64(a.frames(d.format)))
	}
}
