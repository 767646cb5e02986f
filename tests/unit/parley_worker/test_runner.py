"""The runner with a provider and a leg of its own making: what happens when something inside it fails."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import pytest
from parley_realtime import OutgoingQueueFull, RealtimeError
from parley_worker.clock import SystemClock
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.media_path import OutFrame, PlayoutMode
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
from parley_worker.core.records import EventRecord
from parley_worker.core.session import Session
from parley_worker.core.session_budget import BudgetLimits
from parley_worker.runtime import session_runner
from parley_worker.runtime.deps import RunnerDeps, RunnerSettings
from parley_worker.runtime.pacer import Pacer
from parley_worker.runtime.session_runner import SessionRunner
from parley_worker.runtime.setting_up import SettingUp
from parley_worker.telemetry.metrics import Metrics

PCM24 = PROVIDER_FORMATS["pcm16"]
PUT_OFF = 0.001
"""What the pacer puts off refers to a session for some milliseconds."""


class FakeProvider:
    """Opens at once; `on_event` and `on_audio` are the runner's."""

    client_id, web_socket_id = "client", "socket"
    queued_bytes = messages_received = 0
    unsettled_ms = 0.0

    def __init__(self, **given: Any) -> None:
        self.on_event: Callable[[Mapping[str, Any]], None] = given["on_event"]
        self.on_audio: Callable[[bytes, str, str, int], None] = given["on_audio"]
        self.sent: list[Mapping[str, Any]] = []
        self.heard: list[bytes] = []
        self.full = False
        self._closed = asyncio.Event()

    async def connect(self) -> None:
        """Open."""

    async def wait_closed(self) -> RealtimeError | None:
        await self._closed.wait()
        return None

    def send(self, event: Mapping[str, Any]) -> None:
        if self.full:
            raise OutgoingQueueFull("1024 client events wait for the provider")
        self.sent.append(event)

    def push_audio(self, payload: bytes) -> None:
        self.heard.append(payload)

    def handing_over(self) -> tuple[Mapping[str, Any], ...]:
        return ()

    def close(self) -> None:
        self._closed.set()

    def let_go(self) -> None:
        vars(self).clear()


class FakeLeg:
    """Keeps what it is given; `broken` raises on audio or on every message."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.frames: list[OutFrame] = []
        self.messages: list[fx.ToLeg] = []
        self.finished: list[ev.LegRefusal | None] = []
        self.queued: dict[tuple[str, int], int] = {}

    def send(self, message: fx.ToLeg) -> None:
        if self.broken == "messages":
            raise RuntimeError("text of the caller")
        self.messages.append(message)

    def send_audio(self, frame: OutFrame) -> None:
        if self.broken == "audio":
            raise RuntimeError("text of the caller")
        self.frames.append(frame)

    def drop_audio(self) -> dict[tuple[str, int], int]:
        return self.queued

    def audio_room(self) -> int:
        return 1 << 20

    def queued_bytes(self) -> int:
        return 0

    def finish(self, refusal: ev.LegRefusal | None) -> None:
        self.finished.append(refusal)


class Journal:
    """Takes its time to store records: until `answer` is set."""

    journals = True

    def __init__(self) -> None:
        self.answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def flushed(self, key: SessionKey, timeout: float) -> bool:
        return await asyncio.shield(self.answer)


class Host:
    """One runner and everything it told."""

    def __init__(self, privacy: bool) -> None:
        self.journal = Journal()
        self.records: list[EventRecord] = []
        self.reports: list[SessionReport] = []
        self.metrics = Metrics()
        self.provider: FakeProvider
        self.report_fails = False
        self.share = 0.5
        self.pacer = Pacer(lambda: self.share * asyncio.get_running_loop().time())
        self._token = 0
        sink = mock.Mock()
        sink.publish = self.records.append
        deps = RunnerDeps(
            clock=SystemClock(),
            sink=sink,
            metrics=self.metrics,
            pacer=self.pacer,
            on_report=self._on_report,
            new_id=lambda prefix: prefix,
            random_token=self._next_token,
            worker_instance_id="instance",
            settings=RunnerSettings(budget=BudgetLimits(cpu_share=100.0)),
            restorer=self.journal,  # type: ignore[arg-type]
            setting_up=SettingUp(resolver=mock.Mock(lookup=mock.AsyncMock(return_value=[]))),
        )
        config = SessionConfig(
            key=SessionKey("ns", "name", "uid", 1),
            provider=ProviderConfig("ws://p", "ga", "m", Secret("sk-secret")),
            session={},
            greet=False,
            limits=LimitsConfig(60, 60, 60, 60),
            access=AccessConfig(b"t" * 32),
            privacy=privacy,
        )
        self.runner = SessionRunner(config, deps)

    def _next_token(self) -> str:
        self._token += 1
        return f"token-{self._token}"

    def _on_report(self, report: SessionReport) -> None:
        if self.report_fails:
            raise RuntimeError("the registry failed")
        self.reports.append(report)

    def open(self, config: SessionConfig, **given: Any) -> FakeProvider:
        self.provider = FakeProvider(**given)
        return self.provider

    def attach(
        self, leg: FakeLeg, token: str = "", mode: PlayoutMode = PlayoutMode.BURST
    ) -> ev.LegRefusal | None:
        kind = ev.CredentialKind.RESUME if token else ev.CredentialKind.TICKET
        digest = hashlib.sha256(token.encode()).digest()
        request = ev.AttachRequest(kind, PCM24, PCM24, mode, credential_sha256=digest)
        return self.runner.attach(request, leg)

    def forget(self) -> None:
        """Hold nothing of the session any more."""
        del self.runner, self.provider

    def facts(self) -> list[str]:
        events = [r for r in self.records if r.kind == "event"]
        assert [r.sequence for r in events] == list(range(1, len(events) + 1))
        return [r.type for r in events]

    def legs(self) -> float | None:
        return self.metrics.registry.get_sample_value("parley_worker_legs")


@asynccontextmanager
async def running(privacy: bool = False) -> AsyncIterator[Host]:
    """A session that waits for its caller; its run ends with the block."""
    host = Host(privacy)
    with mock.patch.object(session_runner, "open_provider", host.open):
        run = asyncio.create_task(host.runner.run())
        while not getattr(host, "provider", None) or not host.provider.sent:  # noqa: ASYNC110 - few rounds
            await asyncio.sleep(0)
        host.provider.on_event({"type": "session.updated", "session": {}})
        try:
            yield host
        finally:
            host.runner.terminate(EndReason.TERMINATED, "the test is over")
            host.report_fails = False
            assert (await run).state is SessionState.ENDED


@pytest.mark.parametrize("broken", ["audio", "messages"])
async def test_a_session_whose_inside_fails_ends_with_all_its_records(broken: str) -> None:
    async with running() as host:
        leg = FakeLeg()
        assert host.attach(leg) is None
        leg.broken = broken
        if broken == "audio":
            host.provider.on_audio(bytes(4800), "r", "i", 0)
        else:
            host.provider.on_event({"type": "rate_limits.updated"})
        assert host.runner.report.end_reason is EndReason.INTERNAL
    assert host.facts()[-2:] == ["leg_detached", "ended"]
    assert [r.type for r in host.records if r.kind == "journal"][-1] == "session_ended"
    assert leg.finished
    assert host.legs() == 0


async def test_the_last_records_are_made_even_when_telling_of_the_end_fails() -> None:
    async with running() as host:
        leg = FakeLeg()
        host.attach(leg)
        host.report_fails = True
        host.runner.terminate(EndReason.TERMINATED, "deleted")
        assert host.facts()[-1] == "ended"
        assert any(isinstance(message, fx.Ended) for message in leg.messages)
        assert host.legs() == 0


def failing(event: ev.Event, now: float) -> list[fx.Effect]:
    """A session's core that handles nothing."""
    raise RuntimeError("a bug")


async def test_a_leg_that_cannot_be_taken_is_told() -> None:
    async with running() as host:
        leg = FakeLeg()
        driver = host.runner._driver
        driver.handle, handle = failing, driver.handle
        host.attach(leg)
        driver.handle = handle
        (refusal,) = leg.finished
        assert refusal is not None
        assert refusal.reason == "internal"


async def test_errors_inside_are_logged_without_their_text_under_privacy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for privacy in (False, True):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            async with running(privacy) as host:
                host.attach(FakeLeg("messages"))
        assert "RuntimeError inside" in caplog.text
        assert ("text of the caller" in caplog.text) is not privacy


async def test_audio_that_a_clear_finds_in_the_queue_of_the_leg_was_not_heard() -> None:
    async with running() as host:
        leg = FakeLeg()
        host.attach(leg)
        host.provider.on_event({"type": "response.created", "response": {"id": "r"}})
        host.provider.on_audio(bytes(48_000), "r", "i", 0)
        leg.queued = {("i", 0): 300}
        host.provider.on_event({"type": "input_audio_buffer.speech_started"})
        (clear,) = [message for message in leg.messages if isinstance(message, fx.Clear)]
        host.runner.leg_message(leg, ev.Cleared(clear.epoch, "i", 0, 900))
        (truncate,) = [e for e in host.provider.sent if e["type"] == "conversation.item.truncate"]
        assert truncate["audio_end_ms"] == 300


def overruns(host: Host, budget: str) -> float | None:
    return host.metrics.registry.get_sample_value("parley_worker_budget_overruns_total", {"budget": budget})


async def test_a_provider_that_floods_with_events_ends_its_session_once() -> None:
    async with running() as host:
        leg = FakeLeg()
        host.attach(leg)
        for _ in range(20_000):
            host.provider.on_event({"type": "rate_limits.updated"})
        report = host.runner.report
        assert report.end_reason is EndReason.PROVIDER_PROTOCOL_ERROR
        assert "PARLEY_WORKER_SESSION_PROVIDER_EVENTS" in report.end_message
        assert overruns(host, "provider_events") == 1
        assert sum(isinstance(message, fx.Ended) for message in leg.messages) == 1
    assert host.facts()[-1] == "ended"


async def test_a_provider_whose_cancelled_answer_goes_on_for_ever_ends_its_session() -> None:
    async with running() as host:
        host.attach(FakeLeg())
        for _ in range(60):
            host.provider.on_audio(bytes(480_000), "r", "i", 0)
        assert host.runner.report.end_reason is EndReason.PROVIDER_PROTOCOL_ERROR
        assert overruns(host, "provider_audio") == 1


async def test_a_caller_that_floods_loses_its_leg_and_then_its_session() -> None:
    async with running() as host:
        leg, token, attaches = FakeLeg(), "", 0
        for _ in range(100):
            if host.runner.report.state is SessionState.ENDED:
                break
            leg = FakeLeg()
            assert host.attach(leg, token) is None
            attaches += 1
            token = f"token-{attaches}"
            for _ in range(2500):
                refusal = host.runner.leg_message(leg, ev.Progress("i", 0, 0, 0))
                if refusal is not None:
                    assert refusal.reason == "too-many-messages"
                    break
        assert attaches == 2
        assert host.runner.report.end_reason is EndReason.QUOTA_EXCEEDED
        assert overruns(host, "caller_messages") == 1


async def test_a_caller_whose_frames_hold_one_sample_each_ends_its_session() -> None:
    async with running() as host:
        leg = FakeLeg()
        host.attach(leg)
        for number in range(1, 20_000):
            assert host.runner.leg_audio(leg, b"\0\0", number, 0) is None
        assert host.runner.report.end_reason is EndReason.QUOTA_EXCEEDED
        assert overruns(host, "caller_frames") == 1


async def test_what_waits_for_a_provider_that_reads_nothing_is_bounded() -> None:
    async with running() as host:
        leg = FakeLeg()
        host.attach(leg)
        host.provider.queued_bytes = 100 << 20
        host.runner.leg_message(leg, ev.ClientEvent({"type": "response.create"}))
        assert host.runner.report.end_reason is EndReason.QUOTA_EXCEEDED
        assert overruns(host, "queue") == 1


async def test_a_session_that_is_over_is_freed_without_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        async with running() as host:
            host.attach(FakeLeg())
            host.provider.on_event({"type": "response.created", "response": {"id": "r"}})
            host.provider.on_audio(bytes(48_000), "r", "i", 0)
            runner, session = weakref.ref(host.runner), id(host.runner._session)
            host.runner.terminate(EndReason.TERMINATED, "over")
        host.runner.terminate(EndReason.TERMINATED, "again")
        assert host.runner.report.end_reason is EndReason.TERMINATED
        assert host.attach(FakeLeg()) is not None
        host.forget()
        for _ in range(100):
            if runner() is None:
                break
            await asyncio.sleep(PUT_OFF)
        assert runner() is None
        # Compiled classes take no weak reference.
        assert not any(id(each) == session and isinstance(each, Session) for each in gc.get_objects())
    finally:
        gc.enable()


async def test_an_answer_that_comes_too_late_is_counted_as_one_underrun() -> None:
    async with running() as host:
        leg = FakeLeg()
        host.attach(leg, mode=PlayoutMode.REALTIME)
        host.provider.on_audio(bytes(960), "r", "i", 0)
        await asyncio.sleep(0.12)
        host.provider.on_audio(bytes(960), "r", "i", 0)
        found = {
            cause: host.metrics.registry.get_sample_value("parley_worker_underruns_total", {"cause": cause})
            or 0
            for cause in ("provider_late", "worker_late", "caller_slow")
        }
        # Where this process itself was held up meanwhile it is the worker's, and still one.
        assert found["provider_late"] + found["worker_late"] == 1
        assert found["caller_slow"] == 0


async def test_more_client_events_than_the_provider_takes_cost_no_call() -> None:
    async with running() as host:
        leg = FakeLeg()
        host.attach(leg)
        host.provider.full = True
        host.runner.leg_message(leg, ev.ClientEvent({"type": "response.create"}))
        told = [m for m in leg.messages if isinstance(m, fx.ConversationEvent)]
        assert told[-1].type == "parley.client_event_refused"
        assert host.runner.report.state is SessionState.ACTIVE


async def test_a_resume_token_that_was_replaced_and_whose_successor_was_used_is_refused() -> None:
    async with running() as host:
        assert host.attach(FakeLeg()) is None
        assert host.attach(FakeLeg(), "token-1") is None
        assert host.attach(FakeLeg(), "token-1") is None
        stale = host.attach(FakeLeg(), "token-2")
        assert stale is not None
        assert stale.reason == "resume-token-unknown"
        assert host.attach(FakeLeg(), "token-3") is None
        assert host.attach(FakeLeg(), "token-1") is not None


# Holding still


async def frozen(host: Host) -> asyncio.Task[Any]:
    """A session that holds still, and whose journal is not stored yet."""
    move = asyncio.create_task(host.runner.migrate(5.0))
    while host.runner._still is None:  # noqa: ASYNC110 - few rounds
        await asyncio.sleep(0.01)
    return move


def behind(host: Host) -> FakeLeg:
    """A caller of a shard that has more to do than time for it."""
    host.attach(leg := FakeLeg())
    host.share, host.pacer.backlog.busy, host.pacer.backlog.delay = 0.99, True, 0.19
    return leg


def says(host: Host, leg: FakeLeg, *frames: int) -> None:
    """A frame of each of these bytes."""
    for byte in frames:
        assert host.runner.leg_audio(leg, bytes([byte]) * 960, host.runner._media.last_frame + 1, 0) is None


def spoken(*frames: int) -> bytes:
    return b"".join(bytes([byte]) * 960 for byte in frames)


async def test_late_frames_go_to_the_provider_together_and_soon() -> None:
    async with running() as host:
        leg = behind(host)
        says(host, leg, 1, 2, 3)
        assert host.provider.heard == []
        await asyncio.sleep(0.2)
        says(host, leg, *range(7))
        assert host.provider.heard == [spoken(1, 2, 3), spoken(0, 1, 2, 3, 4)]
        await asyncio.sleep(0.2)
        assert host.provider.heard[2:] == [spoken(5, 6)]
        assert host.metrics.frames.frames_gathered == 10


async def test_what_was_gathered_goes_before_whatever_follows_it() -> None:
    async with running() as host:
        leg = behind(host)
        says(host, leg, 1, 2)
        assert host.runner.leg_message(leg, ev.ClientEvent({"type": "input_audio_buffer.commit"})) is None
        assert host.provider.heard == [spoken(1, 2)]
        says(host, leg, 3)
        host.pacer.backlog.busy = False
        says(host, leg, 4, 5)
        await asyncio.sleep(0.15)
        assert host.provider.heard[1:] == [spoken(3, 4), spoken(5)]


async def test_nothing_that_was_gathered_is_lost_in_a_move_or_with_the_caller() -> None:
    async with running() as host:
        leg = behind(host)
        await asyncio.sleep(0.3)
        says(host, leg, 1, 2, 3)
        move = await frozen(host)
        says(host, leg, 4)
        await asyncio.sleep(0.15)
        assert host.provider.heard == [spoken(1, 2, 3)]
        move.cancel()
        await asyncio.wait([move])
        says(host, leg, 5)
        host.runner.leg_lost(leg, "cancelled")
        assert host.provider.heard[1:] == [spoken(4), spoken(5)]


async def test_a_move_that_nobody_waits_for_any_more_is_over_at_once() -> None:
    async with running() as host:
        host.attach(leg := FakeLeg())
        move = await frozen(host)
        says(host, leg, 0)
        assert host.provider.heard == []
        move.cancel()
        await asyncio.wait([move])
        assert len(host.provider.heard) == 1


@pytest.mark.parametrize(("unsettled", "again"), [(0.0, 0), (400.0, 20), (9000.0, None)])
async def test_only_audio_that_no_turn_has_taken_is_said_again_elsewhere(
    unsettled: float, again: int | None
) -> None:
    async with running() as host:
        host.attach(leg := FakeLeg())
        for _ in range(150):
            says(host, leg, 0)
        host.provider.unsettled_ms = unsettled
        host.journal.answer.set_result(True)
        await asyncio.sleep(0.3)
        given = await host.runner.migrate(0.5)
        if again is None:
            assert isinstance(given, str)
            return
        assert host.runner.moved(ev.MovedAway("h:1", "", 2))
        (moved,) = [message for message in leg.messages if isinstance(message, ev.MovedAway)]
        assert moved.resend_from == 151 - again


async def test_messages_that_come_after_the_word_where_to_go_are_to_be_sent_again() -> None:
    async with running() as host:
        host.attach(FakeLeg())
        host.attach(leg := FakeLeg(), "token-1")
        for number in range(3):
            host.runner.leg_message(leg, ev.ClientEvent({"type": "response.cancel", "event_id": str(number)}))
        host.runner.leg_message(leg, ev.Progress("i", 0, 0, 0))
        host.journal.answer.set_result(True)
        await asyncio.sleep(0.3)
        given = await host.runner.migrate(0.5)
        assert not isinstance(given, str)
        assert host.runner.moved(ev.MovedAway("h:1", "", 2))
        (moved,) = [message for message in leg.messages if isinstance(message, ev.MovedAway)]
        assert moved.resend_messages_from == 5
        told = len(leg.messages)
        host.runner.leg_message(leg, ev.ClientEvent({"type": "response.create"}))
        assert len(leg.messages) == told


async def test_a_command_to_a_session_that_holds_still_is_not_lost() -> None:
    async with running() as host:
        host.attach(FakeLeg())
        host.journal.answer.set_result(True)
        given = await (await frozen(host))
        assert not isinstance(given, str)
        assert host.runner.command(ev.CommandReceived({"type": "response.create"}, clear=False))
        assert not host.runner.moved(ev.MovedAway("h:1", "", 2)), "what was given away lacks the command"


async def test_a_session_that_was_sent_on_takes_no_command() -> None:
    async with running() as host:
        host.attach(FakeLeg())
        host.journal.answer.set_result(True)
        await (await frozen(host))
        assert host.runner.moved(ev.MovedAway("h:1", "", 2))
        assert not host.runner.command(ev.CommandReceived({"type": "response.create"}, clear=False))
        host.runner.terminate(EndReason.DRAIN_DEADLINE, "the worker went away")
        assert host.runner.report.departed
    assert "ended" not in host.facts()


async def test_a_doubt_is_not_settled_by_what_the_provider_says() -> None:
    async with running() as host:
        host.attach(leg := FakeLeg())
        host.runner.doubt()
        await asyncio.sleep(0)
        host.provider.on_event({"type": "response.created", "response": {"id": "r"}})
        host.provider.on_audio(bytes(4800), "r", "i", 0)
        assert leg.frames == []
        host.journal.answer.set_result(True)
        await asyncio.sleep(0.05)
        assert leg.frames


async def test_a_session_that_connects_is_heard_though_its_process_slept() -> None:
    host = Host(False)
    with mock.patch.object(session_runner, "open_provider", host.open):
        run = asyncio.create_task(host.runner.run())
        await asyncio.sleep(0)
        host.runner.doubt()
        while not getattr(host, "provider", None) or not host.provider.sent:  # noqa: ASYNC110 - few rounds
            await asyncio.sleep(0)
        host.provider.on_event({"type": "session.updated", "session": {}})
        host.journal.answer.set_result(True)
        await asyncio.sleep(0.05)
        host.attach(leg := FakeLeg())
        says(host, leg, 0)
        assert len(host.provider.heard) == 1
        assert next(r.type for r in host.records if r.kind == "journal") == "session_configured"
        host.runner.terminate(EndReason.TERMINATED, "the test is over")
        await run
