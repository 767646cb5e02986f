// Package hist keeps latencies in buckets of at most 1.6 % width, cheaply enough for every frame.
package hist

import (
	"math/bits"
	"sync/atomic"
)

const (
	perOctave = 64
	octaves   = 25 // up to about 1100 s
	// Size is the number of buckets.
	Size = perOctave * octaves
)

// Hist counts values in nanoseconds, with a resolution of one microsecond. Safe for concurrent use.
type Hist struct{ buckets [Size]atomic.Uint64 }

// Record counts a value; one below zero counts as zero.
func (h *Hist) Record(nanos int64) { h.buckets[index(nanos)].Add(1) }

func index(nanos int64) int {
	micros := uint64(max(nanos, 0)) / 1000
	if micros < perOctave {
		return int(micros)
	}
	octave := bits.Len64(micros) - bits.Len64(perOctave)
	return min(octave*perOctave+int(micros>>octave), Size-1)
}

// upper is the bucket's upper edge in microseconds.
func upper(i int) uint64 {
	if i < 2*perOctave {
		return uint64(i) + 1
	}
	octave := i/perOctave - 1
	return uint64(i-octave*perOctave+1) << octave
}

// Counts is a copy of a histogram's buckets, or the sum or difference of some.
type Counts [Size]uint64

// AddTo adds what the histogram holds now.
func (h *Hist) AddTo(c *Counts) {
	for i := range h.buckets {
		c[i] += h.buckets[i].Load()
	}
}

// Sub takes an earlier copy away.
func (c *Counts) Sub(earlier *Counts) {
	for i := range c {
		c[i] -= earlier[i]
	}
}

// Summary is how a histogram is written. Milliseconds; every figure is its bucket's upper edge.
type Summary struct {
	Count   uint64       `json:"count"`
	P50     float64      `json:"p50"`
	P90     float64      `json:"p90"`
	P99     float64      `json:"p99"`
	P999    float64      `json:"p999"`
	Max     float64      `json:"max"`
	Buckets [][2]float64 `json:"buckets"`
}

// Summary gives quantiles and the buckets that are not empty, as [upper edge, count].
func (c *Counts) Summary() Summary {
	s := Summary{Buckets: [][2]float64{}}
	for i, n := range c {
		if n > 0 {
			s.Count += n
			s.Max = millis(i)
			s.Buckets = append(s.Buckets, [2]float64{millis(i), float64(n)})
		}
	}
	s.P50, s.P90, s.P99, s.P999 = c.quantile(s.Count, 500), c.quantile(s.Count, 900), c.quantile(s.Count, 990), c.quantile(s.Count, 999)
	return s
}

func millis(i int) float64 { return float64(upper(i)) / 1000 }

// quantile is the smallest edge that `perMille` of the values do not pass; 0 of none.
func (c *Counts) quantile(total, perMille uint64) float64 {
	rank := (total*perMille + 999) / 1000
	var seen uint64
	for i, n := range c {
		if seen += n; seen >= rank && n > 0 {
			return millis(i)
		}
	}
	return 0
}
