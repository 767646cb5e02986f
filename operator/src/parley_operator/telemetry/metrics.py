"""The operator's own metrics: one method a fact, prefix `parley_operator_`, no label per session."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
MAX_AGENTS = 500
PHASES = ("Pending", "Ready", "Active", "Recovering", "Completed", "Failed", "Cancelled")


class Metrics:
    """All of them, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        p = "parley_operator_"
        self._reconciles = Counter(
            p + "reconciles_total", "Objects looked at.", ("kind", "outcome"), registry=r
        )
        self._duration = Histogram(
            p + "reconcile_duration_seconds", "Time of one look.", ("kind",), buckets=_FAST, registry=r
        )
        self._looks: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._queue = Gauge(p + "queue_depth", "Keys that wait to be looked at.", registry=r)
        self._placements = Counter(p + "placements_total", "Sessions given a place.", registry=r)
        self._placed_after = Histogram(
            p + "placement_duration_seconds",
            "From creation of a session to its place; creation times have whole seconds.",
            buckets=_SLOW,
            registry=r,
        )
        self._refusals = Counter(
            p + "refusals_total", "Sessions not accepted, each once a reason.", ("reason",), registry=r
        )
        self._admits = Counter(p + "admits_total", "Answers to Admit.", ("result",), registry=r)
        self._terminates = Counter(p + "terminates_total", "Answers to Terminate.", ("result",), registry=r)
        self._recoveries = Counter(
            p + "recoveries_total",
            "Sessions that lost their place.",
            ("reason",),
            registry=r,
        )
        self._recovered_after = Histogram(
            p + "recovery_duration_seconds",
            "From the loss of a session's place until it is ready again; losses have whole seconds.",
            buckets=_SLOW,
            registry=r,
        )
        self._migrations = Counter(
            p + "migrations_total", "Live moves of sessions between workers.", ("result",), registry=r
        )
        self._ended = Counter(p + "sessions_ended_total", "Sessions over.", ("reason",), registry=r)
        self._sessions = Gauge(p + "sessions", "VoiceSessions by phase.", ("phase",), registry=r)
        self._workers = Gauge(p + "workers", "Workers by what is known of them.", ("state",), registry=r)
        self._capacity = Gauge(p + "capacity", "Places of all workers that answer.", registry=r)
        self._reserved = Gauge(p + "reservations", "Places promised, Admit under way.", registry=r)
        self._strays = Gauge(p + "stray_sessions", "Sessions on workers without a VoiceSession.", registry=r)
        self._stray_brake = Gauge(
            p + "stray_brake",
            "1 while so many sessions have no VoiceSession that they are ended slowly or not at all.",
            registry=r,
        )
        self._strays_ended = Counter(
            p + "strays_ended_total", "Sessions ended because no VoiceSession accounts for them.", registry=r
        )
        self._worker_refusals = Counter(
            p + "worker_refusals_total",
            "Places that a worker did not give when asked, by its reason; another one is asked.",
            ("reason",),
            registry=r,
        )
        self._waiting = Gauge(
            p + "waiting_sessions",
            "VoiceSessions that wait for a place, by the pool they prefer and by why.",
            ("pool", "reason"),
            registry=r,
        )
        self._waiting_longest = Gauge(
            p + "waiting_longest_seconds", "How long the first of them waits.", registry=r
        )
        self._watch_age = Gauge(
            p + "worker_watch_age_seconds", "Longest silence among the workers.", registry=r
        )
        self._calls = Counter(
            p + "session_calls_total", "Calls of the session service.", ("method", "code"), registry=r
        )
        self._api_errors = Counter(
            p + "api_errors_total", "Failed calls of the API server.", ("verb", "code"), registry=r
        )
        agent = ("namespace", "agent", "generation")
        self._agent_sessions = Gauge(
            p + "agent_sessions",
            "Live sessions by the agent that they run as.",
            agent,
            registry=r,
        )
        self._agent_ended = Counter(
            p + "agent_sessions_ended_total",
            "Sessions over, by the agent that they ran as.",
            (*agent, "reason"),
            registry=r,
        )
        self._agent_labels: dict[tuple[str, str, str], None] = {}
        self._events = Counter(
            p + "events_total", "Kubernetes Events: posted, dropped or failed.", ("result",), registry=r
        )
        self._object_age = Gauge(
            p + "last_event_timestamp_seconds", "When an object was last heard of.", registry=r
        )
        self._leading = Gauge(p + "leading", "1 while this process leads.", registry=r)
        self._epoch = Gauge(
            p + "leader_epoch", "Epoch of this process's term; 0 while it follows.", registry=r
        )
        self._lease = Counter(
            p + "lease_transitions_total",
            "How this process came to lead and ceased to.",
            ("event",),
            registry=r,
        )
        self._watch_owes = Gauge(
            p + "watch_age_seconds",
            "Since when the watch of a kind owes a change that the API server has confirmed.",
            ("kind",),
            registry=r,
        )
        self._reaping = Gauge(p + "finished_to_delete", "Finished sessions whose time is over.", registry=r)
        for event in ("acquired", "lost", "released"):
            self._lease.labels(event)
        self._pool = Gauge(
            p + "pool_workers",
            "Workers of a pool: desired, ready, or draining.",
            ("namespace", "pool", "state"),
            registry=r,
        )
        self._queued = Gauge(
            p + "pool_queued_sessions", "Sessions that wait for the pool.", ("namespace", "pool"), registry=r
        )
        self._drains = Counter(
            p + "worker_drains_total", "Workers that were told to drain, by reason.", ("reason",), registry=r
        )
        for phase in PHASES:
            self._sessions.labels(phase)

    def lease(self, event: str, epoch: int) -> None:
        """`acquired`, `lost` or `released`."""
        self._lease.labels(event).inc()
        self._leading.set(event == "acquired")
        self._epoch.set(epoch)

    def idle(self) -> None:
        """The term is over: one who follows knows nothing of sessions and workers."""
        self.sessions({})
        self.workers({}, 0, 0.0)
        for gauge in (self._queue, self._reserved, self._strays, self._reaping):
            gauge.set(0)
        self._watch_owes.clear()

    def watch_age(self, kind: str, seconds: float) -> None:
        self._watch_owes.labels(kind).set(seconds)

    def reaping(self, count: int) -> None:
        self._reaping.set(count)

    def reconciled(self, kind: str, outcome: str, seconds: float) -> None:
        known = self._looks.get((kind, outcome))
        if known is None:
            known = self._reconciles.labels(kind, outcome), self._duration.labels(kind)
            self._looks[kind, outcome] = known
        known[0].inc()
        known[1].observe(seconds)

    def queue_depth(self, depth: int) -> None:
        self._queue.set(depth)

    def placed(self, after_seconds: float) -> None:
        self._placements.inc()
        self._placed_after.observe(max(0.0, after_seconds))

    def refused(self, reason: str) -> None:
        self._refusals.labels(reason).inc()

    def admitted(self, result: str) -> None:
        self._admits.labels(result).inc()

    def terminated(self, found: bool | None) -> None:
        self._terminates.labels("unanswered" if found is None else "found" if found else "unknown").inc()

    def recovery_begun(self, reason: str) -> None:
        self._recoveries.labels(reason).inc()

    def recovered(self, after_seconds: float) -> None:
        self._recovered_after.observe(max(0.0, after_seconds))

    def migrated(self, result: str) -> None:
        self._migrations.labels(result).inc()

    def ended(self, reason: str) -> None:
        self._ended.labels(reason).inc()

    def sessions(self, by_phase: Mapping[str, int]) -> None:
        for phase in PHASES:
            self._sessions.labels(phase).set(by_phase.get(phase, 0))

    def workers(self, by_state: Mapping[str, int], capacity: int, oldest_silence: float) -> None:
        for state in ("ready", "starting", "draining", "stopped", "silent"):
            self._workers.labels(state).set(by_state.get(state, 0))
        self._capacity.set(capacity)
        self._watch_age.set(oldest_silence)

    def pool(self, namespace: str, pool: str, desired: int, ready: int, draining: int, queued: int) -> None:
        for state, count in (("desired", desired), ("ready", ready), ("draining", draining)):
            self._pool.labels(namespace, pool, state).set(count)
        self._queued.labels(namespace, pool).set(queued)

    def pool_gone(self, namespace: str, pool: str) -> None:
        self._pool.remove_by_labels({"namespace": namespace, "pool": pool})
        self._queued.remove_by_labels({"namespace": namespace, "pool": pool})

    def drain_begun(self, reason: str) -> None:
        self._drains.labels(reason).inc()

    def agent_sessions(self, counts: Mapping[tuple[str, str, int], int]) -> None:
        self._agent_sessions.clear()
        for namespace, agent, generation in list(counts)[:MAX_AGENTS]:
            count = counts[namespace, agent, generation]
            self._agent_sessions.labels(namespace, agent, str(generation)).set(count)

    def agent_ended(self, namespace: str, agent: str, generation: int, reason: str) -> None:
        """States of agents beyond the first `MAX_AGENTS` are counted together."""
        labels = (namespace, agent, str(generation))
        if labels not in self._agent_labels and len(self._agent_labels) >= MAX_AGENTS:
            labels = ("", "", "")
        self._agent_labels[labels] = None
        self._agent_ended.labels(*labels, reason).inc()

    def event(self, result: str) -> None:
        self._events.labels(result).inc()

    def reservations(self, count: int) -> None:
        self._reserved.set(count)

    def strays(self, count: int) -> None:
        self._strays.set(count)

    def stray_brake(self, pulled: bool) -> None:
        self._stray_brake.set(pulled)

    def stray_ended(self) -> None:
        self._strays_ended.inc()

    def worker_refused(self, reason: str) -> None:
        self._worker_refusals.labels(reason).inc()

    def waiting(self, by_pool_and_reason: Mapping[tuple[str, str], int], longest: float) -> None:
        self._waiting.clear()
        for labels, count in by_pool_and_reason.items():
            self._waiting.labels(*labels).set(count)
        self._waiting_longest.set(longest)

    def api_error(self, verb: str, code: int) -> None:
        self._api_errors.labels(verb, str(code)).inc()

    def session_call(self, method: str, code: str) -> None:
        self._calls.labels(method, code).inc()

    def heard(self, at: float) -> None:
        self._object_age.set(at)

    def render(self) -> bytes:
        """The text exposition."""
        return generate_latest(self.registry)
