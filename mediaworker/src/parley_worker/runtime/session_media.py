"""The audio plane of one session: frames from its leg to its provider, and the agent's back by the clock.

The session's core steers it (attach, detach, clear) and never sees a frame. Everything here runs for every
20 ms of every session.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from parley_realtime.client.uplink import MOST_FRAMES
from parley_realtime.formats import FRAME_MS

from parley_worker.core import events as ev
from parley_worker.core.media_path import (
    MUTED_RESPONSES,
    InputFault,
    InputPath,
    OutFrame,
    OutputPath,
    PlayoutMode,
)
from parley_worker.core.model import SessionConfig
from parley_worker.core.session import Session
from parley_worker.core.underruns import UnderrunWatch
from parley_worker.runtime.deps import RunnerDeps
from parley_worker.runtime.pacer import EARLY_SECONDS, SLOT_SECONDS
from parley_worker.runtime.session_guard import SessionGuard
from parley_worker.runtime.units import SessionUnits
from parley_worker.runtime.unravel import unheard
from parley_worker.transport.ports import LegPort

AT_ONCE_BYTES = 64 * 1024
"""Audio that a caller in bursts is given in one turn of the loop; others have theirs before the rest."""
_FAULTS = {
    InputFault.EMPTY: (ev.Status.INVALID_ARGUMENT, "audio.payload is empty; a frame holds 1 to 1000 ms"),
    InputFault.UNALIGNED: (ev.Status.INVALID_ARGUMENT, "audio.payload is not a whole number of samples"),
    InputFault.OVERSIZED: (ev.Status.INVALID_ARGUMENT, "audio.payload is longer than 1000 ms"),
    InputFault.TOO_FAST: (
        ev.Status.RESOURCE_EXHAUSTED,
        "audio comes faster than real time: pace frames by their duration",
    ),
}


class Feed(Protocol):
    """Gives an event to the session's core."""

    def __call__(self, event: ev.Event) -> None: ...


class SessionMedia:
    """See the module. `leg` is the caller's, None while nobody is attached; `to_provider` takes audio in the
    provider's format once there is one. `on_crash` is told an error of ours; it ends the session."""

    def __init__(
        self,
        config: SessionConfig,
        session: Session,
        deps: RunnerDeps,
        guard: SessionGuard,
        feed: Feed,
        on_crash: Callable[[Exception], None],
    ) -> None:
        self._deps = deps
        self._guard = guard
        self._feed = feed
        self._on_crash = on_crash
        self._monotonic = deps.clock.monotonic
        self._counts = deps.metrics.frames
        self._format = session.provider_format
        self._bytes_per_ms = session.provider_format.bytes_per_ms
        self._ledger, self._counters = session.ledger, session.counters
        self._output = OutputPath(
            session.provider_format,
            session.ledger,
            session.counters,
            deps.settings.output_bytes,
            UnderrunWatch(deps.metrics.underrun, deps.pacer.lateness),
            deps.settings.playout_lead_ms // FRAME_MS,
        )
        self._output.epoch = session.ledger.epoch
        self._input: InputPath | None = None
        self._realtime = True
        self._gaps = 0
        self._backlog = deps.pacer.backlog
        self._gathered: list[bytes] = []
        self._gathered_key = object()
        self._heard_responses: deque[str] = deque(maxlen=MUTED_RESPONSES)
        self._last_heard = ""
        self._still = False
        self.leg: LegPort | None = None
        self.to_provider: Callable[[bytes], None] | None = None
        self.units = SessionUnits(
            config,
            session.provider_format,
            deps.settings.cleared_timeout,
            deps.clock.monotonic,
            self._output,
            feed,
            self.pump,
            self.push,
        )

    # Steered

    def attach(self, request: ev.AttachRequest) -> None:
        """A caller is there: take and give audio in its formats."""
        self._realtime = request.mode is PlayoutMode.REALTIME
        self._input = InputPath(request.input_format, self._format, self._deps.settings.input_burst)
        self._gaps = 0
        self.units.attached(request.input_format, request.output_format, request.playout_buffer_ms)
        self._output.attach(
            request.output_format, request.mode, request.mark_interval_ms, request.output_codec
        )
        self.pump()

    def detach(self) -> None:
        """The caller is gone; what it did not get waits."""
        self.hold()
        self.send_gathered()
        self.units.detached(self._monotonic())
        self._output.detach()
        self._input = None

    def clear(self, responses: Sequence[str]) -> None:
        """Throw away what waits, and what these answers still send."""
        self._output.clear(responses)
        self.units.cleared(self._monotonic())
        self.drop_queued()

    def drop_queued(self) -> None:
        """What waits in the leg's queue was not sent: the ledger must not count it."""
        if self.leg is not None:
            for (item_id, content_index), position in self.leg.drop_audio().items():
                self._ledger.unsent((item_id, content_index), position)
                self.units.cut((item_id, content_index), position)

    def hold(self) -> None:
        """Stop the playout clock."""
        self._deps.pacer.cancel(self)

    def hold_still(self) -> None:
        """Send the caller nothing until `go_on`."""
        self._still = True
        self.hold()

    def go_on(self) -> None:
        """Send what has waited."""
        self._still = False
        self.pump()

    @property
    def last_frame(self) -> int:
        """Sequence of the caller's last frame; 0 for none."""
        return self._input.last if self._input is not None else 0

    def watch(self) -> None:
        """Once a second: let what is late be seen though nothing comes."""
        if self.leg is not None:
            self._output.watch(self.leg.queued_bytes())

    def queued_bytes(self) -> int:
        """What waits for the caller, here and in its leg."""
        return self._output.bytes + (self.leg.queued_bytes() if self.leg is not None else 0)

    def let_go(self) -> None:
        """What is over is freed without a collection; see `unravel`. A leg that still speaks is not heard."""
        self.units.let_go()
        self._gathered.clear()
        self._deps.pacer.cancel(self._gathered_key)
        self.leg = self._input = self.to_provider = None
        self._feed = self._on_crash = unheard

    # From the caller to the provider

    def leg_audio(
        self, leg: LegPort, payload: bytes, sequence: int, media_time_ms: int
    ) -> ev.LegRefusal | None:
        """See SessionPort."""
        path = self._input
        if leg is not self.leg or path is None:
            return None
        now = self._monotonic()
        if not self._guard.caller_frame(now):
            return None
        ready = path.accept(payload, sequence, now)
        if isinstance(ready, InputFault):
            return self._faulty(ready)
        counts = self._counts
        counts.frames_in += 1
        counts.bytes_in += len(payload)
        if path.gaps != self._gaps:
            self._gaps = path.gaps
            self._deps.metrics.frame_gap()
        units = self.units
        if units.listening:
            units.caller_said(payload, now)
        if units.steering:
            ready = units.for_client(ready, now)
        slots = self._backlog.note(path.delay.seconds)
        to_provider = self.to_provider
        if ready and to_provider is not None:
            self._counters.input_ms += len(ready) / self._bytes_per_ms
            if slots or self._gathered:
                self._gather(ready, slots, now)
            else:
                to_provider(ready)
        return None

    def _gather(self, ready: bytes, slots: int, now: float) -> None:
        """One of many frames that are late: it waits for the next ones, no longer than so many slots."""
        gathered = self._gathered
        if not gathered:
            pacer = self._deps.pacer
            due = pacer.latest_slot(now) + slots * SLOT_SECONDS
            pacer.schedule(self._gathered_key, due, self._gathered_long)
        gathered.append(ready)
        self._counts.frames_gathered += 1
        if not slots or len(gathered) >= MOST_FRAMES:
            self.send_gathered()

    def _gathered_long(self, now: float) -> None:
        """The first of them has waited as long as it may."""
        self.send_gathered()

    def send_gathered(self) -> None:
        """Give the provider what was gathered for it, before anything else is done that it shall hear of."""
        gathered = self._gathered
        if gathered:
            self._deps.pacer.cancel(self._gathered_key)
            whole = b"".join(gathered)
            gathered.clear()
            if self.to_provider is not None:
                self.to_provider(whole)

    def _faulty(self, fault: InputFault) -> ev.LegRefusal | None:
        """A frame that came twice is dropped; what is wrong in itself ends the leg."""
        if fault is InputFault.STALE:
            self._deps.metrics.frames_dropped("in", "stale")
            return None
        status, message = _FAULTS[fault]
        return ev.LegRefusal(status, fault.value, message, "audio.payload")

    def push(self, payload: bytes) -> None:
        """Audio of other units for the provider."""
        self.send_gathered()
        if self.to_provider is not None:
            self.to_provider(payload)

    # From the provider to the caller

    def on_audio(self, payload: bytes, response_id: str, item_id: str, content_index: int) -> None:
        """A piece of an answer came."""
        if not self.units.agent_heard:
            return
        now = self._monotonic()
        if not self._guard.provider_audio(len(payload), now):
            return
        try:
            fits = self._output.push(payload, response_id or item_id, item_id, content_index, now)
        except Exception as exc:  # noqa: BLE001 - the border of a session: it shall not go on without sound
            self._on_crash(exc)
            return
        if not fits:
            self._deps.metrics.frames_dropped("out", "overflow", self._output.waiting_frames)
            self._feed(ev.OutputOverflow())
        if self not in self._deps.pacer or not self._realtime:
            self.pump()

    def on_audio_done(self, response_id: str, item_id: str, content_index: int) -> None:
        """A content part is complete."""
        self._output.end_part(response_id or item_id, item_id, content_index)
        self.pump()

    def pump(self) -> None:
        """Send what is due now and schedule the rest. A clock that starts does so with a slot of the pacer:
        none of its frames waits for the end of one."""
        pacer = self._deps.pacer
        due = self._tick(pacer.latest_slot(self._monotonic()))
        if due is not None:
            pacer.schedule(self, due, self._tick)

    def _tick(self, now: float) -> float | None:
        """Send what is due; gives when there is more."""
        leg = self.leg
        if leg is None or self._still:
            return None
        try:
            output = self._output
            while (frame := output.next_frame(now)) is not None:
                self._deliver(leg, frame, now)
                due = output.following
                if due is not None and due > now + EARLY_SECONDS:
                    return due
            return self._play(leg, now)
        except Exception as exc:  # noqa: BLE001 - the border of a session: the pacer serves others too
            self._on_crash(exc)
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
        if self.leg is not leg or (not self._realtime and leg.audio_room() <= 0):
            return None
        return output.next_due(now)

    def _deliver(self, leg: LegPort, frame: OutFrame, now: float) -> None:
        leg.send_audio(frame)
        counts = self._counts
        counts.frames_out += 1
        counts.bytes_out += len(frame.payload)
        if self._realtime:
            counts.late(frame.late)
        if self.units.listening:
            self.units.agent_said(frame, now)
        response_id = frame.response_id
        if response_id and response_id != self._last_heard:
            self._heard(response_id)

    def _heard(self, response_id: str) -> None:
        """Two answers may speak by turns: each begins once."""
        self._last_heard = response_id
        if response_id not in self._heard_responses:
            self._heard_responses.append(response_id)
            self._feed(ev.FirstFrame(response_id))
