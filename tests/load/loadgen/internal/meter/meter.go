// Package meter counts what all sessions do, and measures windows of it.
package meter

import (
	"sync/atomic"

	"parley.dev/loadgen/internal/hist"
)

// Count names a counter.
type Count int

// The counters. A frame is 20 ms of audio.
const (
	FramesSent        Count = iota // by callers
	FramesAtProvider               // of them, wholly received
	DropsUp                        // of them, never received
	RepeatsUp                      // received twice
	EarlyBytes                     // received before the caller's first frame, or beyond its last
	FramesUnsent                   // not sent because the transport did not take those before
	FramesHeard                    // of answers, by callers
	FramesDue                      // of answers that are settled
	FramesReceived                 // of those, by callers
	Underruns                      // frames heard more than 20 ms after they were due
	StarvedResponses               // settled ones with an underrun
	StrayFrames                    // heard, of no answer that is known
	SilentFrames                   // heard, and left out: nothing but silence
	Responses                      // begun
	ResponsesSettled               // wholly heard, or given up
	ResponsesComplete              // of them, wholly heard
	ResponsesCut                   // cancelled, or cleared by the worker
	EventsReceived                 // by callers, besides audio
	EventsSent                     // by the provider, besides audio
	Appends                        // at the provider
	ProviderConnections
	ProviderErrors
	ProviderOverflows
	CallsStarted
	CallsEnded
	CallsRefused
	counts
)

var countNames = [counts]string{
	"frames_sent", "frames_at_provider", "drops_up", "repeats_up", "early_bytes", "frames_unsent", "frames_heard", "frames_due",
	"frames_received", "underruns", "starved_responses", "stray_frames", "silent_frames", "responses", "responses_settled",
	"responses_complete", "responses_cut", "events_received", "events_sent", "appends", "provider_connections", "provider_errors",
	"provider_overflows", "calls_started", "calls_ended", "calls_refused",
}

// Latency names a histogram.
type Latency int

// The histograms.
const (
	Up    Latency = iota // caller's frame sent -> provider has all audio up to its end
	First                // first delta sent -> first audio heard
	Late                 // a later frame against playout that began with the first one heard
	Heard                // any frame against playout that began when the first delta was sent
	Lag                  // this program's own lateness
	Stall                // how late the witnesses on the worker's CPUs woke
	latencies
)

var latencyNames = [latencies]string{"up", "first", "late", "heard", "loadgen_lag", "stall"}

const shards = 8

// A Shard is where some of the sessions count: no cache line is fought for.
type Shard struct {
	counts    [counts]atomic.Int64
	latencies [latencies]hist.Hist
}

// Add counts.
func (s *Shard) Add(c Count, n int64) { s.counts[c].Add(n) }

// Record keeps a latency in nanoseconds.
func (s *Shard) Record(l Latency, nanos int64) { s.latencies[l].Record(nanos) }

// Meter is all shards.
type Meter struct{ shards [shards]Shard }

// Shard gives a session's shard.
func (m *Meter) Shard(sid int64) *Shard { return &m.shards[uint64(sid)%shards] }

// Snapshot is what was counted up to a moment.
type Snapshot struct {
	counts    [counts]int64
	latencies [latencies]hist.Counts
}

// Snapshot sums the shards up.
func (m *Meter) Snapshot() *Snapshot {
	out := new(Snapshot)
	for i := range m.shards {
		for c := range out.counts {
			out.counts[c] += m.shards[i].counts[c].Load()
		}
		for l := range out.latencies {
			m.shards[i].latencies[l].AddTo(&out.latencies[l])
		}
	}
	return out
}

// Since gives what was counted after an earlier snapshot, by the names of the "window" event.
func (s *Snapshot) Since(earlier *Snapshot) map[string]any {
	out := map[string]any{}
	for c, name := range countNames {
		out[name] = s.counts[c] - earlier.counts[c]
	}
	for l, name := range latencyNames {
		s.latencies[l].Sub(&earlier.latencies[l])
		out[name] = s.latencies[l].Summary()
	}
	out["down"] = out["late"]
	out["drops_down"] = out["frames_due"].(int64) - out["frames_received"].(int64)
	return out
}
