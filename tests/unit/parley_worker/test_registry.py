"""The registry with scripted sessions: crashes, lookups, watchers, drain; and what logs and metrics show."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from parley_worker.core.admission import Admission, Fence, Place, Refusal, RefusalReason, WorkerState
from parley_worker.core.model import (
    AccessConfig,
    EndReason,
    LimitsConfig,
    ProviderConfig,
    Secret,
    SessionConfig,
    SessionKey,
    SessionReport,
    SessionState,
)
from parley_worker.runtime.drain import Drain, within_grace
from parley_worker.runtime.registry import OneShard, SessionRegistry
from parley_worker.runtime.supervisor import Supervisor
from parley_worker.telemetry.lag import LagProbe
from parley_worker.telemetry.logging import JsonFormatter, redact
from parley_worker.telemetry.metrics import Metrics

FENCE = Fence(1, "me")


class FakeClock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_000_000


class FakeRunner:
    """Runs until terminated; `crash` makes it fail."""

    def __init__(self, config: SessionConfig, registry: Registry) -> None:
        self.config, self._registry = config, registry
        self.report = SessionReport(config.key, SessionState.CONNECTING)
        self.resume_sha256: tuple[bytes, ...] = ()
        self.announced: list[float] = []
        self._over = asyncio.Event()
        self.crash = False

    async def run(self) -> SessionReport:
        await self._over.wait()
        if self.crash:
            raise RuntimeError("a bug")
        return self.report

    def say(self, **changes: Any) -> None:
        self.report = replace(self.report, **changes)
        self._registry.registry.on_report(self.report)

    def fail(self) -> None:
        self.crash = True
        self._over.set()

    def depart(self, cause: str) -> None:
        self.terminate(EndReason.WORKER_LOST, cause)

    def terminate(self, reason: EndReason, message: str) -> None:
        self.say(state=SessionState.ENDED, end_reason=reason, end_message=message)
        self._over.set()

    def command(self, client_event: dict[str, Any] | None, clear: bool) -> None:
        raise NotImplementedError

    def announce_drain(self, deadline_unix: float) -> None:
        self.announced.append(deadline_unix)


class Registry:
    """A registry of fake runners."""

    def __init__(self, capacity: int = 10, watch_buffer: int = 100) -> None:
        self.metrics = Metrics()
        self.clock = FakeClock()
        self.supervisor = Supervisor(self.metrics)
        self.runners: dict[tuple[str, int], FakeRunner] = {}
        self.registry = SessionRegistry(
            admission=Admission(capacity, "me"),
            make_runner=self._make,  # type: ignore[arg-type]
            supervisor=self.supervisor,
            shards=OneShard(),
            clock=self.clock,
            metrics=self.metrics,
            watch_buffer=watch_buffer,
        )
        self.registry.become(WorkerState.READY)

    def _make(self, config: SessionConfig) -> FakeRunner:
        runner = FakeRunner(config, self)
        self.runners[config.key.uid, config.key.attempt] = runner
        return runner

    def admit(self, uid: str, attempt: int = 1, ticket: bytes = b"") -> Place | Refusal:
        config = SessionConfig(
            key=SessionKey("ns", uid, uid, attempt),
            provider=ProviderConfig("wss://x", "ga", "m", Secret("k")),
            session={},
            greet=False,
            limits=LimitsConfig(1, 1, 1, 1),
            access=AccessConfig(ticket),
        )
        return self.registry.admit(config, FENCE)

    def states(self) -> dict[str, SessionState]:
        return {report.key.uid: report.state for report in self.registry.reports()}


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_crash_ends_its_session_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    host = Registry()
    for uid in ("a", "b"):
        host.admit(uid)
    host.runners["a", 1].fail()
    await settle()
    reports = {r.key.uid: r for r in host.registry.reports()}
    assert reports["a"].end_reason is EndReason.INTERNAL
    assert reports["b"].state is SessionState.CONNECTING
    assert host.registry.admission.sessions == 1
    assert 'sessions_ended_total{reason="Internal"} 1.0' in host.metrics.render().decode()
    assert "parley_worker_task_crashes_total 1.0" in host.metrics.render().decode()
    assert not host.supervisor.failed.done()
    assert "session-a-1 crashed" in caplog.text
    await host.supervisor.stop()


async def test_callers_find_sessions_by_what_they_hold() -> None:
    host = Registry()
    host.admit("a", ticket=b"t" * 32)
    runner = host.runners["a", 1]
    registry = host.registry
    assert registry.find_by_ticket(b"t" * 32) is runner
    assert registry.find_by_uid("a") is runner
    assert registry.find_by_ticket(b"") is None
    assert registry.find_by_resume(b"") is None
    runner.resume_sha256 = (b"r1",)
    runner.say(state=SessionState.ACTIVE)
    assert registry.find_by_resume(b"r1") is runner
    runner.resume_sha256 = (b"r2", b"r1")
    runner.say()
    assert registry.find_by_resume(b"r1") is runner
    runner.resume_sha256 = (b"r3", b"r2")
    runner.say()
    assert registry.find_by_resume(b"r1") is None
    assert registry.find_by_resume(b"r3") is runner
    assert registry.find_by_resume(b"r2") is runner
    runner.terminate(EndReason.TERMINATED, "")
    for found in (
        registry.find_by_ticket(b"t" * 32),
        registry.find_by_resume(b"r2"),
        registry.find_by_uid("a"),
    ):
        assert found is None
    await settle()
    await host.supervisor.stop()


async def test_the_place_is_free_when_the_end_is_reported() -> None:
    host = Registry(capacity=1)
    host.admit("a")
    refusal = host.admit("b")
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.FULL
    host.runners["a", 1].terminate(EndReason.CALLER_HANGUP, "")
    assert isinstance(host.admit("b"), Place)
    assert host.states() == {"a": SessionState.ENDED, "b": SessionState.CONNECTING}
    await host.supervisor.stop()


async def test_a_replaced_attempt_leaves_the_newer_ones_place_and_ticket() -> None:
    host = Registry()
    host.admit("a", 1, ticket=b"t" * 32)
    host.admit("a", 2, ticket=b"t" * 32)
    await settle()
    newer = host.runners["a", 2]
    assert host.runners["a", 1].report.state is SessionState.ENDED
    assert host.registry.find_by_ticket(b"t" * 32) is newer
    assert host.registry.admission.sessions == 1
    assert host.states() == {"a": SessionState.CONNECTING}
    await host.supervisor.stop()


async def test_watchers_get_changes_in_order_and_a_slow_one_is_over() -> None:
    host = Registry(watch_buffer=4)
    slow = host.registry.watch()
    quick = host.registry.watch()
    seen = []
    host.admit("a")
    for number in range(3):
        host.runners["a", 1].say(web_socket_id=str(number))
        while (changes := await quick.next(0)) or not quick._queue.empty():
            seen += changes
    assert [r.web_socket_id for r in seen if r.web_socket_id] == ["0", "1", "2"]
    assert slow.overflowed
    assert not quick.overflowed
    host.registry.unwatch(quick)
    host.runners["a", 1].say(web_socket_id="3")
    assert await quick.next(0) == []
    await host.supervisor.stop()


async def test_an_unchanged_report_is_not_told_again() -> None:
    host = Registry()
    host.admit("a")
    watcher = host.registry.watch()
    host.runners["a", 1].say()
    assert await watcher.next(0) == []
    await host.supervisor.stop()


async def test_a_drain_ends_when_the_last_session_does() -> None:
    host = Registry()
    host.admit("a")
    drain = Drain(host.registry, host.supervisor, host.clock)
    assert drain.deadline_unix is None
    deadline = drain.begin(60)
    assert deadline == host.clock.wall() + 60
    assert host.runners["a", 1].announced == [deadline]
    await settle()
    assert not drain.done.is_set()
    host.runners["a", 1].terminate(EndReason.CALLER_HANGUP, "")
    async with asyncio.timeout(2):
        await drain.done.wait()
    await host.supervisor.stop()


async def test_a_later_drain_deadline_wins_and_hurrying_ends_at_once() -> None:
    host = Registry()
    host.admit("a")
    drain = Drain(host.registry, host.supervisor, host.clock)
    first = drain.begin(60)
    assert drain.begin(30) == first
    later = drain.begin(90)
    assert later == first + 30
    assert host.runners["a", 1].announced == [first, later]
    await settle()
    drain.hurry()
    async with asyncio.timeout(2):
        await drain.done.wait()
    assert host.runners["a", 1].report.end_reason is EndReason.DRAIN_DEADLINE
    await host.supervisor.stop()


async def test_an_earlier_deadline_holds_when_it_is_to_hold_exactly() -> None:
    host = Registry()
    host.admit("a")
    drain = Drain(host.registry, host.supervisor, host.clock)
    first = drain.begin(60)
    assert drain.begin(10, exactly=True) == first - 50
    assert drain.deadline_unix == first - 50
    assert host.runners["a", 1].announced == [first, first - 50]
    await settle()
    assert drain.begin(0, exactly=True) == first - 60
    async with asyncio.timeout(2):
        await drain.done.wait()
    assert host.runners["a", 1].report.end_reason is EndReason.DRAIN_DEADLINE
    await host.supervisor.stop()


@pytest.mark.parametrize(
    ("grace", "seconds"), [(0.0, 60.0), (90.0, 60.0), (73.0, 60.0), (30.0, 17.0), (10.0, 0.0)]
)
def test_a_drain_ends_within_the_grace_given(grace: float, seconds: float) -> None:
    assert within_grace(60.0, grace, 5.0) == seconds


async def test_a_vital_task_that_crashes_is_told() -> None:
    host = Registry()

    async def bug() -> None:
        raise RuntimeError("broken")

    host.supervisor.spawn("vital", bug(), vital=True)
    await settle()
    assert isinstance(host.supervisor.failed.result(), RuntimeError)


def test_lag_is_the_median() -> None:
    probe = LagProbe(Metrics())
    assert probe.seconds == 0
    for lag in (0.1, 9.0, 0.2):
        probe.observe(lag)
    assert probe.seconds == 0.2


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hush-hush",
        '{"api_key": "hush-hush"}',
        "connecting to nats://user:hush-hush@host:4222",
        "key sk-hush-hush is wrong",
        "ticket=hush-hush&x=1",
    ],
)
def test_secrets_are_masked_in_logs(text: str) -> None:
    assert "hush-hush" not in redact(text)
    record = logging.LogRecord("parley_worker", logging.INFO, "f", 1, "said %s", (text,), None)
    record.fields = {"also": text}
    line = json.loads(JsonFormatter({"worker": "w"}).format(record))
    assert "hush-hush" not in str(line)
    assert line["worker"] == "w"
    assert line["level"] == "info"


def test_no_metric_has_a_label_per_session() -> None:
    metrics = Metrics("1.0")
    names = set()
    for family in metrics.registry.collect():
        names.add(family.name)
        for sample in family.samples:
            assert set(sample.labels) <= {
                *(
                    "compiled",
                    "version",
                    "shard",
                    "budget",
                    "state",
                    "reason",
                    "cause",
                    "code",
                    "direction",
                    "kind",
                    "le",
                    "generation",
                )
            }
        assert family.documentation
    assert {n for n in names if n.startswith("parley_worker_")} > {
        "parley_worker_sessions",
        "parley_worker_first_audio_seconds",
        "parley_worker_event_loop_lag_seconds",
    }
