"""The media units of one session beside its caller and its client: the recorder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parley_worker.core.audio import AudioFormat
from parley_worker.core.events import UnitEvent
from parley_worker.core.media_path import OutFrame
from parley_worker.core.model import SessionConfig
from parley_worker.core.playout import PartKey
from parley_worker.core.units import StartRecorder, StopRecorder, UnitOrder
from parley_worker.runtime.recording import SessionRecorder


class SessionUnits:
    """See the module. `listening` is False while no unit wants the session's audio: then nothing is told."""

    def __init__(
        self,
        config: SessionConfig,
        provider: AudioFormat,
        cleared_timeout: float,
        clock: Callable[[], float],
        on_event: Callable[[UnitEvent], None],
    ) -> None:
        self._config, self._clock, self._on_event = config, clock, on_event
        rate = 24_000 if provider.rate > 8000 else 8000
        self._recorder = SessionRecorder(config, rate, cleared_timeout, clock, self._happened)
        self._tasks: asyncio.TaskGroup | None = None
        self._begun = False
        self.listening = False

    def open(self, tasks: asyncio.TaskGroup) -> None:
        """Units live in these tasks."""
        self._tasks = tasks

    def stop(self, now: float) -> None:
        """End all units; a recording is finished by its task."""
        self._recorder.stop(now)
        self._tasks = None
        self.listening = False

    def order(self, order: UnitOrder) -> None:
        """Do what was asked for; what becomes of it is told as events."""
        match order:
            case StartRecorder():
                self._start_recorder()
            case StopRecorder():
                self._recorder.stop(self._clock())
                self.listening = False

    def _start_recorder(self) -> None:
        if self._tasks is not None:
            self._recorder.start(self._tasks)
            self.listening = self._recorder.recording is not None

    def _happened(self, event: UnitEvent) -> None:
        self.listening = self._recorder.recording is not None
        self._on_event(event)

    # The media path

    def attached(self, caller: AudioFormat, agent: AudioFormat, buffer_ms: int) -> None:
        """A caller is there. The session's recording begins with its first one."""
        self._recorder.attached(caller, agent, buffer_ms)
        if not self._begun and self._config.recording is not None:
            self._begun = True
            self._start_recorder()

    def detached(self, now: float) -> None:
        """The caller is gone and hears nothing any more."""
        if self._recorder.recording is not None:
            self._recorder.recording.hush(now)

    def caller_said(self, payload: bytes, now: float) -> None:
        """A frame of the caller, in its format."""
        self._recorder.caller_said(payload, now)

    def agent_said(self, frame: OutFrame, now: float) -> None:
        """A frame that goes to the caller."""
        self._recorder.agent_said(frame, now)

    def cleared(self, now: float) -> None:
        """The caller was told to throw away what it holds."""
        if self._recorder.recording is not None:
            self._recorder.recording.cleared(now)

    def cut(self, key: PartKey, end_ms: float) -> None:
        """The caller heard nothing of this part past `end_ms`."""
        if self._recorder.recording is not None:
            self._recorder.recording.cut(key, end_ms)
