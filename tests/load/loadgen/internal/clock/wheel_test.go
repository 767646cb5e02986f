package clock

import "testing"

type task struct {
	fired [][2]int64
	every int64
	left  int
}

func (t *task) Fire(now, due int64) int64 {
	t.fired = append(t.fired, [2]int64{now, due})
	if t.left--; t.left <= 0 {
		return 0
	}
	return due + t.every
}

func TestTasksRunOnTheirSlots(t *testing.T) {
	var lag int64
	w := NewWheel(10*Grain, func(n int64) { lag = max(lag, n) })
	one := &task{left: 1}
	w.At(12*Grain-1, one)
	scratch := w.Turn(11*Grain, nil)
	if len(one.fired) != 0 {
		t.Fatal("ran too early")
	}
	w.Turn(12*Grain+300, scratch)
	if len(one.fired) != 1 || one.fired[0] != [2]int64{12*Grain + 300, 12 * Grain} {
		t.Fatalf("ran %v", one.fired)
	}
	if lag != 300 {
		t.Fatalf("lag is %d", lag)
	}
	w.Turn(2*slots*Grain, scratch)
	if len(one.fired) != 1 {
		t.Fatal("ran again")
	}
}

func TestAPeriodDoesNotDrift(t *testing.T) {
	w := NewWheel(0, func(int64) {})
	often := &task{every: 20 * Grain, left: 50}
	w.At(5*Grain, often)
	var scratch []entry
	for now := int64(0); now < 1100*Grain; now += 7*Grain + 13 { // wakes late and never on time
		scratch = w.Turn(now, scratch)
	}
	if len(often.fired) != 50 {
		t.Fatalf("ran %d times", len(often.fired))
	}
	for i, f := range often.fired {
		if want := (5 + 20*int64(i)) * Grain; f[1] != want {
			t.Fatalf("run %d was due at %d, not %d", i, f[1], want)
		}
	}
}

func TestWhatIsFarAwayWaitsForItsRound(t *testing.T) {
	w := NewWheel(0, func(int64) {})
	far := &task{left: 1}
	w.At((slots+3)*Grain, far)
	scratch := w.Turn(slots*Grain, nil)
	if len(far.fired) != 0 {
		t.Fatal("ran a round too early")
	}
	w.Turn((slots+3)*Grain, scratch)
	if len(far.fired) != 1 {
		t.Fatal("never ran")
	}
}

func TestThePastIsNow(t *testing.T) {
	w := NewWheel(100*Grain, func(int64) {})
	late := &task{left: 1}
	w.At(3*Grain, late)
	w.Turn(101*Grain, nil)
	if len(late.fired) != 1 {
		t.Fatal("did not run")
	}
}
