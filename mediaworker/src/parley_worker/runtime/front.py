"""The sessions of all shards as the supervisor knows them: one admission, one memory, one set of watchers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from parley_worker.clock import Clock
from parley_worker.codec import control_pb
from parley_worker.codec.control_pb import Endpoint
from parley_worker.codec.shard_frames import Beat, Kind
from parley_worker.core.admission import Admission, EndedMemory, Fence, Refusal, RefusalReason, WorkerState
from parley_worker.core.lost import Closing, LostSession
from parley_worker.core.model import EndReason, SessionConfig, SessionKey, SessionReport, SessionState
from parley_worker.core.shards import TRANSITIONS, ShardState, ShardView, choose, share
from parley_worker.runtime.watching import Watcher, Watchers
from parley_worker.telemetry.process_metrics import SupervisorMetrics
from parley_worker.transport.front_server import Placed
from parley_worker.transport.shard_link import ShardLink

log = logging.getLogger(__name__)

QUIET_SECONDS = 1.0
"""Without a sign of life for so long a shard is given no more sessions."""

Placement = tuple[str, int]


@dataclass(slots=True)
class _Shard:
    """One place for a shard's process."""

    index: int
    capacity: int
    state: ShardState = ShardState.STARTING
    sessions: int = 0
    beat: Beat = field(default_factory=Beat)
    quiet: float = 0.0
    link: ShardLink | None = None
    endpoint: Endpoint = field(default_factory=lambda: Endpoint(""))

    def become(self, state: ShardState) -> None:
        assert state in TRANSITIONS[self.state], (self.index, self.state, state)
        self.state = state

    def view(self) -> ShardView:
        """As admission sees it: a link that is lost is known before the process is buried."""
        gone = self.state is ShardState.UP and self.link is not None and self.link.lost
        short = f"nothing was heard of it for {self.quiet:.1f} s" if self.quiet >= QUIET_SECONDS else ""
        state = ShardState.DOWN if gone else self.state
        return ShardView(self.index, state, self.capacity, self.sessions, self.beat.overloaded or short)


@dataclass(slots=True)
class _Held:
    """A place that was given. `settled`: its shard has said yes, in its answer or by a report."""

    key: SessionKey
    shard: int
    link: ShardLink
    privacy: bool
    recorded: bool
    closing: Closing
    settled: bool = False
    report: SessionReport | None = None


class Front:
    """Gives the places of all shards and follows their sessions.

    The only authority over fences and attempts: what a shard refuses besides is the state of that shard.
    `on_lost` is told of each session that went with its shard.
    """

    def __init__(
        self,
        *,
        admission: Admission,
        shards: int,
        clock: Clock,
        metrics: SupervisorMetrics,
        on_lost: Callable[[LostSession], None] = lambda lost: None,
        watch_buffer: int = 1024,
    ) -> None:
        self.admission = admission
        self.shards = self
        self._shards = [_Shard(n, share(admission.capacity, shards, n)) for n in range(shards)]
        self._clock, self._metrics, self._on_lost = clock, metrics, on_lost
        self._held: dict[Placement, _Held] = {}
        self._by_uid: dict[str, Placement] = {}
        self._ended: EndedMemory[SessionReport] = EndedMemory()
        self._watchers = Watchers(watch_buffer)
        self._empty = asyncio.Event()
        self._empty.set()
        self._drain_deadline: float | None = None
        self._count_places()

    # Admission

    def place(self, config: SessionConfig, fence: Fence) -> Placed | Refusal:
        """Take a place on a shard, find the one that the session has, or say why there is none."""
        key = config.key
        older = self._held.get(self._by_uid.get(key.uid, ("", 0)))
        chosen = choose(self._views(), older.shard if older else None)
        short = chosen if isinstance(chosen, Refusal) else None
        overloaded = short.message if short and short.reason is RefusalReason.OVERLOADED else None
        verdict = self.admission.admit(key.uid, key.attempt, fence, self._clock.monotonic(), overloaded)
        if isinstance(verdict, Refusal):
            return verdict
        if not verdict.new:
            return Placed(self._held[key.uid, key.attempt].link)
        if isinstance(chosen, Refusal):
            self.admission.withdraw(key.uid, key.attempt)
            return chosen
        link = self._shards[chosen].link
        assert link is not None
        closing = Closing.ATTEMPT if config.recovery.outlives_worker else Closing.SESSION
        held = _Held(key, chosen, link, config.privacy, config.recording is not None, closing)
        self._held[key.uid, key.attempt] = held
        self._by_uid[key.uid] = (key.uid, key.attempt)
        self._shards[chosen].sessions += 1
        self._empty.clear()
        elsewhere = older is not None and older.shard != chosen
        return Placed(link, (older.link, older.key.attempt) if older is not None and elsewhere else None)

    def settle(self, key: SessionKey, link: ShardLink) -> bool:
        """The shard has said yes. False: it was lost since, and nobody knows of the session."""
        held = self._held.get((key.uid, key.attempt))
        if link.lost or (held is not None and held.link is not link):
            return False
        if held is not None:
            self._settled(held)
        return True

    def _settled(self, held: _Held) -> None:
        if not held.settled:
            held.settled = True
            self._metrics.admitted()

    def withdraw(self, key: SessionKey, overloaded: str = "") -> None:
        """The shard has said no, or was lost before it said anything: the place is free as if never taken.

        `overloaded`: what is short there, which its next sign of life would have told.
        """
        held = self._held.get((key.uid, key.attempt))
        if held is None or held.settled:
            return
        shard = self._shards[held.shard]
        if overloaded:
            shard.beat = replace(shard.beat, overloaded=overloaded)
        self._free(held)
        self.admission.withdraw(key.uid, key.attempt)
        attempts = [attempt for uid, attempt in self._held if uid == key.uid]
        if attempts:
            self._by_uid[key.uid] = (key.uid, max(attempts))

    def link_of(self, key: SessionKey) -> ShardLink | None:
        """The shard that runs this placement, or None."""
        place = (key.uid, key.attempt)
        held = self._held.get(place)
        return held.link if held and self._by_uid.get(key.uid) == place else None

    def check(self, fence: Fence, *, instance_optional: bool = False) -> Refusal | None:
        return self.admission.check(fence, instance_optional=instance_optional)

    def check_attempt(self, key: SessionKey) -> Refusal | None:
        return self.admission.check_attempt(key.uid, key.attempt, self._clock.monotonic())

    def _views(self) -> list[ShardView]:
        return [shard.view() for shard in self._shards]

    def _count_places(self) -> None:
        """A shard that is down has no places: nobody may count on them."""
        self.admission.capacity = sum(s.capacity for s in self._shards if s.state is ShardState.UP)
        self._metrics.capacity(self.admission.capacity)

    # Shards

    @property
    def up(self) -> int:
        """Shards that serve."""
        return sum(shard.state is ShardState.UP for shard in self._shards)

    @property
    def draining(self) -> bool:
        return self._drain_deadline is not None

    @property
    def degraded(self) -> bool:
        """True while records of a shard are late or lost on the way to NATS."""
        return any(shard.beat.degraded for shard in self._shards)

    def shard_of(self, uid: str) -> int:
        held = self._held.get(self._by_uid.get(uid, ("", 0)))
        return held.shard if held else 0

    def endpoint(self, shard: int) -> Endpoint:
        return self._shards[shard].endpoint

    def links(self) -> dict[int, ShardLink]:
        """Of every shard that serves."""
        return {s.index: s.link for s in self._shards if s.state is ShardState.UP and s.link is not None}

    def shard_starting(self, index: int) -> None:
        """A new process takes the place of one that was lost."""
        self._shards[index].become(ShardState.STARTING)

    def shard_up(self, index: int, link: ShardLink, endpoint: Endpoint) -> None:
        """The shard serves at that endpoint."""
        shard = self._shards[index]
        shard.become(ShardState.UP)
        shard.link, shard.endpoint, shard.beat, shard.quiet = link, endpoint, Beat(), 0.0
        self._metrics.shard_up(index, True)
        self._count_places()
        if self._drain_deadline is not None:
            self._tell_drain(link)
        self._watchers.tell(None)

    def shard_heard(self, index: int, kind: Kind, body: bytes) -> None:
        """What a shard says by itself."""
        if kind is Kind.BEAT:
            self._shards[index].beat = Beat.decode(body)
        elif kind is Kind.REPORT:
            self._on_report(index, control_pb.read_session_report(body))
        elif kind is Kind.DEPARTED:
            self._on_departed(index, control_pb.read_session_report(body))

    def shard_quiet(self, index: int, seconds: float) -> None:
        """For how long nothing was heard of the shard."""
        self._shards[index].quiet = seconds

    def shard_lost(self, index: int, words: str, *, again: bool) -> None:
        """The shard's process is gone, and its sessions with it. `again`: it will be started again."""
        shard = self._shards[index]
        shard.become(ShardState.DOWN if again else ShardState.STOPPED)
        shard.link, shard.beat = None, Beat()
        self._metrics.shard_up(index, False)
        self._count_places()
        # Who asked for one that is not settled still waits, and will take another place.
        for held in [h for h in self._held.values() if h.shard == index and h.settled]:
            self._lose(held, words)
        self._watchers.tell(None)

    def _lose(self, held: _Held, words: str) -> None:
        before = held.report or SessionReport(held.key, SessionState.CONNECTING, shard=held.shard)
        report = replace(
            before,
            state=SessionState.ENDED,
            end_reason=EndReason.SHARD_LOST,
            end_message=words,
            ended_at=self._clock.wall(),
        )
        self._finish(held, report)
        self._on_lost(LostSession(report, held.privacy, held.recorded, held.closing))

    # Reports

    def _on_report(self, index: int, report: SessionReport) -> None:
        held = self._held.get((report.key.uid, report.key.attempt))
        if held is None or held.shard != index:
            return
        self._settled(held)
        before, held.report = held.report, report
        if report.state is SessionState.ENDED:
            self._finish(held, report)
        elif report != before:
            self._watchers.tell(report)
            if before is None:
                self._watchers.tell(None)

    def _on_departed(self, index: int, report: SessionReport) -> None:
        """It lives elsewhere: an end without a reason is no end of the session."""
        held = self._held.get((report.key.uid, report.key.attempt))
        if held is None or held.shard != index:
            return
        self._settled(held)
        self._free(held)
        self.admission.ended(report.key.uid, report.key.attempt, self._clock.monotonic())
        self._watchers.tell(report)
        self._watchers.tell(None)

    def _finish(self, held: _Held, report: SessionReport) -> None:
        uid, attempt = held.key.uid, held.key.attempt
        newest = self._by_uid.get(uid) == (uid, attempt)
        now = self._clock.monotonic()
        self._free(held)
        self.admission.ended(uid, attempt, now)
        if newest:
            self._ended.put(uid, report, now)
        self._metrics.session_ended(report.end_reason or EndReason.INTERNAL)
        self._watchers.tell(report)
        self._watchers.tell(None)

    def _free(self, held: _Held) -> None:
        place = (held.key.uid, held.key.attempt)
        del self._held[place]
        self._shards[held.shard].sessions -= 1
        if self._by_uid.get(held.key.uid) == place:
            del self._by_uid[held.key.uid]
        if not self._held:
            self._empty.set()

    # Draining and the end

    def drain(self, deadline_unix: float) -> None:
        """Admit nothing any more; every shard tells its sessions when they must be over."""
        self._drain_deadline = deadline_unix
        self.become(WorkerState.DRAINING)
        self._metrics.draining()
        for link in self.links().values():
            self._tell_drain(link)

    def _tell_drain(self, link: ShardLink) -> None:
        left = max(0.0, (self._drain_deadline or 0.0) - self._clock.wall())
        link.send(Kind.DRAIN, repr(left).encode())

    def terminate_all(self, reason: EndReason, message: str) -> None:
        """The drain's deadline is now, on every shard."""
        for link in self.links().values():
            link.send(Kind.HURRY)

    async def wait_empty(self, timeout: float) -> bool:
        """Wait until no session is left; false when `timeout` seconds passed first."""
        try:
            async with asyncio.timeout(max(timeout, 0)):
                await self._empty.wait()
        except TimeoutError:
            return not self._held
        return True

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

    def reports(self) -> list[SessionReport]:
        """Every live session and those remembered after their end."""
        held = [self._held[place] for place in self._by_uid.values()]
        live = [h.report for h in held if h.report is not None]
        here = {report.key.uid for report in live}
        ended = self._ended.values(self._clock.monotonic())
        return live + [report for report in ended if report.key.uid not in here]
