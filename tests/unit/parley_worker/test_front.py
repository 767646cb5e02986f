"""The supervisor's knowledge of its shards' sessions, with links that are played."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest
from parley_worker.codec import control_pb
from parley_worker.codec.control_pb import Endpoint
from parley_worker.codec.shard_frames import (
    HEADER_BYTES,
    MAX_BODY,
    Beat,
    Boot,
    FrameError,
    Kind,
    Ready,
    encode,
    parse_header,
)
from parley_worker.core.admission import Admission, Fence, Refusal, RefusalReason, WorkerState
from parley_worker.core.agent import RecoveryConfig
from parley_worker.core.lost import Closing, LostSession
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
from parley_worker.runtime.front import Front
from parley_worker.telemetry.process_metrics import SupervisorMetrics
from parley_worker.transport.front_server import Placed
from parley_worker.transport.shard_link import ShardLink

FENCE = Fence(1, "me")


class FakeClock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_000_000


class FakeLink:
    """A shard's link that keeps what is sent."""

    def __init__(self) -> None:
        self.lost = False
        self.sent: list[tuple[Kind, bytes]] = []

    def send(self, kind: Kind, body: bytes = b"", number: int = 0) -> None:
        self.sent.append((kind, body))


class Shards:
    """A front with so many shards, all of them up."""

    def __init__(self, shards: int = 2, capacity: int = 4) -> None:
        self.metrics = SupervisorMetrics()
        self.lost: list[LostSession] = []
        self.front = Front(
            admission=Admission(capacity, "me"),
            shards=shards,
            clock=FakeClock(),
            metrics=self.metrics,
            on_lost=self.lost.append,
        )
        self.links = [self.up(n) for n in range(shards)]
        self.front.become(WorkerState.READY)

    def up(self, index: int) -> FakeLink:
        link = FakeLink()
        self.front.shard_up(index, cast(ShardLink, link), Endpoint(f"h:{index}"))
        return link

    def place(self, uid: str, attempt: int = 1, epoch: int = 1) -> Placed | Refusal:
        return self.front.place(config(uid, attempt), Fence(epoch, "me"))

    def admit(self, uid: str, attempt: int = 1) -> int:
        """Place and settle; the shard."""
        placed = self.place(uid, attempt)
        assert isinstance(placed, Placed), placed
        assert self.front.settle(config(uid, attempt).key, placed.link)
        return self.links.index(cast(FakeLink, placed.link))

    def report(self, shard: int, uid: str, state: SessionState, attempt: int = 1, **fields: Any) -> None:
        report = SessionReport(config(uid, attempt).key, state, shard=shard, **fields)
        body = control_pb.session_report(report, Endpoint("h:1")).SerializeToString()
        self.front.shard_heard(shard, Kind.REPORT, body)

    def lose(self, index: int) -> None:
        self.links[index].lost = True
        self.front.shard_lost(index, f"shard {index} was killed", again=True)

    def shown(self, line: str) -> bool:
        return line in self.metrics.render().decode().splitlines()


def config(uid: str, attempt: int = 1) -> SessionConfig:
    return SessionConfig(
        key=SessionKey("ns", "call", uid, attempt),
        provider=ProviderConfig("ws://h", "ga", "m", Secret("k")),
        session={},
        greet=False,
        limits=LimitsConfig(1, 1, 1, 1),
        access=AccessConfig(b""),
    )


def reason(verdict: Placed | Refusal) -> RefusalReason:
    assert isinstance(verdict, Refusal), verdict
    return verdict.reason


async def test_places_are_spread_and_given_once() -> None:
    shards = Shards(2, 3)
    assert [shards.admit(uid) for uid in ("a", "b", "c")] == [0, 1, 0]
    assert reason(shards.place("d")) is RefusalReason.FULL
    again = shards.place("b")
    assert isinstance(again, Placed)
    assert again.link is cast(Any, shards.links[1])
    assert shards.front.shard_of("b") == 1
    assert shards.shown("parley_worker_admissions_total 3.0")
    assert shards.shown("parley_worker_capacity_sessions 3.0")


async def test_a_no_of_the_shard_leaves_no_trace() -> None:
    shards = Shards(1, 1)
    assert isinstance(shards.place("a"), Placed)
    shards.front.withdraw(config("a").key)
    assert shards.front.admission.sessions == 0
    assert shards.admit("b") == 0
    assert await shards.front.wait_empty(0) is False
    assert shards.shown("parley_worker_admissions_total 1.0")


async def test_a_no_to_a_newer_attempt_keeps_the_older_one() -> None:
    shards = Shards(1, 2)
    shards.admit("a")
    shards.report(0, "a", SessionState.READY)
    assert isinstance(shards.place("a", 2), Placed)
    shards.front.withdraw(config("a", 2).key)
    assert shards.front.link_of(config("a").key) is not None
    assert [r.key.attempt for r in shards.front.reports()] == [1]
    shards.report(0, "a", SessionState.ENDED, end_reason=EndReason.CALLER_HANGUP)
    assert await shards.front.wait_empty(0)


async def test_a_newer_attempt_elsewhere_names_the_older_one() -> None:
    shards = Shards(2, 4)
    assert shards.admit("a") == 0
    shards.front.shard_heard(0, Kind.BEAT, Beat("lags").encode())
    placed = shards.place("a", 2)
    assert isinstance(placed, Placed)
    assert placed.link is cast(Any, shards.links[1])
    assert placed.older == (cast(Any, shards.links[0]), 1)


async def test_a_lost_shard_takes_its_own_sessions_and_places() -> None:
    shards = Shards(2, 4)
    watcher = shards.front.watch()
    for uid in ("a", "b"):
        shards.admit(uid)
    shards.report(0, "a", SessionState.ACTIVE, started_at=5.0)
    shards.lose(0)
    assert [lost.report.key.uid for lost in shards.lost] == ["a"]
    report = shards.lost[0].report
    assert (report.end_reason, report.end_message) == (EndReason.SHARD_LOST, "shard 0 was killed")
    assert (report.started_at, report.ended_at) == (5.0, 1_001_000.0)
    told = [await watcher.next(0.1) for _ in range(4)]
    assert [report] in told
    assert shards.front.admission.capacity == 2
    assert shards.shown("parley_worker_capacity_sessions 2.0")
    assert shards.shown('parley_worker_sessions_ended_total{reason="ShardLost"} 1.0')
    assert shards.shown('parley_worker_shard_up{shard="0"} 0.0')
    assert reason(shards.place("a")) is RefusalReason.ENDED
    assert shards.admit("a", 2) == 1
    assert reason(shards.place("c")) is RefusalReason.FULL
    shards.front.shard_starting(0)
    shards.links[0] = shards.up(0)
    assert shards.admit("c") == 0


async def test_a_session_that_outlives_its_worker_is_not_told_to_have_ended() -> None:
    shards = Shards(1, 2)
    kept = replace(config("a"), recovery=RecoveryConfig(outlives_worker=True))
    for one in (kept, config("b")):
        placed = shards.front.place(one, FENCE)
        assert isinstance(placed, Placed)
        assert shards.front.settle(one.key, placed.link)
    shards.lose(0)
    closing = {lost.report.key.uid: lost.closing for lost in shards.lost}
    assert closing == {"a": Closing.ATTEMPT, "b": Closing.SESSION}


async def test_a_session_that_was_answered_and_never_reported_is_lost_too() -> None:
    shards = Shards(1, 1)
    shards.admit("a")
    shards.lose(0)
    assert [lost.report.key.uid for lost in shards.lost] == ["a"]
    assert shards.front.reports()[0].end_reason is EndReason.SHARD_LOST


async def test_an_admit_under_way_is_not_lost_but_tried_elsewhere() -> None:
    shards = Shards(2, 4)
    placed = shards.place("a")
    assert isinstance(placed, Placed)
    shards.lose(0)
    assert shards.lost == []
    assert not shards.front.settle(config("a").key, placed.link)
    shards.front.withdraw(config("a").key)
    assert shards.admit("a") == 1


async def test_a_lost_link_is_known_before_the_process_is_buried() -> None:
    shards = Shards(2, 4)
    shards.links[0].lost = True
    assert shards.admit("a") == 1
    shards.links[1].lost = True
    assert reason(shards.place("b")) is RefusalReason.OVERLOADED


async def test_what_a_shard_says_late_changes_nothing() -> None:
    shards = Shards(2, 4)
    shards.admit("a")
    shards.report(1, "a", SessionState.READY)
    shards.report(0, "stranger", SessionState.READY)
    assert shards.front.reports() == []
    shards.report(0, "a", SessionState.ENDED, end_reason=EndReason.CALLER_HANGUP)
    shards.report(0, "a", SessionState.READY)
    assert [r.state for r in shards.front.reports()] == [SessionState.ENDED]
    shards.lose(0)
    assert shards.lost == []


async def test_lagging_and_silent_shards_are_left_out() -> None:
    shards = Shards(2, 8)
    shards.front.shard_heard(0, Kind.BEAT, Beat("the event loop lags 700 ms", degraded=True).encode())
    assert shards.front.degraded
    assert [shards.admit(uid) for uid in ("a", "b")] == [1, 1]
    shards.front.shard_quiet(1, 1.5)
    verdict = shards.place("c")
    assert isinstance(verdict, Refusal)
    assert verdict.reason is RefusalReason.OVERLOADED
    assert verdict.message == "shard 0: the event loop lags 700 ms: try another worker"
    shards.front.shard_heard(0, Kind.BEAT, Beat().encode())
    assert shards.admit("c") == 0
    assert not shards.front.degraded


async def test_draining_reaches_every_shard_and_those_that_come_up_later() -> None:
    shards = Shards(2, 4)
    shards.admit("a")
    shards.lose(1)
    shards.front.drain(1_001_030.0)
    assert shards.links[0].sent == [(Kind.DRAIN, b"30.0")]
    assert reason(shards.place("b")) is RefusalReason.DRAINING
    shards.front.shard_starting(1)
    assert shards.up(1).sent == [(Kind.DRAIN, b"30.0")]
    shards.front.terminate_all(EndReason.DRAIN_DEADLINE, "")
    assert shards.links[0].sent[-1] == (Kind.HURRY, b"")
    assert await shards.front.wait_empty(0.01) is False
    shards.report(0, "a", SessionState.ENDED, end_reason=EndReason.DRAIN_DEADLINE)
    assert await shards.front.wait_empty(0.01) is True


async def test_one_authority_over_fences() -> None:
    shards = Shards(2, 4)
    shards.admit("c", 3)
    assert isinstance(shards.place("a", epoch=5), Placed)
    assert reason(shards.place("b", epoch=4)) is RefusalReason.STALE_LEADER
    assert reason(shards.front.place(config("b"), Fence(5, "other"))) is RefusalReason.WRONG_INSTANCE
    stale = shards.front.check_attempt(config("c", 2).key)
    assert stale is not None
    assert stale.reason is RefusalReason.STALE_ATTEMPT


def test_reports_survive_the_way_from_a_shard() -> None:
    report = SessionReport(
        config("u", 3).key,
        SessionState.ENDED,
        end_reason=EndReason.IDLE_TIMEOUT,
        end_message="nobody spoke",
        client_id="c",
        web_socket_id="w",
        shard=4,
        ready_at=1.25,
        ended_at=99.5,
        journal_first=1,
        journal_last=7,
    )
    body = control_pb.session_report(report, Endpoint("h:1")).SerializeToString()
    assert control_pb.read_session_report(body) == report


def test_frames_and_what_they_hold() -> None:
    frame = encode(Kind.ADMIT, 7, b"abc")
    assert parse_header(frame[:HEADER_BYTES]) == (3, Kind.ADMIT, 7)
    assert frame[HEADER_BYTES:] == b"abc"
    boot = Boot(1, "i", 42, None, {"PARLEY_WORKER_NAME": "w"})
    assert Boot.decode(boot.encode()) == boot
    ready = Ready("h:1", "", Endpoint("h:1", "name", "wss://h:2/twilio"))
    assert Ready.decode(ready.encode()) == ready
    beat = Beat("lags", True)
    assert Beat.decode(beat.encode()) == beat


@pytest.mark.parametrize(
    "header", [(MAX_BODY + 1).to_bytes(4, "big") + b"\x10" + bytes(4), bytes(4) + b"\xff" + bytes(4)]
)
def test_what_is_no_frame_is_refused(header: bytes) -> None:
    with pytest.raises(FrameError):
        parse_header(header)


def test_a_frame_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(FrameError):
        encode(Kind.REPORT, 0, bytes(MAX_BODY + 1))


async def test_waiting_for_the_last_session() -> None:
    shards = Shards(1, 1)
    shards.admit("a")
    waiting = asyncio.create_task(shards.front.wait_empty(5))
    await asyncio.sleep(0)
    shards.report(0, "a", SessionState.ENDED, end_reason=EndReason.TERMINATED)
    assert await waiting
