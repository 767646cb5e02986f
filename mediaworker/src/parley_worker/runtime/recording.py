"""The recorder of one session: where its files go, when they begin, and what became of them."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from parley_realtime.units import FolderSink, RecordingError, S3Sink, S3Target
from parley_realtime.units.recorder import Recording
from parley_realtime.units.storage import Sink, safe_name

from parley_worker.core.addresses import may_be_reached
from parley_worker.core.agent import RecordingConfig
from parley_worker.core.audio import AudioFormat
from parley_worker.core.events import UnitEvent
from parley_worker.core.media_path import OutFrame
from parley_worker.core.model import SessionConfig, SessionKey
from parley_worker.core.units import RECORDER, UnitEventKind

log = logging.getLogger(__name__)

HOLD_SECONDS = 0.8
"""Beyond the time in which a caller answers a Clear, what it heard may still be cut."""
MEDIA_THREADS = 4
DISK_THREADS = 8


@functools.cache
def media_threads() -> ThreadPoolExecutor:
    """The threads that decode and encode media, for all sessions of the process."""
    return ThreadPoolExecutor(MEDIA_THREADS, "media")


@functools.cache
def disk_threads() -> ThreadPoolExecutor:
    """The threads that wait for volumes: one that does not answer holds up no player and no encoder."""
    return ThreadPoolExecutor(DISK_THREADS, "disk")


def make_sink(config: RecordingConfig, key: SessionKey, number: int) -> Sink:
    """Where recording `number` of a session goes; ValueError names the field that cannot work."""
    count = f"-{number}" if number > 1 else ""
    name = safe_name(key.namespace, f"{key.name}-{key.uid}-{key.attempt}{count}.{config.format}")
    if config.directory:
        return FolderSink(Path(config.directory), name, disk_threads())
    if not config.s3_access_key.reveal() or not config.s3_secret_key.reveal():
        raise ValueError(
            "recording.s3.credentialsSecretRef: the keys are empty; the worker's own are not used"
        )
    target = S3Target(
        url=config.s3_url,
        endpoint=config.s3_endpoint,
        region=config.s3_region,
        access_key=config.s3_access_key.reveal(),
        secret_key=config.s3_secret_key.reveal(),
        allow_address=may_be_reached,
    )
    return S3Sink(target, name)


def refusal(config: SessionConfig) -> str | None:
    """Why this session cannot be recorded as it says, or None."""
    if config.recording is None:
        return None
    if config.privacy:
        return "recording: privacy keeps no content, so nothing can be recorded; leave one of them out"
    try:
        make_sink(config.recording, config.key, 1)
    except ValueError as exc:
        return str(exc)
    return None


class SessionRecorder:
    """Makes recordings, one after the other. Everything is synchronous but the task of each recording."""

    def __init__(
        self,
        config: SessionConfig,
        rate: int,
        cleared_timeout: float,
        clock: Callable[[], float],
        on_event: Callable[[UnitEvent], None],
    ) -> None:
        self._config, self._rate, self._clock, self._on_event = config, rate, clock, on_event
        self._hold = cleared_timeout + HOLD_SECONDS
        self._number = 0
        self._buffer = 0.0
        self._caller: AudioFormat | None = None
        self._agent: AudioFormat | None = None
        self.recording: Recording | None = None

    def start(self, tasks: asyncio.TaskGroup) -> None:
        """Begin a recording; nothing happens when one runs."""
        if self.recording is not None:
            return
        if self._config.recording is None:
            text = "the session has no recording: set spec.recording"
            self._on_event(UnitEvent(RECORDER, UnitEventKind.RECORDING_FAILED, message=text))
            return
        self._number += 1
        recording = self.recording = Recording(
            make_sink(self._config.recording, self._config.key, self._number),
            format=self._config.recording.format,
            rate=self._rate,
            executor=media_threads(),
            clock=self._clock,
            hold=self._hold,
        )
        recording.buffer(self._buffer)
        tasks.create_task(self._run(recording), name=f"recording of session {self._config.key.uid}")

    async def _run(self, recording: Recording) -> None:
        url = recording.url
        self._on_event(UnitEvent(RECORDER, UnitEventKind.RECORDING_STARTED, url=url))
        try:
            event = await self._outcome(recording, url)
        finally:
            if self.recording is recording:
                self.recording = None
        self._on_event(event)

    async def _outcome(self, recording: Recording, url: str) -> UnitEvent:
        uid = self._config.key.uid
        try:
            done = await recording.run()
        except RecordingError as exc:
            log.error("session %s: the recording failed: %s", uid, exc)
            return UnitEvent(RECORDER, UnitEventKind.RECORDING_FAILED, url=url, message=str(exc))
        except Exception as exc:
            log.exception("session %s: the recording failed", uid)
            text = f"internal error: {type(exc).__name__}"
            return UnitEvent(RECORDER, UnitEventKind.RECORDING_FAILED, url=url, message=text)
        if done.dropped_ms:
            log.warning("session %s: %d ms are missing in the recording", uid, done.dropped_ms)
        kind = UnitEventKind.RECORDING_FINISHED
        return UnitEvent(RECORDER, kind, url=url, duration_ms=done.duration_ms, size=done.size)

    def stop(self, now: float) -> None:
        """Finish the recording that runs."""
        recording, self.recording = self.recording, None
        if recording is not None:
            recording.stop(now)

    # The media path

    def attached(self, caller: AudioFormat, agent: AudioFormat, buffer_ms: int) -> None:
        """A caller's formats, and how much its player holds."""
        self._caller, self._agent, self._buffer = caller, agent, buffer_ms / 1000
        if self.recording is not None:
            self.recording.buffer(self._buffer)

    def caller_said(self, payload: bytes, now: float) -> None:
        """A frame of the caller, in its format."""
        if self.recording is not None and self._caller is not None:
            self.recording.left(now, payload, self._caller)

    def agent_said(self, frame: OutFrame, now: float) -> None:
        """A frame on its way to the caller."""
        if self.recording is not None and self._agent is not None:
            key = (frame.item_id, frame.content_index)
            self.recording.right(now, frame.payload, self._agent, key, frame.position_ms)
