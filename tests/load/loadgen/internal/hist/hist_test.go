package hist

import (
	"math"
	"testing"
)

func TestEveryValueLiesWithinTwoPercentBelowItsEdge(t *testing.T) {
	for micros := uint64(1); micros < 1_000_000_000; micros += 1 + micros/97 {
		edge := upper(index(int64(micros * 1000)))
		if edge <= micros || float64(edge) > math.Max(float64(micros)*1.02, float64(micros+1)) {
			t.Fatalf("%d us fell into the bucket up to %d us", micros, edge)
		}
	}
}

func TestEdgesRise(t *testing.T) {
	for i := 1; i < Size; i++ {
		if upper(i) <= upper(i-1) {
			t.Fatalf("bucket %d ends at %d, the one before at %d", i, upper(i), upper(i-1))
		}
	}
}

func TestQuantiles(t *testing.T) {
	var h Hist
	for i := int64(1); i <= 1000; i++ {
		h.Record(i * 1_000_000)
	}
	var c Counts
	h.AddTo(&c)
	s := c.Summary()
	near := func(name string, got, want float64) {
		if got < want || got > want*1.02 {
			t.Errorf("%s is %v ms, not about %v", name, got, want)
		}
	}
	near("p50", s.P50, 500)
	near("p90", s.P90, 900)
	near("p99", s.P99, 990)
	near("p999", s.P999, 999)
	near("max", s.Max, 1000)
	if s.Count != 1000 {
		t.Errorf("count is %d", s.Count)
	}
}

func TestOutOfRange(t *testing.T) {
	var h Hist
	h.Record(-5)
	h.Record(math.MaxInt64)
	var c Counts
	h.AddTo(&c)
	if c[0] != 1 || c[Size-1] != 1 {
		t.Errorf("below zero: %d, beyond the last bucket: %d", c[0], c[Size-1])
	}
}

func TestNothingHasNoQuantiles(t *testing.T) {
	var c Counts
	if s := c.Summary(); s.Count != 0 || s.P99 != 0 || s.Max != 0 || len(s.Buckets) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestDifference(t *testing.T) {
	var h Hist
	var before, after Counts
	h.Record(1_000_000)
	h.AddTo(&before)
	h.Record(2_000_000)
	h.AddTo(&after)
	after.Sub(&before)
	if s := after.Summary(); s.Count != 1 || s.P50 < 2 {
		t.Errorf("%+v", s)
	}
}
