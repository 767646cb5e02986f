"""The worker's Prometheus metrics: one method per fact, children looked up once, no label per session."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from parley_worker.core.session_budget import BudgetName
from parley_worker.core.underruns import UnderrunCause
from parley_worker.telemetry.frames import FrameCounts, FrameSeries
from parley_worker.telemetry.process_metrics import LATENESS as _LATENESS
from parley_worker.telemetry.process_metrics import PREFIX, ProcessMetrics

_LATENCY = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
_STATES = ("connecting", "ready", "active", "detached")
_KINDS = ("event", "journal")


class Metrics(ProcessMetrics):
    """Every number of a process that runs sessions.

    What is counted for every frame is written to `frames` directly.

    Words used as label values come from closed lists (session states, endReason, refusal reasons, gRPC status
    names, event kinds); callers never pass ids, names or texts.
    """

    def __init__(self, version: str = "") -> None:
        super().__init__(version)
        r, p = self.registry, PREFIX
        sessions = Gauge(p + "sessions", "Live sessions by state.", ["state"], registry=r)
        self._sessions = {s: sessions.labels(s) for s in _STATES}
        self._legs = Gauge(p + "legs", "Callers attached.", registry=r)
        self._attaches = Counter(p + "leg_attaches_total", "Callers that attached.", registry=r)
        self._detaches = Counter(
            p + "leg_detaches_total", "Callers that went, by cause.", ["cause"], registry=r
        )
        self._leg_errors = Counter(
            p + "leg_errors_total", "Media streams ended with an error, by gRPC status.", ["code"], registry=r
        )
        self._first_audio = Histogram(
            p + "first_audio_seconds",
            "From the end of the caller's speech, or the request, to the first frame of the answer.",
            buckets=_LATENCY,
            registry=r,
        )
        self._barge_in = Histogram(
            p + "barge_in_seconds",
            "From the provider's notice of speech to the Clear sent to the caller.",
            buckets=_LATENESS,
            registry=r,
        )
        self.frames = FrameCounts(_LATENESS)
        r.register(FrameSeries(p, self.frames))
        self._frames_dropped = Counter(
            p + "frames_dropped_total",
            "Audio frames thrown away, by direction and cause.",
            ["direction", "cause"],
            registry=r,
        )
        underruns = Counter(
            p + "underruns_total",
            "Times that an answer's audio ran dry before it was done, by cause (provider_late, worker_late, "
            "caller_slow).",
            ["cause"],
            registry=r,
        )
        self._underruns = {cause: underruns.labels(cause) for cause in UnderrunCause}
        overruns = Counter(
            p + "budget_overruns_total",
            "Sessions ended for what they took of the worker, by budget.",
            ["budget"],
            registry=r,
        )
        self._overruns = {name: overruns.labels(name) for name in BudgetName}
        self._sequence_gaps = Counter(
            p + "frame_gaps_total", "Gaps in the sequence of caller frames.", registry=r
        )
        self._frames_concealed = Counter(
            p + "frames_concealed_total",
            "Opus packets of callers that were made up, by cause (lost, undecodable).",
            ["cause"],
            registry=r,
        )
        self._provider_connects = Counter(
            p + "provider_connects_total", "Provider connections that were configured.", registry=r
        )
        self._provider_connect_time = Histogram(
            p + "provider_connect_seconds",
            "From the start of a provider connection to the configured session.",
            buckets=_LATENCY,
            registry=r,
        )
        self._provider_errors = Counter(
            p + "provider_errors_total",
            "Provider connections that failed or were lost, by endReason, and error events (ErrorEvent).",
            ["reason"],
            registry=r,
        )
        self._reconnects = Counter(
            p + "provider_reconnects_total",
            "WebSockets replaced, by cause (lost, rotation) and outcome (reconnected, refused, failed).",
            ["cause", "outcome"],
            registry=r,
        )
        self._gap = Histogram(
            p + "provider_gap_seconds",
            "How long conversations were without a provider after a WebSocket was lost.",
            buckets=_LATENCY,
            registry=r,
        )
        self._rate_limit_left = Gauge(
            p + "provider_rate_limit_left_ratio",
            "Share of the provider's rate limit that was left when it was told last, by limit.",
            ["limit"],
            registry=r,
        )
        self._tool_calls = Counter(
            p + "tool_calls_total",
            "Function calls that are over, by route and outcome (ok or the error's code).",
            ["route", "outcome"],
            registry=r,
        )
        self._tool_seconds = Histogram(
            p + "tool_call_seconds",
            "From a function call to its result or error, by route.",
            ["route"],
            buckets=_LATENCY,
            registry=r,
        )
        self._scenarios = Gauge(p + "scenarios", "Processes of scenarios that live.", registry=r)
        self._scenario_starts = Histogram(
            p + "scenario_start_seconds",
            "From asking for a scenario's process to its listening.",
            buckets=_LATENCY,
            registry=r,
        )
        self._scenario_failures = Counter(
            p + "scenario_failures_total", "Scenarios that failed, and ended their session.", registry=r
        )
        self._recordings = Counter(
            p + "recordings_total", "Recordings that are over, by outcome.", ["outcome"], registry=r
        )
        published = Counter(
            p + "events_published_total", "Records acknowledged by NATS.", ["kind"], registry=r
        )
        retried = Counter(
            p + "events_retried_total", "Publications of records repeated.", ["kind"], registry=r
        )
        buffered = Gauge(p + "events_buffered", "Records that wait for NATS.", ["kind"], registry=r)
        self._buffered_bytes = Gauge(
            p + "events_buffered_bytes", "Bytes of records that wait for NATS.", registry=r
        )
        self._dropped = Counter(
            p + "events_dropped_total", "Records lost, by kind and cause.", ["kind", "cause"], registry=r
        )
        self._published = {k: published.labels(k) for k in _KINDS}
        self._retried = {k: retried.labels(k) for k in _KINDS}
        self._buffered = {k: buffered.labels(k) for k in _KINDS}
        self._nats = Gauge(p + "nats_connected", "1 while connected to NATS.", registry=r)
        self._degraded = Gauge(p + "journal_degraded", "1 while records are lost or late.", registry=r)
        self._collections = Histogram(
            p + "garbage_collection_seconds",
            "How long the event loop stood still while everything was looked through for garbage.",
            buckets=_LATENESS,
            registry=r,
        )
        self._log_dropped = Counter(
            p + "log_lines_dropped_total",
            "Log lines that came faster than they were read, and were dropped.",
            registry=r,
        )

    # Sessions

    def session_states(self, counts: dict[str, int]) -> None:
        """Set the gauge of live sessions; states missing in `counts` become 0."""
        for state, child in self._sessions.items():
            child.set(counts.get(state, 0))

    def collected(self, seconds: float) -> None:
        self._collections.observe(seconds)

    def log_line_dropped(self) -> None:
        self._log_dropped.inc()

    # Legs and audio

    def leg_attached(self) -> None:
        self._attaches.inc()
        self._legs.inc()

    def leg_detached(self, cause: str) -> None:
        self._detaches.labels(cause).inc()
        self._legs.dec()

    def leg_error(self, code: str) -> None:
        """A media stream ended with a gRPC error status (name of the status, such as `INVALID_ARGUMENT`)."""
        self._leg_errors.labels(code).inc()

    def frames_dropped(self, direction: str, cause: str, frames: int = 1) -> None:
        """`direction` is `in` or `out`; `cause` a word such as `stale`, `overflow`, `barge-in`."""
        self._frames_dropped.labels(direction, cause).inc(frames)

    def frame_gap(self) -> None:
        self._sequence_gaps.inc()

    def underrun(self, cause: UnderrunCause) -> None:
        self._underruns[cause].inc()

    def budget_overrun(self, budget: BudgetName) -> None:
        self._overruns[budget].inc()

    def frames_concealed(self, cause: str, frames: int) -> None:
        """`cause` is `lost` or `undecodable`."""
        self._frames_concealed.labels(cause).inc(frames)

    def recording(self, outcome: str) -> None:
        """`outcome` is `finished` or `failed`."""
        self._recordings.labels(outcome).inc()

    def first_audio(self, seconds: float) -> None:
        self._first_audio.observe(seconds)

    def barge_in(self, seconds: float) -> None:
        self._barge_in.observe(seconds)

    # Provider

    def provider_connected(self, seconds: float) -> None:
        self._provider_connects.inc()
        self._provider_connect_time.observe(seconds)

    def provider_error(self, reason: str) -> None:
        """`reason` is an endReason word, or `ErrorEvent` for an error event, before an end or not."""
        self._provider_errors.labels(reason).inc()

    def provider_reconnected(self, cause: str, gap: float) -> None:
        """`cause` is `lost` or `rotation`; `gap` seconds without a provider."""
        self._reconnects.labels(cause, "reconnected").inc()
        if cause == "lost":
            self._gap.observe(gap)

    def provider_not_reconnected(self, cause: str, outcome: str) -> None:
        """`outcome` is `refused` or `failed`."""
        self._reconnects.labels(cause, outcome).inc()

    def rate_limit_left(self, limit: str, share: float) -> None:
        """`limit` is `requests` or `tokens`; `share` 0 to 1."""
        self._rate_limit_left.labels(limit).set(share)

    # Function calls

    def tool_call(self, route: str, outcome: str, seconds: float) -> None:
        """`route` is a kind of route or `mcp`; `outcome` is `ok` or an error code."""
        self._tool_calls.labels(route, outcome).inc()
        self._tool_seconds.labels(route).observe(seconds)

    # Scenarios

    def scenario_process(self, change: int) -> None:
        """One more (1) or one less (-1) lives."""
        self._scenarios.inc(change)

    def scenario_started(self, seconds: float) -> None:
        self._scenario_starts.observe(seconds)

    def scenario_failed(self) -> None:
        self._scenario_failures.inc()

    # Events and journal; `kind` is `event` or `journal`

    def event_published(self, kind: str) -> None:
        self._published[kind].inc()

    def event_retried(self, kind: str) -> None:
        self._retried[kind].inc()

    def events_buffered(self, events: int, journal: int, size: int) -> None:
        self._buffered["event"].set(events)
        self._buffered["journal"].set(journal)
        self._buffered_bytes.set(size)

    def event_dropped(self, kind: str, cause: str, count: int = 1) -> None:
        """`cause` is `overflow`, `fenced`, `invalid` or `shutdown`."""
        self._dropped.labels(kind, cause).inc(count)

    def nats_connected(self, connected: bool) -> None:
        self._nats.set(connected)

    def journal_degraded(self, degraded: bool) -> None:
        self._degraded.set(degraded)
