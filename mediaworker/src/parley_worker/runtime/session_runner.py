"""Runs one session: its core, its RealtimeAPIClient, its media path and its leg."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Mapping
from time import thread_time
from typing import Any

from parley_realtime import InvalidEventError, OutgoingQueueFull, RealtimeError

from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.budget import Budget
from parley_worker.core.conversation import WORDS_DELTA
from parley_worker.core.media_path import (
    MUTED_RESPONSES,
    InputFault,
    InputPath,
    OutFrame,
    OutputPath,
    PlayoutMode,
)
from parley_worker.core.model import EndReason, SessionConfig, SessionReport, SessionState
from parley_worker.core.session import Session, SessionBounds
from parley_worker.core.underruns import UnderrunWatch
from parley_worker.runtime.deps import RunnerDeps
from parley_worker.runtime.pacer import EARLY_SECONDS
from parley_worker.runtime.provider import Provider, open_provider
from parley_worker.runtime.recording import refusal as recording_refusal
from parley_worker.runtime.scenario import SessionScenario
from parley_worker.runtime.session_guard import SessionGuard
from parley_worker.runtime.setting_up import group_of
from parley_worker.runtime.tool_calls import ToolCalls
from parley_worker.runtime.units import SessionUnits
from parley_worker.runtime.unravel import unravel
from parley_worker.transport.ports import LegPort

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.01
"""So much later than its time a deadline may be met: none is shorter than 200 ms."""
MESSAGES_A_SECOND = 200
MESSAGES_BURST = 2000
WATCH_SECONDS = 1.0
AT_ONCE_BYTES = 64 * 1024
"""Audio that a caller in bursts is given in one turn of the loop; others have theirs before the rest."""
TOO_MANY_MESSAGES = ev.LegRefusal(
    ev.Status.RESOURCE_EXHAUSTED,
    "too-many-messages",
    f"more than {MESSAGES_A_SECOND} messages a second besides audio: send fewer, then attach again",
)
_FAULTS = {
    InputFault.EMPTY: (ev.Status.INVALID_ARGUMENT, "audio.payload is empty; a frame holds 1 to 1000 ms"),
    InputFault.UNALIGNED: (ev.Status.INVALID_ARGUMENT, "audio.payload is not a whole number of samples"),
    InputFault.OVERSIZED: (ev.Status.INVALID_ARGUMENT, "audio.payload is longer than 1000 ms"),
    InputFault.TOO_FAST: (
        ev.Status.RESOURCE_EXHAUSTED,
        "audio comes faster than real time: pace frames by their duration",
    ),
}


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
        self._guard = SessionGuard(s.budget, deps.metrics, self._feed, self._queued_bytes)
        self._output = OutputPath(
            self._session.provider_format,
            self._session.ledger,
            self._session.counters,
            s.output_bytes,
            UnderrunWatch(deps.metrics.underrun, deps.pacer.lateness),
        )
        self._input: InputPath | None = None
        self._messages = Budget(MESSAGES_A_SECOND, MESSAGES_BURST)
        self._mode = PlayoutMode.REALTIME
        self._leg: LegPort | None = None
        self._incoming: LegPort | None = None
        self._provider: Provider | None = None
        self._push_audio: Callable[[bytes], None] | None = None
        self._gaps = 0
        self._provider_bytes_per_ms = self._session.provider_format.bytes_per_ms
        self._frames = deps.metrics.frames
        self._monotonic = clock.monotonic
        self._resume_sha256: tuple[bytes, ...] = ()
        self._heard_responses: deque[str] = deque(maxlen=MUTED_RESPONSES)
        self._last_heard = ""
        self._events: deque[ev.Event] = deque()
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._look: asyncio.TimerHandle | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._left_connecting = asyncio.Event()
        self._ended = asyncio.Event()
        self._units = SessionUnits(
            config,
            self._session.provider_format,
            s.cleared_timeout,
            clock.monotonic,
            self._output,
            self._feed,
            self._pump,
            self._push,
        )
        self._tools = ToolCalls(config.key, deps.tools, clock, self._feed, deps.metrics.task_crashed)
        self._scenario: SessionScenario | None = None
        if config.scenario is not None:
            self._scenario = SessionScenario(config, deps.scenarios, clock, deps.metrics, self._feed)
            self._tools.scenario = self._scenario

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
        """End the session; nothing happens when it is over."""
        self._feed(ev.TerminateRequested(reason, message))

    def command(self, client_event: dict[str, Any] | None, clear: bool) -> None:
        """Pass a client event to the provider, or ask for silence."""
        self._feed(ev.CommandReceived(client_event, clear))

    def announce_drain(self, deadline_unix: float) -> None:
        """Tell the caller that the worker goes away."""
        self._feed(ev.DrainAnnounced(deadline_unix))

    async def run(self) -> SessionReport:
        """Connect, converse, end; returns after the provider's socket and all tasks are gone."""
        try:
            self._do(self._session.start(self._deps.clock.monotonic()))
            self._arm()
            async with asyncio.TaskGroup() as tasks:
                self._tools.open(tasks)
                self._units.open(tasks)
                if self._scenario is not None:
                    self._scenario.open(tasks)
                provide = tasks.create_task(self._provide(), name="provider of a session")
                self._watch()
                await self._ended.wait()
                if self._scenario is not None:
                    self._scenario.stop(str(self.report.end_reason))
                self._tools.stop()
                self._units.stop(self._deps.clock.monotonic())
                if self._provider is not None:
                    self._provider.close()
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

    def _let_go(self) -> None:
        """What is over is freed without a collection; see `unravel`."""
        provider, self._provider, self._scenario = self._provider, None, None
        self._push_audio = None
        if provider is not None:
            provider.let_go()
        self._session.let_go()
        units = self._units
        unravel(units._players, units._recorder, units, self._tools)
        self._guard = SessionGuard(self._deps.settings.budget, self._deps.metrics, lambda event: None, int)

    def _watch(self) -> None:
        """Once a second: count what nothing else tells of."""
        if self._provider is not None:
            self._guard.provider_sent(self._provider.messages_received, self._deps.clock.monotonic())
        if self._leg is not None:
            self._output.watch(self._leg.queued_bytes())
        self._watching = asyncio.get_running_loop().call_later(WATCH_SECONDS, self._watch)

    def _stop(self) -> None:
        for timer in (self._timer, self._look, self._watching):
            if timer is not None:
                timer.cancel()
        self._deps.pacer.cancel(self)
        self._tools.stop()
        if self._provider is not None:
            self._provider.close()
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
        async with setting_up.connects.turn(group_of(self._config)):
            self._feed(ev.ConnectBegan())
            if not await self._connect():
                return
        assert self._provider is not None
        if self._scenario is not None:
            self._scenario.opened(self._provider.client_id, self._provider.web_socket_id)
        self._feed(ev.ProviderOpened(self._provider.client_id, self._provider.web_socket_id))
        outcome = await self._provider.wait_closed()
        if outcome is not None:
            self._provider_lost(outcome)

    async def _connect(self) -> bool:
        """False when the session has ended for it."""
        try:
            async with asyncio.timeout(self._deps.settings.connect_timeout):
                await self._deps.setting_up.prepare(self._config)
            self._provider = open_provider(
                self._config,
                connect_timeout=self._deps.settings.connect_timeout,
                close_timeout=self._deps.settings.close_timeout / 2,
                on_event=self._on_provider_event,
                on_audio=self._on_audio,
                on_audio_done=self._on_audio_done,
                on_recovery=self._feed,
                quiet=lambda: self._session.quiet(self._deps.clock.monotonic()),
                on_trace=lambda direction, text: self._feed(ev.ProviderTraced(direction, text)),
                transport=self._deps.settings.provider_transport,
                pace=self._deps.setting_up.reconnect_wait,
                frame_bytes=self._deps.settings.frame_bytes,
            )
        except ValueError as exc:
            self._feed(ev.TerminateRequested(EndReason.INVALID_SPEC, f"provider: {exc}"))
            return False
        except OSError:
            text = "the provider's host name cannot be resolved"
            self._feed(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, text))
            return False
        try:
            self._push_audio = self._provider.push
            await self._provider.connect()
        except RealtimeError as exc:
            self._provider_lost(exc)
            return False
        return True

    def _on_provider_event(self, payload: Mapping[str, Any]) -> None:
        if not self._guard.provider_event(self._deps.clock.monotonic()):
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
        self._incoming = leg
        self._feed(ev.LegAttached(request, token))
        self._guard.attached(self._deps.clock.monotonic())
        self._deps.on_report(self.report)
        return None

    def leg_audio(
        self, leg: LegPort, payload: bytes, sequence: int, media_time_ms: int
    ) -> ev.LegRefusal | None:
        """See SessionPort."""
        path = self._input
        if leg is not self._leg or path is None:
            return None
        now = self._monotonic()
        if not self._guard.caller_frame(now):
            return None
        ready = path.accept(payload, sequence, now)
        if isinstance(ready, InputFault):
            return self._faulty(ready)
        frames = self._frames
        frames.frames_in += 1
        frames.bytes_in += len(payload)
        if path.gaps != self._gaps:
            self._gaps = path.gaps
            self._deps.metrics.frame_gap()
        units = self._units
        if units.listening:
            units.caller_said(payload, now)
        if units.steering:
            ready = units.for_client(ready, now)
        if ready and self._push_audio is not None:
            self._push_audio(ready)
            self._session.counters.input_ms += len(ready) / self._provider_bytes_per_ms
        return None

    def _faulty(self, fault: InputFault) -> ev.LegRefusal | None:
        """A frame that came twice is dropped; what is wrong in itself ends the leg."""
        if fault is InputFault.STALE:
            self._deps.metrics.frames_dropped("in", "stale")
            return None
        status, message = _FAULTS[fault]
        return ev.LegRefusal(status, fault.value, message, "audio.payload")

    def leg_message(self, leg: LegPort, message: ev.LegCommand) -> ev.LegRefusal | None:
        """See SessionPort."""
        if leg is not self._leg:
            return None
        now = self._deps.clock.monotonic()
        if not self._guard.caller_message(now):
            return None
        if not self._messages.take(now):
            return TOO_MANY_MESSAGES
        self._feed(ev.LegSaid(message))
        return None

    def leg_room(self, leg: LegPort) -> None:
        """See SessionPort."""
        if leg is self._leg:
            self._pump()

    def leg_lost(self, leg: LegPort, cause: str) -> None:
        """See SessionPort."""
        if leg is self._leg:
            self._feed(ev.LegLost(cause))

    # Media

    def _on_audio(self, payload: bytes, response_id: str, item_id: str, content_index: int) -> None:
        if not self._units.agent_heard:
            return
        now = self._deps.clock.monotonic()
        if not self._guard.provider_audio(len(payload), now):
            return
        try:
            fits = self._output.push(payload, response_id or item_id, item_id, content_index, now)
        except Exception as exc:  # noqa: BLE001 - the border of a session: it shall not go on without sound
            self._crash(exc)
            return
        if not fits:
            self._deps.metrics.frames_dropped("out", "overflow", self._output.waiting_frames)
            self._feed(ev.OutputOverflow())
        if self not in self._deps.pacer or self._mode is PlayoutMode.BURST:
            self._pump()

    def _on_audio_done(self, response_id: str, item_id: str, content_index: int) -> None:
        self._output.end_part(response_id or item_id, item_id, content_index)
        self._pump()

    def _push(self, payload: bytes) -> None:
        """Audio of other units for the provider."""
        if self._push_audio is not None:
            self._push_audio(payload)

    def _pump(self) -> None:
        """Send what is due now and schedule the rest."""
        due = self._tick(self._monotonic())
        if due is not None:
            self._deps.pacer.schedule(self, due, self._tick)

    def _tick(self, now: float) -> float | None:
        """Send what is due; gives when there is more."""
        leg = self._leg
        if leg is None:
            return None
        try:
            output = self._output
            while (frame := output.next_frame(now)) is not None:
                self._deliver(leg, frame, now)
            return self._play(leg, now)
        except Exception as exc:  # noqa: BLE001 - the border of a session: the pacer serves others too
            self._crash(exc)
            return None

    def _play(self, leg: LegPort, now: float) -> float | None:
        """What is no usual frame."""
        output = self._output
        due = output.next_due(now)
        if due is not None and due > now + EARLY_SECONDS:
            return due
        output.watch(leg.queued_bytes())
        for out in output.take(now, min(leg.audio_room(), AT_ONCE_BYTES)):
            if isinstance(out, OutFrame):
                self._deliver(leg, out, now)
            else:
                self._feed(ev.PartSent(out.item_id, out.content_index, out.epoch, out.position_ms))
        if self._leg is not leg or (self._mode is PlayoutMode.BURST and leg.audio_room() <= 0):
            return None
        return output.next_due(now)

    def _deliver(self, leg: LegPort, frame: OutFrame, now: float) -> None:
        leg.send_audio(frame)
        counts = self._frames
        counts.frames_out += 1
        counts.bytes_out += len(frame.payload)
        if self._mode is PlayoutMode.REALTIME:
            counts.late(frame.late)
        if self._units.listening:
            self._units.agent_said(frame, now)
        response_id = frame.response_id
        if response_id and response_id != self._last_heard:
            self._heard(response_id)

    def _heard(self, response_id: str) -> None:
        """Two answers may speak by turns: each begins once."""
        self._last_heard = response_id
        if response_id not in self._heard_responses:
            self._heard_responses.append(response_id)
            self._feed(ev.FirstFrame(response_id))

    # Core

    def _feed(self, event: ev.Event, look: bool = True) -> None:
        """Handle an event and do its effects; events that effects cause wait their turn."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        began, now = thread_time(), 0.0
        try:
            while self._events:
                now = self._deps.clock.monotonic()
                self._do(self._session.handle(self._events.popleft(), now))
        except Exception as exc:  # noqa: BLE001 - the border of a session: it ends, the others go on
            self._crash(exc)
        finally:
            self._handling = False
        if look:
            self._arm()
        self._guard.handled(thread_time() - began, now)

    def _queued_bytes(self) -> int:
        """What waits for the caller and for the provider."""
        leg = self._leg.queued_bytes() if self._leg is not None else 0
        provider = self._provider.queued_bytes if self._provider is not None else 0
        return self._output.bytes + leg + provider + self._session.replay_bytes

    def _crash(self, exc: Exception) -> None:
        """End the session after an error of ours; its last records and its report are made all the same."""
        self._log_crash(exc)
        self._events.clear()
        message = f"internal error: {type(exc).__name__}"
        try:
            now = self._deps.clock.monotonic()
            self._do(self._session.handle(ev.TerminateRequested(EndReason.INTERNAL, message), now))
        except Exception as again:  # noqa: BLE001 - the end of a session goes on whatever fails in it
            self._log_crash(again)
        refusal = ev.LegRefusal(ev.Status.INTERNAL, "internal", message)
        if self._incoming is not None:
            self._incoming.finish(refusal)
            self._incoming = None
        self._drop_leg(refusal, "protocol-error")
        self._left_connecting.set()
        self._ended.set()

    def _log_crash(self, exc: Exception) -> None:
        """Under privacy without the text of the error, which may hold content."""
        shown = None if self._config.privacy else exc
        log.error("session %s: %s inside", self._config.key.uid, type(exc).__name__, exc_info=shown)
        self._deps.metrics.task_crashed()

    def _arm(self) -> None:
        """Look at the deadlines soon: events come in groups, and looking costs more than an event."""
        if self._look is None and not self._ended.is_set():
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._arm_timer)

    def _arm_timer(self) -> None:
        self._look = None
        due = self._session.next_deadline()
        if self._timer is not None:
            if due is not None and self._timer_due <= due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_due = due
            self._timer = asyncio.get_running_loop().call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._feed(ev.DeadlineReached())

    def _do(self, effects: list[fx.Effect]) -> None:
        """Do all of them; the first error is raised after the last one."""
        failed: Exception | None = None
        for effect in effects:
            try:
                self._do_one(effect)
            except Exception as exc:  # noqa: BLE001 - raised below: a record is not lost for another's error
                failed = failed or exc
        if failed is not None:
            raise failed

    def _do_one(self, effect: fx.Effect) -> None:
        match effect:
            case fx.SendLeg(message):
                self._send_leg(message)
            case fx.SendProvider(event):
                self._send_provider(event)
            case fx.Publish(record):
                self._deps.sink.publish(record)
            case fx.AttachMedia(request):
                self._attach_media(request)
            case fx.DetachMedia():
                self._deps.pacer.cancel(self)
                self._units.detached(self._deps.clock.monotonic())
                self._output.detach()
                self._input = None
            case fx.ClearMedia(responses):
                self._output.clear(responses)
                self._units.cleared(self._deps.clock.monotonic())
                self._drop_queued_audio()
            case fx.CutMedia(item_id, content_index, audio_end_ms):
                self._units.cut((item_id, content_index), audio_end_ms)
            case fx.UnitCommand(order):
                self._units.order(order)
            case fx.TellScenario(cue):
                if self._scenario is not None:
                    self._scenario.tell(cue)
            case fx.DropLeg(refusal, cause):
                self._drop_leg(refusal, cause)
            case fx.StateChanged(state):
                self._state_changed(state)
            case fx.CallTool():
                self._tools.start(effect)
            case fx.CancelTool(call_id):
                self._tools.cancel(call_id)
            case fx.ObserveTool(route, outcome, seconds):
                self._deps.metrics.tool_call(route, outcome, seconds)
            case fx.Observe():
                self._observe(effect)

    def _drop_queued_audio(self) -> None:
        """What waits in the leg's queue was not sent: the ledger must not count it."""
        if self._leg is not None:
            for (item_id, content_index), position in self._leg.drop_audio().items():
                self._session.ledger.unsent((item_id, content_index), position)
                self._units.cut((item_id, content_index), position)

    def _send_leg(self, message: fx.ToLeg) -> None:
        if isinstance(message, fx.Started):
            self._leg, self._incoming = self._incoming, None
            self._deps.metrics.leg_attached()
        if self._leg is not None:
            self._leg.send(message)

    def _send_provider(self, event: Any) -> None:
        if self._provider is None:
            return
        try:
            self._provider.send(event)
        except InvalidEventError as exc:
            if self._session.state is SessionState.CONNECTING:
                self._events.append(ev.TerminateRequested(EndReason.INVALID_SPEC, f"session: {exc}"))
            else:
                self._events.append(ev.LegSaid(ev.ClientEventInvalid(str(exc))))
        except OutgoingQueueFull as exc:
            self._events.append(ev.LegSaid(ev.ClientEventInvalid(exc.message)))
        except RealtimeError as exc:
            self._events.append(ev.ProviderLost(EndReason.PROVIDER_UNAVAILABLE, exc.message))

    def _attach_media(self, request: ev.AttachRequest) -> None:
        self._mode = request.mode
        self._messages = Budget(MESSAGES_A_SECOND, MESSAGES_BURST)
        burst = self._deps.settings.input_burst
        self._input = InputPath(request.input_format, self._session.provider_format, burst)
        self._units.attached(request.input_format, request.output_format, request.playout_buffer_ms)
        self._output.attach(
            request.output_format, request.mode, request.mark_interval_ms, request.output_codec
        )
        self._pump()

    def _drop_leg(self, refusal: ev.LegRefusal | None, cause: str) -> None:
        if self._leg is not None:
            if cause != "ended":
                self._drop_queued_audio()
            self._leg.finish(refusal)
            self._leg = None
            self._deps.metrics.leg_detached(cause)

    def _state_changed(self, state: SessionState) -> None:
        if state is not SessionState.CONNECTING:
            self._left_connecting.set()
        if state is SessionState.ENDED:
            self._ended.set()
        self._deps.on_report(self.report)

    def _observe(self, effect: fx.Observe) -> None:
        metrics = self._deps.metrics
        match effect.measure:
            case fx.Measure.PROVIDER_CONNECTED:
                metrics.provider_connected(effect.value)
            case fx.Measure.PROVIDER_ERROR:
                metrics.provider_error(effect.word)
            case fx.Measure.FIRST_AUDIO:
                metrics.first_audio(effect.value)
            case fx.Measure.BARGE_IN:
                metrics.barge_in(self._deps.clock.monotonic() - effect.value)
            case fx.Measure.RECORDING:
                metrics.recording(effect.word)
            case fx.Measure.RECONNECTED:
                metrics.provider_reconnected(effect.word, effect.value)
            case fx.Measure.RESTORE_REFUSED:
                metrics.provider_not_reconnected(effect.word, "refused")
            case fx.Measure.RECONNECT_FAILED:
                metrics.provider_not_reconnected(effect.word, "failed")
            case fx.Measure.RATE_LIMIT_LEFT:
                metrics.rate_limit_left(effect.word, effect.value)
