"""The sessions of this process: admission, lookup by what a caller shows, reports and their watchers."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from parley_worker.clock import Clock
from parley_worker.codec.control_pb import Endpoint
from parley_worker.core import events as ev
from parley_worker.core.admission import Admission, EndedMemory, Fence, Place, Refusal, WorkerState
from parley_worker.core.events import MovedAway
from parley_worker.core.model import EndReason, SessionConfig, SessionKey, SessionReport, SessionState
from parley_worker.core.saved import HandOver
from parley_worker.runtime.supervisor import Supervisor
from parley_worker.runtime.watching import Listener, Watcher, Watchers
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.ports import SessionPort

log = logging.getLogger(__name__)

Placement = tuple[str, int]


class Runner(SessionPort, Protocol):
    """One live session, as the registry sees it."""

    @property
    def report(self) -> SessionReport: ...

    @property
    def resume_sha256(self) -> tuple[bytes, ...]:
        """SHA-256 of every resume token that is good now; none before the first attach."""

    def run(self) -> Coroutine[Any, Any, SessionReport]: ...

    def terminate(self, reason: EndReason, message: str) -> None: ...

    def command(self, instruction: ev.CommandReceived | ev.ConfigChanged) -> bool: ...

    def announce_drain(self, deadline_unix: float) -> None: ...

    async def migrate(self, patience: float) -> HandOver | str:
        """Hold still and give the conversation away, or say why not."""

    def moved(self, to: MovedAway) -> bool:
        """Send the caller there; false where the session does not hold still any more."""

    def depart(self, cause: str) -> None:
        """End without a word: the session lives elsewhere."""

    def doubt(self) -> None:
        """The process slept: say nothing until it is known that the session was not placed elsewhere."""


class ShardDirectory(Protocol):
    """Which shard runs a session and where its callers attach."""

    def shard_of(self, uid: str) -> int: ...

    def endpoint(self, shard: int) -> Endpoint: ...


class OneShard:
    """A process that runs sessions itself: everything is on this shard."""

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self._endpoint = Endpoint("")

    def listen(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def shard_of(self, uid: str) -> int:
        return self._index

    def endpoint(self, shard: int) -> Endpoint:
        return self._endpoint


class SessionRegistry:
    """Live sessions by uid and attempt, and the memory of those that ended.

    A place is free the moment its session reports ENDED; the runner's last work (closing the provider) goes
    on for its bounded time.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        make_runner: Callable[[SessionConfig], Runner],
        supervisor: Supervisor,
        shards: ShardDirectory,
        clock: Clock,
        metrics: Metrics,
        overloaded: Callable[[], str | None] = lambda: None,
        watch_buffer: int = 1024,
    ) -> None:
        self.admission = admission
        self.shards = shards
        self._make_runner = make_runner
        self._supervisor = supervisor
        self._clock, self._metrics = clock, metrics
        self._overloaded = overloaded
        self._watchers = Watchers(watch_buffer)
        self._runners: dict[Placement, Runner] = {}
        self._configs: dict[Placement, SessionConfig] = {}
        self._tasks: dict[Placement, asyncio.Task[Any]] = {}
        self._reports: dict[Placement, SessionReport] = {}
        self._by_ticket: dict[bytes, Placement] = {}
        self._by_resume: dict[bytes, Placement] = {}
        self._by_uid: dict[str, Placement] = {}
        self._resume_of: dict[Placement, tuple[bytes, ...]] = {}
        self._ended: EndedMemory[SessionReport] = EndedMemory()
        self._drain_deadline: float | None = None
        self._states: Counter[str] = Counter()
        self.ended = 0
        """Sessions that ended so far."""
        metrics.capacity(admission.capacity)

    # Admission

    def admit(self, config: SessionConfig, fence: Fence) -> Place | Refusal:
        """Start the session, or confirm that it runs, or say why not."""
        key = config.key
        now = self._clock.monotonic()
        older = self._by_uid.get(key.uid)
        verdict = self.admission.admit(key.uid, key.attempt, fence, now, self._overloaded())
        if isinstance(verdict, Refusal):
            self._metrics.refused(verdict.reason)
            return verdict
        if not verdict.new:
            return verdict
        if verdict.replaces and older is not None:
            self._runners[older].depart("stale")
        self._metrics.admitted()
        self._start(config)
        return verdict

    def _start(self, config: SessionConfig) -> None:
        place = (config.key.uid, config.key.attempt)
        runner = self._make_runner(config)
        self._runners[place] = runner
        self._configs[place] = config
        self._by_uid[config.key.uid] = place
        if config.access.ticket_sha256:
            self._by_ticket[config.access.ticket_sha256] = place
        self.on_report(runner.report)
        self._tasks[place] = self._supervisor.spawn(
            f"session-{config.key.uid}-{config.key.attempt}", self._run(place, runner)
        )

    async def _run(self, place: Placement, runner: Runner) -> None:
        try:
            self.on_report(await runner.run())
        finally:
            last = self._reports.get(place)
            if last is not None and last.state is not SessionState.ENDED:
                self.on_report(
                    replace(
                        last,
                        state=SessionState.ENDED,
                        end_reason=EndReason.INTERNAL,
                        end_message="the worker failed to run the session",
                        ended_at=self._clock.wall(),
                    )
                )
            self._reports.pop(place, None)
            self._tasks.pop(place, None)
            self._runners.pop(place, None)

    # Reports

    def on_report(self, report: SessionReport) -> None:
        """A session's new state, identity or resume token. After ENDED nothing of it is taken."""
        place = (report.key.uid, report.key.attempt)
        before = self._reports.get(place)
        runner = self._runners.get(place)
        if runner is None or (before is not None and before.state is SessionState.ENDED):
            return
        self._reports[place] = report
        if report.state is SessionState.ENDED:
            self._forget(place, report)
        else:
            self._index_resume(place, runner.resume_sha256)
        if before is None or before.state is not report.state:
            self._count(before, report)
        if report.departed:
            # No end of the session: whoever watches learns that its place is free.
            self._watchers.tell(report)
            self._watchers.tell(None)
        elif report != before:
            self._watchers.tell(report)
            if before is None or report.state is SessionState.ENDED:
                self._watchers.tell(None)

    @property
    def live(self) -> int:
        """Sessions that have not ended."""
        return self._states.total()

    def _count(self, before: SessionReport | None, report: SessionReport) -> None:
        if before is not None:
            self._states[before.state.value] -= 1
        if report.state is SessionState.ENDED:
            self.ended += 1
        else:
            self._states[report.state.value] += 1
        self._metrics.session_states(self._states)

    def _forget(self, place: Placement, report: SessionReport) -> None:
        uid, attempt = place
        now = self._clock.monotonic()
        self.admission.ended(uid, attempt, now)
        if not report.departed:
            self._metrics.session_ended(report.end_reason or EndReason.INTERNAL)
        self._index_resume(place, ())
        ticket = self._configs.pop(place).access.ticket_sha256
        if self._by_ticket.get(ticket) == place:
            del self._by_ticket[ticket]
        if self._by_uid.get(uid) == place:
            del self._by_uid[uid]
            if not report.departed:
                self._ended.put(uid, report, now)

    def _index_resume(self, place: Placement, tokens: tuple[bytes, ...]) -> None:
        for old in self._resume_of.pop(place, ()):
            self._by_resume.pop(old, None)
        if tokens:
            self._by_resume.update(dict.fromkeys(tokens, place))
            self._resume_of[place] = tokens

    # Lookup, for the media server

    def find_by_ticket(self, ticket_sha256: bytes) -> SessionPort | None:
        return self._find(self._by_ticket.get(ticket_sha256))

    def find_by_resume(self, token_sha256: bytes) -> SessionPort | None:
        return self._find(self._by_resume.get(token_sha256))

    def find_by_uid(self, uid: str) -> SessionPort | None:
        return self._find(self._by_uid.get(uid))

    def _find(self, place: Placement | None) -> SessionPort | None:
        return self._runners.get(place) if place else None

    # Control

    def check(self, fence: Fence, *, instance_optional: bool = False) -> Refusal | None:
        return self.admission.check(fence, instance_optional=instance_optional)

    def check_attempt(self, key: SessionKey) -> Refusal | None:
        return self.admission.check_attempt(key.uid, key.attempt, self._clock.monotonic())

    def terminate(self, key: SessionKey, reason: EndReason, message: str) -> bool:
        """End that placement; false when it is not here."""
        runner = self._live(key)
        if runner:
            runner.terminate(reason, message)
        return runner is not None

    def command(self, key: SessionKey, instruction: ev.CommandReceived | ev.ConfigChanged) -> bool:
        """Pass an instruction to that placement; false when it is not here."""
        runner = self._live(key)
        return runner is not None and runner.command(instruction)

    async def migrate(self, key: SessionKey, patience: float) -> HandOver | str | None:
        """Ask that placement to hold still and give its conversation away; why not, or None when it is not
        here."""
        runner = self._live(key)
        return await runner.migrate(patience) if runner else None

    def moved(self, key: SessionKey, to: MovedAway) -> bool:
        """Send that placement's caller there; false when it is not here, or has gone on."""
        runner = self._live(key)
        return runner is not None and runner.moved(to)

    def fenced(self, key: SessionKey) -> None:
        """A newer attempt writes that placement's journal."""
        runner = self._runners.get((key.uid, key.attempt))
        if runner is not None:
            runner.depart("stale")

    def doubt(self) -> None:
        """The process slept: any session may have been placed elsewhere."""
        for place in list(self._by_uid.values()):
            self._runners[place].doubt()

    def _live(self, key: SessionKey) -> Runner | None:
        place = (key.uid, key.attempt)
        return self._runners.get(place) if self._by_uid.get(key.uid) == place else None

    # Draining and the end

    def drain(self, deadline_unix: float) -> None:
        """Admit nothing any more and tell every session when it must be over."""
        self.become(WorkerState.DRAINING)
        self._metrics.draining()
        for place in list(self._by_uid.values()):
            self._runners[place].announce_drain(deadline_unix)

    def terminate_all(self, reason: EndReason, message: str) -> None:
        for place in list(self._by_uid.values()):
            self._runners[place].terminate(reason, message)

    async def wait_empty(self, timeout: float) -> bool:
        """Wait until every runner has ended; false when `timeout` seconds passed first."""
        tasks = list(self._tasks.values())
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=max(timeout, 0))
        return not late

    def become(self, state: WorkerState) -> bool:
        changed = self.admission.become(state)
        if changed:
            log.info("worker is %s", state.value)
            self._watchers.tell(None)
        return changed

    # Watching

    def watch(self) -> Watcher:
        """Start a watch: every change from here on. End it with `unwatch`."""
        return self._watchers.add()

    def unwatch(self, watcher: Watcher) -> None:
        self._watchers.discard(watcher)

    def listen(self, listener: Listener) -> None:
        """Tell every change from here on to the listener, as long as the registry lives."""
        self._watchers.listen(listener)

    def reports(self) -> list[SessionReport]:
        """Every live session and those remembered after their end."""
        live = [self._reports[place] for place in self._by_uid.values() if place in self._reports]
        here = {report.key.uid for report in live}
        ended = self._ended.values(self._clock.monotonic())
        return live + [report for report in ended if report.key.uid not in here]
