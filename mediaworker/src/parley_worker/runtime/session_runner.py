"""Runs one session: its core, its RealtimeAPIClient and its leg; audio passes by in `session_media`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from parley_realtime import RealtimeError
from parley_realtime.protocol.history import WORDS_DELTA
from parley_realtime.recovery import Fillable

from parley_worker.core import events as ev
from parley_worker.core.comeback import MOVED
from parley_worker.core.model import EndReason, SessionConfig, SessionReport, SessionState
from parley_worker.core.saved import HandOver
from parley_worker.core.session import Session, SessionBounds
from parley_worker.runtime.deps import RunnerDeps
from parley_worker.runtime.provider import open_provider
from parley_worker.runtime.recording import refusal as recording_refusal
from parley_worker.runtime.scenario import SessionScenario
from parley_worker.runtime.session_driver import SessionDriver
from parley_worker.runtime.session_effects import MESSAGES_A_SECOND, SessionEffects
from parley_worker.runtime.session_guard import SessionGuard
from parley_worker.runtime.session_media import SessionMedia
from parley_worker.runtime.setting_up import group_of
from parley_worker.runtime.standing_still import STILL_SECONDS, Standstill, give_away
from parley_worker.runtime.tool_calls import ToolCalls
from parley_worker.runtime.unravel import unravel
from parley_worker.transport.ports import HearFrame, LegPort

log = logging.getLogger(__name__)

QUIET_LOOK_SECONDS = 0.05
FLUSH_SECONDS = 2.0
"""For the records of a session that moves to be stored."""
UNMOVED = frozenset({"rate_limits.updated"})
"""What a provider may say without the conversation going on."""
LOST = (EndReason.WORKER_LOST, EndReason.SHARD_LOST)
PLAYED = (ev.Progress, ev.MarkPlayed, ev.Cleared)
WATCH_SECONDS = 1.0
TOO_MANY_MESSAGES = ev.LegRefusal(
    ev.Status.RESOURCE_EXHAUSTED,
    "too-many-messages",
    f"more than {MESSAGES_A_SECOND} messages a second besides audio: send fewer, then attach again",
)


class SessionRunner:
    """The whole life of a session. Everything but `run` is synchronous and called from the event loop."""

    def __init__(self, config: SessionConfig, deps: RunnerDeps) -> None:
        self._config = config
        self._deps = deps
        clock, s = deps.clock, deps.settings
        now = clock.monotonic()
        bounds = SessionBounds(
            s.connect_timeout, s.cleared_timeout, s.replay_events, s.replay_bytes, s.setup_wait
        )
        self._session = Session(config, bounds, now, clock.wall() - now, deps.shard)
        self._driver = SessionDriver(
            self._session, clock.monotonic, deps.pacer, self._crash, self._deadline_reached
        )
        self._feed = self._driver.feed
        self._guard = SessionGuard(s.budget, deps.metrics, self._feed, self._queued_bytes)
        self._media = SessionMedia(config, self._session, deps, self._guard, self._feed, self._crash)
        self._tools = ToolCalls(config.key, deps.tools, clock, self._feed, deps.metrics.task_crashed)
        self._scenario: SessionScenario | None = None
        if config.scenario is not None:
            self._scenario = SessionScenario(config, deps.scenarios, clock, deps.metrics, self._feed)
            self._tools.scenario = self._scenario
        self._effects = SessionEffects(
            self._session, self._media, self._tools, self._scenario, deps, self._feed, self._state_changed
        )
        self._driver.open(self._guard, self._effects.do)
        self._resume_sha256: tuple[bytes, ...] = ()
        self._carry: Callable[[Fillable], None] | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._left_connecting = asyncio.Event()
        self._ended = asyncio.Event()
        self._still: Standstill | None = None
        self._elsewhere: ev.MovedAway | None = None
        self._checking: asyncio.Task[None] | None = None

    # What the process asks

    @property
    def report(self) -> SessionReport:
        """The session as the worker tells it."""
        return self._session.report

    @property
    def resume_sha256(self) -> tuple[bytes, ...]:
        """SHA-256 of the resume tokens that are good now: of the last attach, and the one that it used.

        The token of the last Started may never have reached its caller, who then has only the one before.
        """
        return self._resume_sha256

    def terminate(self, reason: EndReason, message: str) -> None:
        """End the session; nothing happens when it is over. Lost is what the control plane calls a placement
        whose session goes on elsewhere: that ends without a word."""
        if reason in LOST:
            self.depart("stale")
        else:
            self._feed(ev.TerminateRequested(reason, message))

    def command(self, instruction: ev.CommandReceived | ev.ConfigChanged) -> bool:
        """Pass an event to the provider, ask for silence, or change the configuration; false: it has left."""
        if stirred := self._stirred():
            self._feed(instruction)
        return stirred

    def announce_drain(self, deadline_unix: float) -> None:
        """Tell the caller that the worker goes away."""
        self._feed(ev.DrainAnnounced(deadline_unix))

    async def migrate(self, patience: float) -> HandOver | str:
        """Hold still at the first quiet moment within `patience` seconds, and give the conversation away; or
        why not. It goes on by itself unless `moved` follows soon."""
        if self._still is not None and self._still.given is not None:
            return self._still.given
        clock = self._deps.clock
        deadline = clock.monotonic() + patience
        while isinstance(given := self._give_away(), str):
            if clock.monotonic() >= deadline or self._ended.is_set():
                return given
            await asyncio.sleep(QUIET_LOOK_SECONDS)
        still = self._still = self._stand_still(STILL_SECONDS)
        stored = False
        try:
            stored = await self._deps.restorer.flushed(self._config.key, FLUSH_SECONDS)
        finally:
            if not stored and self._still is still:
                self._go_on()
        if stored and self._still is still:
            still.given = given
            return given
        return "the conversation went on" if stored else "its journal was not stored in time: NATS is late"

    def _give_away(self) -> HandOver | str:
        if self._still is not None or self._effects.provider is None:
            return "the session is being set up or moved"
        return give_away(self._session, self._effects.provider, self._deps.clock.monotonic())

    def moved(self, to: ev.MovedAway) -> bool:
        """Send the caller there and end without a word; false where the session does not hold still any more.

        Then the journal is asked whether that is so all the same: perhaps this worker was taken for lost.
        """
        still = self._still
        if still is None or still.given is None:
            self._elsewhere = to
            self.doubt()
            return False
        if not still.left:
            to = replace(to, resend_from=still.resend_from, resend_messages_from=self._guard.messages + 1)
            still.leave(lambda: self.depart("moved"))
            self._feed(to)
            if self._media.leg is None:
                self.depart("moved")
        return True

    def depart(self, cause: str) -> None:
        """The session lives elsewhere: end here, and tell nobody. `cause` is `moved` or `stale`."""
        if cause == "stale" and self._elsewhere is not None:
            self._feed(self._elsewhere)
        self._feed(ev.Departed(cause))

    def doubt(self) -> None:
        """This process slept, and the session may have been placed elsewhere meanwhile: say nothing until the
        journal has told, or is silent for too long."""
        if self._still is not None or self._ended.is_set() or not self._deps.restorer.journals:
            return
        if self._config.privacy or self._session.state is SessionState.CONNECTING:
            return  # who connects asks the journal, or learns it by the first record
        self._still = self._stand_still(2 * FLUSH_SECONDS)
        self._feed(ev.Doubted())
        self._checking = asyncio.get_running_loop().create_task(self._check_journal(), name="doubt")

    async def _check_journal(self) -> None:
        await self._deps.restorer.flushed(self._config.key, FLUSH_SECONDS)
        if self._still is not None and self._still.given is None:
            self._go_on()

    def _stand_still(self, seconds: float) -> Standstill:
        self._media.send_gathered()
        provider = self._effects.provider
        again = provider.unsettled_ms if provider is not None else 0.0
        rate = self._session.provider_format.bytes_per_ms
        return Standstill(self._media, rate, again, seconds, self._go_on)

    def _go_on(self) -> None:
        still, self._still = self._still, None
        if still is not None and not self._ended.is_set():
            still.go_on()
            self._driver.arm()

    def _stirred(self) -> bool:
        """Something happens: a session that was to move does not any more. False: it has left already."""
        left = self._still is not None and self._still.left
        if not left and (self._checking is None or self._checking.done()):  # a doubt is not settled by it
            self._go_on()
        return not left

    async def run(self) -> SessionReport:
        """Connect, converse, end; returns after the provider's socket and all tasks are gone."""
        try:
            self._driver.do(self._session.start(self._deps.clock.monotonic()))
            self._driver.arm()
            async with asyncio.TaskGroup() as tasks:
                self._tools.open(tasks)
                self._media.units.open(tasks)
                if self._scenario is not None:
                    self._scenario.open(tasks)
                provide = tasks.create_task(self._provide(), name="provider of a session")
                self._watch()
                await self._ended.wait()
                if self._scenario is not None:
                    self._scenario.stop(str(self.report.end_reason))
                self._tools.stop()
                self._media.units.stop(self._deps.clock.monotonic())
                if self._effects.provider is not None:
                    self._effects.provider.close()
                else:
                    provide.cancel()
                done, _ = await asyncio.wait((provide,), timeout=self._deps.settings.close_timeout)
                if not done:
                    provide.cancel()
        except asyncio.CancelledError:
            self.terminate(EndReason.TERMINATED, "the worker stops")
            raise
        except Exception as exc:  # noqa: BLE001 - the border of a session: it ends, the others go on
            self._crash(exc)
        finally:
            self._stop()
            self._let_go()
        return self.report

    def _stand_no_more(self) -> None:
        if self._still is not None:
            self._still.stop()
        if self._checking is not None:
            self._checking.cancel()
        self._still = self._checking = None

    def _let_go(self) -> None:
        """What is over is freed without a collection; see `unravel`."""
        provider, self._scenario = self._effects.provider, None
        if provider is not None:
            provider.let_go()
        self._driver.let_go()
        self._effects.let_go()
        self._session.let_go()
        self._media.let_go()
        unravel(self._tools)
        self._guard.let_go()

    def _watch(self) -> None:
        """Once a second: count what nothing else tells of."""
        if self._effects.provider is not None:
            self._guard.provider_sent(self._effects.provider.messages_received, self._deps.clock.monotonic())
        self._media.watch()
        self._watching = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._watch)

    def _stop(self) -> None:
        self._driver.stop()
        if self._watching is not None:
            self._watching.cancel()
        self._media.hold()
        self._stand_no_more()
        self._tools.stop()
        if self._effects.provider is not None:
            self._effects.provider.close()
        self._left_connecting.set()

    async def _provide(self) -> None:
        """Open the provider, say so, and say when it is gone."""
        if self._ended.is_set():
            return
        refused = recording_refusal(self._config)
        if refused is not None:
            self._feed(ev.TerminateRequested(EndReason.INVALID_SPEC, refused))
            return
        setting_up = self._deps.setting_up
        self._feed(ev.ConnectHeld())
        if self._config.restore is not None and not await self._restore():
            return
        async with setting_up.connects.turn(group_of(self._config)):
            self._feed(ev.ConnectBegan())
            if not await self._connect():
                return
        provider = self._effects.provider
        assert provider is not None
        if self._scenario is not None:
            self._scenario.opened(provider.client_id, provider.web_socket_id)
        self._feed(ev.ProviderOpened(provider.client_id, provider.web_socket_id))
        outcome = await provider.wait_closed()
        if outcome is not None:
            self._provider_lost(outcome)

    async def _restore(self) -> bool:
        """Bring back what was before; false when the session has ended for it."""
        restored = await self._deps.restorer.restore(self._config)
        if restored is None:
            self.depart("stale")
            return False
        self._resume_sha256 = restored.state.resume_sha256
        self._carry = restored.carry if restored.items else None
        self._feed(ev.ConversationRestored(restored))
        self._deps.on_report(self.report)
        return not self._ended.is_set()

    async def _connect(self) -> bool:
        """False when the session has ended for it."""
        try:
            async with asyncio.timeout(self._deps.settings.connect_timeout):
                await self._deps.setting_up.prepare(self._config)
            provider = self._effects.provider = open_provider(
                self._config,
                connect_timeout=self._deps.settings.connect_timeout,
                close_timeout=self._deps.settings.close_timeout / 2,
                on_event=self._on_provider_event,
                on_audio=self._media.on_audio,
                on_audio_done=self._media.on_audio_done,
                on_recovery=self._feed,
                quiet=lambda: self._session.quiet(self._deps.clock.monotonic()),
                on_trace=lambda direction, text: self._feed(ev.ProviderTraced(direction, text)),
                transport=self._deps.settings.provider_transport,
                congestion=self._deps.settings.congestion,
                pace=self._deps.setting_up.reconnect_wait,
                frame_bytes=self._deps.settings.frame_bytes,
                gather=self._deps.pacer.soon,
                carry=self._carry,
            )
        except ValueError as exc:
            self._feed(ev.TerminateRequested(EndReason.INVALID_SPEC, f"provider: {exc}"))
            return False
        except OSError:
            text = "the provider's host name cannot be resolved"
            self._feed(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, text))
            return False
        try:
            self._media.to_provider = provider.push_audio
            await provider.connect()
        except RealtimeError as exc:
            self._provider_lost(exc)
            return False
        return True

    def _on_provider_event(self, payload: Mapping[str, Any]) -> None:
        if not self._guard.provider_event(self._deps.clock.monotonic()):
            return
        if self._still is not None and payload.get("type") not in UNMOVED and not self._stirred():
            return
        # Words of an answer only move deadlines away: the timer that is set finds out when it fires.
        self._feed(ev.ProviderMessage(payload), look=payload.get("type") not in WORDS_DELTA)
        if self._scenario is not None:
            self._scenario.provider_event(payload)

    def _provider_lost(self, error: RealtimeError) -> None:
        words = {str(reason) for reason in EndReason}
        reason = EndReason(error.reason) if error.reason in words else EndReason.PROVIDER_UNAVAILABLE
        self._feed(ev.ProviderLost(reason, error.message, error.close_code or 1006))

    # What a leg asks (SessionPort)

    async def wait_ready(self) -> None:
        """See SessionPort."""
        await self._left_connecting.wait()
        await self._deps.setting_up.attach_turn()

    @property
    def provider_rate(self) -> int:
        """See SessionPort."""
        return self._session.provider_format.rate

    def frames_concealed(self, cause: str, frames: int) -> None:
        """See SessionPort."""
        self._deps.metrics.frames_concealed(cause, frames)

    def attach(self, request: ev.AttachRequest, leg: LegPort) -> ev.LegRefusal | None:
        """See SessionPort."""
        refusal = self._session.check_attach(request, self._deps.clock.monotonic())
        if refusal is None and not self._stirred():
            refusal = MOVED
        if refusal is not None:
            return refusal
        resumes = request.credential is ev.CredentialKind.RESUME
        if resumes and request.credential_sha256 not in self._resume_sha256:
            text = "the resume token is not good any more: use the one of the last Started"
            return ev.LegRefusal(
                ev.Status.UNAUTHENTICATED, "resume-token-unknown", text, "start.resume_token"
            )
        token = self._deps.random_token()
        used = (request.credential_sha256,) if resumes else ()
        self._resume_sha256 = (hashlib.sha256(token.encode()).digest(), *used)
        self._effects.incoming = leg
        self._feed(ev.LegAttached(request, token, self._resume_sha256))
        self._guard.attached(self._deps.clock.monotonic())
        self._deps.on_report(self.report)
        return None

    @property
    def leg_audio(self) -> HearFrame:
        """See SessionPort."""
        return self._media.leg_audio

    def leg_message(self, leg: LegPort, message: ev.LegCommand) -> ev.LegRefusal | None:
        """See SessionPort."""
        if leg is not self._media.leg:
            return None
        now = self._deps.clock.monotonic()
        if not self._guard.caller_message(now):
            return None
        if not self._effects.messages.take(now):
            return TOO_MANY_MESSAGES
        if self._still is not None and not isinstance(message, PLAYED) and not self._stirred():
            return None
        self._feed(ev.LegSaid(message))
        return None

    def leg_room(self, leg: LegPort) -> None:
        """See SessionPort."""
        if leg is self._media.leg:
            self._media.pump()

    def leg_lost(self, leg: LegPort, cause: str) -> None:
        """See SessionPort."""
        if leg is self._media.leg:
            self._feed(ev.LegLost(cause))
            if self._still is not None and self._still.left:
                self.depart("moved")

    # Core

    def _queued_bytes(self) -> int:
        """What waits for the caller and for the provider."""
        provider = self._effects.provider
        towards = provider.queued_bytes if provider is not None else 0
        return self._media.queued_bytes() + towards + self._session.replay_bytes

    def _crash(self, exc: Exception) -> None:
        """End the session after an error of ours; its last records and its report are made all the same."""
        self._log_crash(exc)
        message = f"internal error: {type(exc).__name__}"
        try:
            self._driver.last(ev.TerminateRequested(EndReason.INTERNAL, message))
        except Exception as again:  # noqa: BLE001 - the end of a session goes on whatever fails in it
            self._log_crash(again)
        self._effects.refuse_all(ev.LegRefusal(ev.Status.INTERNAL, "internal", message))
        self._left_connecting.set()
        self._end()

    def _log_crash(self, exc: Exception) -> None:
        """Under privacy without the text of the error, which may hold content."""
        shown = None if self._config.privacy else exc
        log.error("session %s: %s inside", self._config.key.uid, type(exc).__name__, exc_info=shown)
        self._deps.metrics.task_crashed()

    def _deadline_reached(self) -> None:
        if self._still is None:
            self._feed(ev.DeadlineReached())

    def _state_changed(self, state: SessionState) -> None:
        if state is not SessionState.CONNECTING:
            self._left_connecting.set()
        if state is SessionState.ENDED:
            self._end()
        self._deps.on_report(self.report)

    def _end(self) -> None:
        self._ended.set()
        self._driver.stop()
