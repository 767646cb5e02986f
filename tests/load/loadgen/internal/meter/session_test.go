package meter

import (
	"testing"

	"parley.dev/loadgen/internal/audio"
)

// bench is a session of its own and what was counted since the start.
type bench struct {
	t *testing.T
	*Session
	registry *Registry
}

func newBench(t *testing.T, caller, provider *audio.Format) *bench {
	r := new(Registry)
	b := &bench{t, r.Hold(1), r}
	b.Connected(1, provider)
	b.Flow(caller, false)
	return b
}

func (b *bench) count(c Count) int64 { return b.registry.Meter.Snapshot().counts[c] }

func (b *bench) want(what string, c Count, n int64) {
	b.t.Helper()
	if got := b.count(c); got != n {
		b.t.Errorf("%s: %s is %d, not %d", what, countNames[c], got, n)
	}
}

// quantile 1 of a latency, in ms, and how many there are.
func (b *bench) latency(l Latency) (highest float64, n uint64) {
	s := b.registry.Meter.Snapshot().latencies[l].Summary()
	return s.Max, s.Count
}

func (b *bench) wantLatency(what string, l Latency, millis float64, n uint64) {
	b.t.Helper()
	got, count := b.latency(l)
	if count != n || got < millis || got > millis*1.02+0.01 {
		b.t.Errorf("%s: %d of %s, at most %v ms; want %d, %v ms", what, count, latencyNames[l], got, n, millis)
	}
}

func text(f *audio.Format, frame int) []byte { return audio.SpeechOf(f).Text[frame%audio.Frames] }

func TestEveryFrameIsFollowed(t *testing.T) {
	b := newBench(t, audio.Ulaw8, audio.Ulaw8)
	for k := range 600 {
		now := int64(k) * 20 * millisecond
		b.Sent(now)
		b.Appended(now+3*millisecond, 1, 160, text(audio.Ulaw8, k))
	}
	b.wantLatency("passed on", Up, 3, 600)
	b.want("passed on", DropsUp, 0)
	b.want("passed on", FramesAtProvider, 600)
	if !b.Arrived() {
		t.Error("not all arrived")
	}
}

func TestCoalescedAppends(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	for k := range 100 {
		now := int64(k) * 20 * millisecond
		b.Sent(now)
		if k%2 == 1 {
			b.Appended(now+millisecond, 1, 1920, text(audio.PCM24, k-1))
		}
	}
	b.wantLatency("40 ms at once", Up, 21, 100)
	b.want("40 ms at once", DropsUp, 0)
}

func TestAppendsThatEndWithinFrames(t *testing.T) {
	b := newBench(t, audio.Ulaw8, audio.PCM24) // converted: 30 ms at once, 10 ms behind
	have := 0
	for k := range 99 {
		now := int64(k) * 20 * millisecond
		b.Sent(now)
		for have+1440 <= (k+1)*960-480 {
			have += 1440
			b.Appended(now, 1, 1440, []byte("AAAAAAAAAAAAAAAAAAAA"))
		}
	}
	b.want("converted", FramesAtProvider, int64(have/960))
	if longest, _ := b.latency(Up); longest > 60 {
		t.Errorf("%v ms", longest)
	}
	b.End(true)
	b.want("a resampler's rest", DropsUp, 0)
}

func TestLostFramesAreSeenAtOnce(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	for k := range 300 {
		now := int64(k) * 20 * millisecond
		b.Sent(now)
		if k != 7 && (k < 250 || k >= 290) {
			b.Appended(now+millisecond, 1, 960, text(audio.PCM24, k))
		}
	}
	b.want("lost", DropsUp, 41)
	b.want("lost", FramesAtProvider, 259)
	b.wantLatency("lost", Up, 1, 259)
}

func TestWhatIsMissingAtTheEnd(t *testing.T) {
	for _, settled := range []bool{true, false} {
		b := newBench(t, audio.PCM24, audio.PCM24)
		for k := range 10 {
			b.Sent(int64(k))
			if k < 8 {
				b.Appended(int64(k), 1, 960, text(audio.PCM24, k))
			}
		}
		b.End(settled)
		want := int64(0)
		if settled {
			want = 2
		}
		b.want("the end", DropsUp, want)
	}
}

func TestRepeatedFrames(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	for k := range 10 {
		b.Sent(int64(k))
		b.Appended(int64(k), 1, 960, text(audio.PCM24, k))
	}
	b.Appended(11, 1, 960, text(audio.PCM24, 8))
	b.Appended(11, 1, 960, text(audio.PCM24, 9))
	b.want("repeated", RepeatsUp, 2)
	b.want("repeated", FramesAtProvider, 10)
	b.want("repeated", DropsUp, 0)
}

func TestANewConnectionGoesOnWhereItsFirstFrameSays(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	k := 0
	for ; k < 50; k++ {
		b.Sent(int64(k))
		b.Appended(int64(k), 1, 960, text(audio.PCM24, k))
	}
	b.Appended(50, 1, 480, text(audio.PCM24, k)) // half a frame is cut off
	b.Disconnected(1)
	for ; k < 60; k++ {
		b.Sent(int64(k))
	}
	b.Connected(2, audio.PCM24)
	b.Appended(60, 1, 960, text(audio.PCM24, 52)) // of the old one, too late
	b.want("the old connection", EarlyBytes, 960)
	for i := 55; i < 60; i++ {
		b.Appended(60, 2, 960, text(audio.PCM24, i))
	}
	b.want("reconnected", DropsUp, 5)
	b.want("reconnected", FramesAtProvider, 55)
	if !b.Arrived() {
		t.Error("not all arrived")
	}
}

func TestANewConnectionOfConvertedAudio(t *testing.T) {
	b := newBench(t, audio.Ulaw8, audio.PCM24)
	for k := range 20 {
		b.Sent(int64(k))
		if k < 10 {
			b.Appended(int64(k), 1, 960, nil)
		}
	}
	b.Connected(2, audio.PCM24)
	b.Appended(20, 2, 960, nil)
	b.want("reconnected", DropsUp, 9)
	b.want("reconnected", FramesAtProvider, 11)
}

func TestWhatComesBeforeTheStartDoesNotCount(t *testing.T) {
	r := new(Registry)
	b := &bench{t, r.Hold(1), r}
	select {
	case <-b.Seen():
		t.Fatal("seen too early")
	default:
	}
	b.Connected(1, audio.PCM24)
	<-b.Seen()
	b.Appended(0, 1, 4800, text(audio.PCM24, 0))
	b.Heard(0, Unknown, 960)
	b.Flow(audio.PCM24, false)
	b.Sent(10)
	b.Appended(12, 1, 960, text(audio.PCM24, 0))
	b.want("early", EarlyBytes, 4800)
	b.want("early", FramesAtProvider, 1)
	b.want("early", StrayFrames, 0)
}

// answer sends an answer of 3 s at 2.5 times real time from `at` on.
func (b *bench) answer(at, key int64) {
	for i := range int64(20) {
		b.Delta(at+i*60*millisecond, key, 150)
	}
	b.Finished(at+1200*millisecond, key, false)
}

// play hears frames [from, upto) of an answer, paced from `at` on.
func (b *bench) play(at, key int64, from, upto int) {
	for k := from; k < upto; k++ {
		b.Heard(at+int64(k)*20*millisecond, key, b.down.format.Frame)
	}
}

func TestPacedPlayout(t *testing.T) {
	for _, key := range []int64{5, Unknown} {
		b := newBench(t, audio.PCM24, audio.PCM24)
		b.answer(0, 5)
		b.play(9*millisecond, key, 0, 150)
		b.wantLatency("paced", First, 9, 1)
		b.wantLatency("paced", Late, 0.001, 149)
		b.wantLatency("paced", Heard, 9, 150)
		for c, n := range map[Count]int64{Responses: 1, ResponsesSettled: 1, ResponsesComplete: 1, FramesDue: 150, FramesReceived: 150, Underruns: 0} {
			b.want("paced", c, n)
		}
	}
}

func TestAStall(t *testing.T) {
	b := newBench(t, audio.Ulaw8, audio.Ulaw8)
	b.answer(0, 5)
	b.play(0, 5, 0, 50)
	b.play(45*millisecond, 5, 50, 60) // 45 ms late, 10 frames
	b.play(15*millisecond, 5, 60, 150)
	b.want("stalled", Underruns, 10)
	b.want("stalled", StarvedResponses, 1)
	b.wantLatency("stalled", Late, 45, 149)
}

func TestPiecesOfAnyLength(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	b.answer(0, 5)
	for i := range int64(100) { // 30 ms at a time
		b.Heard(i*30*millisecond, 5, 1440)
	}
	b.want("30 ms", FramesReceived, 150)
	b.want("30 ms", Underruns, 0)
	b.want("30 ms", FramesHeard, 150)
}

func TestLostAudioIsMissedOnceItCannotCome(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	b.answer(0, 5)
	b.play(0, 5, 0, 140)
	b.Sweep(3000*millisecond + giveUp - 1)
	b.want("in flight", ResponsesSettled, 0)
	b.Sweep(3000*millisecond + giveUp + 1)
	for c, n := range map[Count]int64{FramesDue: 150, FramesReceived: 140, ResponsesSettled: 1, ResponsesComplete: 0} {
		b.want("lost", c, n)
	}
	b.Heard(6000*millisecond, 5, 960)
	b.want("too late", StrayFrames, 1)
}

func TestAnAnswerThatIsNeverHeard(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	b.answer(0, 5)
	b.Sweep(10_000 * millisecond)
	b.want("never heard", FramesDue, 150)
	b.want("never heard", FramesReceived, 0)
}

func TestCutAnswersAreNotMissed(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	b.Delta(0, 5, 3000)
	b.Finished(1, 5, true) // cancelled
	b.answer(100*millisecond, 6)
	b.play(100*millisecond, 6, 0, 10)
	b.answer(200*millisecond, 7)
	b.Cleared(false) // what was heard last, and before
	b.want("cut", ResponsesCut, 2)
	b.play(300*millisecond, 7, 0, 150)
	b.want("the next", ResponsesComplete, 1)
	b.answer(9000*millisecond, 8)
	b.Cleared(true)
	b.want("cut", ResponsesCut, 3)
	b.want("cut", FramesDue, 150)
}

func TestAnswersOneAfterTheOtherWithoutNumbers(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	b.answer(0, 5)
	b.play(0, Unknown, 0, 100)
	b.answer(2010*millisecond, 6) // while the first is still being played
	b.play(20*millisecond, Unknown, 100, 150)
	b.play(3040*millisecond, Unknown, 0, 150)
	b.want("in turn", ResponsesComplete, 2)
	b.wantLatency("in turn", First, 1030, 2)
	b.want("in turn", StrayFrames, 0)
}

func TestAnAnswerInFlightAtTheEndDoesNotCount(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	b.answer(0, 5)
	b.play(0, 5, 0, 30)
	b.End(true)
	b.Sweep(100_000 * millisecond)
	b.want("ended", FramesDue, 0)
}

func TestWindowsAreDifferences(t *testing.T) {
	b := newBench(t, audio.PCM24, audio.PCM24)
	b.answer(0, 5)
	b.play(0, 5, 0, 150)
	before := b.registry.Meter.Snapshot()
	b.answer(4000*millisecond, 6)
	b.play(4007*millisecond, 6, 0, 150)
	w := b.registry.Meter.Snapshot().Since(before)
	if w["frames_due"] != int64(150) || w["drops_down"] != int64(0) || w["responses_complete"] != int64(1) {
		t.Errorf("%v", w)
	}
}

func TestTheRegistryForgetsWhatNobodyHolds(t *testing.T) {
	r := new(Registry)
	one, again := r.Hold(4), r.Hold(4)
	if one != again {
		t.Fatal("two sessions of one number")
	}
	r.Drop(one)
	if r.Hold(4) != one {
		t.Fatal("forgot a session that is held")
	}
	r.Drop(one)
	r.Drop(one)
	if r.Hold(4) == one {
		t.Fatal("kept a session that nobody holds")
	}
}
