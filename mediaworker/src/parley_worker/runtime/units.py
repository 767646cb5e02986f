"""The media units of one session beside its caller and its client: players, the recorder, who hears whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parley_worker.core.audio import AudioFormat
from parley_worker.core.events import UnitEvent
from parley_worker.core.media_path import OutFrame, OutputPath
from parley_worker.core.model import SessionConfig
from parley_worker.core.playout import PartKey
from parley_worker.core.units import (
    CALLER,
    CLIENT,
    ControlPlayer,
    CreatePlayer,
    SendMedia,
    StartRecorder,
    StopMedia,
    StopRecorder,
    UnitEventKind,
    UnitOrder,
)
from parley_worker.runtime.players import Players
from parley_worker.runtime.recording import SessionRecorder
from parley_worker.runtime.unravel import unheard, unravel


class SessionUnits:
    """See the module. Its flags let the media path pass it by while there is nothing to do.

    `listening`: a recorder runs. `steering`: the caller's audio does not go to the provider as it is.
    `agent_heard`: the agent's audio goes to the caller.
    """

    def __init__(
        self,
        config: SessionConfig,
        provider: AudioFormat,
        cleared_timeout: float,
        clock: Callable[[], float],
        output: OutputPath,
        on_event: Callable[[UnitEvent], None],
        on_sound: Callable[[], None],
        push: Callable[[bytes], None],
    ) -> None:
        """`on_sound` is called when there is something for the caller, `push` gives audio to the provider."""
        self._config, self._clock, self._output = config, clock, output
        self._tell = on_event
        rate = 24_000 if provider.rate > 8000 else 8000
        self._recorder = SessionRecorder(config, rate, cleared_timeout, clock, self._happened)
        self._players = Players(
            config.media_access, provider, clock, on_event, on_sound, self._mixing_changed, push
        )
        self._tasks: asyncio.TaskGroup | None = None
        self._begun = False
        self._caller_heard = True
        self.listening = False
        self.steering = False
        self.agent_heard = True

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Units live in these tasks."""
        self._tasks = tasks

    def stop(self, now: float) -> None:
        """End all units; a recording is finished by its task."""
        self._tasks = None
        self._recorder.stop(now)
        self._players.stop()
        self._settle()

    def let_go(self) -> None:
        """Nothing of it is used any more; see `unravel`."""
        unravel(self._players, self._recorder)
        self._tell = unheard

    def order(self, order: UnitOrder) -> None:
        """Do what was asked for. What becomes of it is told as events; what cannot be done, too."""
        if self._tasks is None:
            return
        try:
            self._do(order, self._tasks)
        except ValueError as exc:
            unit = getattr(order, "unit", "") or getattr(order, "source", "")
            self._tell(UnitEvent(unit, UnitEventKind.FAILED, message=str(exc)))
        self._settle()

    def _do(self, order: UnitOrder, tasks: asyncio.TaskGroup) -> None:
        match order:
            case StartRecorder():
                self._recorder.start(tasks)
            case StopRecorder():
                self._recorder.stop(self._clock())
            case CreatePlayer():
                self._players.create(order, tasks)
            case ControlPlayer():
                self._players.control(order, tasks)
            case SendMedia(source, target, tag):
                self._connect(source, target, tag)
            case StopMedia(source, target):
                self._disconnect(source, target)

    def _connect(self, source: str, target: str, tag: str) -> None:
        if (source, target) == (CALLER, CLIENT):
            self._caller_heard = True
        elif (source, target) == (CLIENT, CALLER):
            self.agent_heard = True
        elif target in (CALLER, CLIENT):
            self._players.send(source, target, tag)
        else:
            raise ValueError(f"nothing can be sent to {target!r}: use {CALLER!r} or {CLIENT!r}")

    def _disconnect(self, source: str, target: str) -> None:
        if (source, target) == (CALLER, CLIENT):
            self._caller_heard = False
        elif (source, target) == (CLIENT, CALLER):
            self.agent_heard = False
        else:
            self._players.stop_sending(source, target)

    def _happened(self, event: UnitEvent) -> None:
        self._settle()
        self._tell(event)

    def _settle(self) -> None:
        self.listening = self._recorder.recording is not None
        self.steering = self._players.to_client is not None or not self._caller_heard

    def _mixing_changed(self) -> None:
        self._output.mix_with(self._players.to_caller)

    # The media path

    def attached(self, caller: AudioFormat, agent: AudioFormat, buffer_ms: int) -> None:
        """A caller is there. The session's recording begins with its first one."""
        self._recorder.attached(caller, agent, buffer_ms)
        self._players.attached(agent)
        if not self._begun and self._config.recording is not None:
            self._begun = True
            self.order(StartRecorder())

    def detached(self, now: float) -> None:
        """The caller is gone and hears nothing any more."""
        if self._recorder.recording is not None:
            self._recorder.recording.hush(now)

    def caller_said(self, payload: bytes, now: float) -> None:
        """A frame of the caller, in its format, while `listening`."""
        self._recorder.caller_said(payload, now)

    def for_client(self, payload: bytes, now: float) -> bytes:
        """What the provider hears for this audio of the caller, while `steering`; may be nothing."""
        if not self._caller_heard:
            if self._players.to_client is None:
                return b""
            payload = self._players.silence(len(payload))
        return self._players.over_caller(payload, now)

    def agent_said(self, frame: OutFrame, now: float) -> None:
        """A frame that goes to the caller, while `listening`."""
        self._recorder.agent_said(frame, now)

    def cleared(self, now: float) -> None:
        """The caller was told to throw away what it holds."""
        if self._recorder.recording is not None:
            self._recorder.recording.cleared(now)

    def cut(self, key: PartKey, end_ms: float) -> None:
        """The caller heard nothing of this part past `end_ms`."""
        if self._recorder.recording is not None:
            self._recorder.recording.cut(key, end_ms)
