"""Callers for tests: they keep sending audio in real time, say what they are given, record what they hear."""

from __future__ import annotations

import asyncio
import contextlib
import wave
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from parley_client import (
    AgentAudio,
    AudioFormat,
    CallOptions,
    ConversationEvent,
    Ended,
    Event,
    Target,
    WavRecorder,
    connect,
)
from parley_client.audio import frames, paced_silence
from speech import recognize_digits, synthesize

AUDIBLE = 300  # of 32768
JITTER_MS = 2000  # the players hold back a lot: one small machine is cluster, provider and callers at once
QUIET = 0.8  # seconds without agent audio after which an answer is over


def heard_digits(recording: Path) -> str:
    """The digits in what a caller heard, read from its recording without the silence around the speech."""
    with wave.open(str(recording), "rb") as source:
        samples, rate = (
            np.frombuffer(source.readframes(source.getnframes()), dtype="<i2"),
            source.getframerate(),
        )
    loud = np.flatnonzero(np.abs(samples.astype(np.int32)) > AUDIBLE)
    assert len(loud), f"{recording.name}: nothing was heard"
    around = rate // 2
    speech = samples[max(0, loud[0] - around) : loud[-1] + around]
    return recognize_digits(speech.tobytes(), rate)


@dataclass(frozen=True)
class Arrival:
    """A frame of agent audio and when it came (seconds of the event loop's clock)."""

    at: float
    audio: AgentAudio


@dataclass(frozen=True)
class Answer:
    """A response as the provider tells it, and its audio as the caller got it (PCM16)."""

    response: dict[str, Any]
    pcm: bytes
    rate: int

    @property
    def digits(self) -> str:
        return recognize_digits(self.pcm, self.rate)


@dataclass
class Caller:
    """`async with Caller(target, "g711_ulaw", path) as caller`: attached, and sending silence.

    Leaving the block hangs up, unless the session has ended.
    """

    target: Target
    format: str
    recording: Path
    resume: bool = True
    arrivals: list[Arrival] = field(default_factory=list)
    events: list[ConversationEvent] = field(default_factory=list)
    others: list[Event] = field(default_factory=list)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.audio_format = AudioFormat.parse(self.format)
        self._speech: deque[bytes] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self.recorder = WavRecorder(self.recording, buffer_ms=JITTER_MS)
        options = CallOptions(resume=self.resume)
        self.call = connect(
            self.target, input_format=self.audio_format, player=self.recorder, options=options
        )
        await self.call.__aenter__()
        self._tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._receive())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tasks[0].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tasks[0]
        await self.call.__aexit__(kind, error, trace)
        await asyncio.wait(self._tasks, timeout=5)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def ended(self) -> Ended | None:
        return self.call.ended

    async def ask(self, text: str, *, timeout: float = 45) -> Answer:
        """Say it and listen to the whole answer."""
        rate = self.audio_format.sample_rate_hz
        pcm = await asyncio.to_thread(synthesize, text, rate)
        done, begun = self._count("response.done"), len(self.arrivals)
        self._speech.extend(frames(np.frombuffer(pcm, dtype="<i2"), self.audio_format))
        async with asyncio.timeout(timeout):
            while self._count("response.done") <= done:
                await self._wait()
            while not (self.recorder.idle and self._quiet_for() > QUIET):
                await self._wait(0.05)
        event = [event for event in self.events if event.type == "response.done"][done]
        payload = b"".join(arrival.audio.payload for arrival in self.arrivals[begun:])
        samples = self.audio_format.decode(payload).astype("<i2")
        return Answer(dict(event.data["response"]), samples.tobytes(), rate)

    async def wait_ended(self, timeout: float = 15) -> Ended:
        async with asyncio.timeout(timeout):
            return await self.call.wait_ended()

    def _count(self, kind: str) -> int:
        return sum(event.type == kind for event in self.events)

    def _quiet_for(self) -> float:
        return asyncio.get_running_loop().time() - (self.arrivals[-1].at if self.arrivals else 0.0)

    async def _wait(self, longest: float = 0.5) -> None:
        """Until something comes, `longest` seconds at most."""
        if self.failure is not None:
            raise self.failure
        if self.ended is not None:
            raise AssertionError(f"the session ended: {self.ended}")
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest):
                await self._changed.wait()

    async def _send(self) -> None:
        async for silence in paced_silence(self.audio_format):
            if self.ended is not None or self.failure is not None:
                return
            await self.call.send_audio(self._speech.popleft() if self._speech else silence)

    async def _receive(self) -> None:
        try:
            async for event in self.call:
                if isinstance(event, AgentAudio):
                    self.arrivals.append(Arrival(asyncio.get_running_loop().time(), event))
                elif isinstance(event, ConversationEvent):
                    self.events.append(event)
                else:
                    self.others.append(event)
                self._changed.set()
        except Exception as error:  # noqa: BLE001 - kept for the test, which is told by the next wait
            self.failure = error
        self._changed.set()


def check_gapless(caller: Caller, *, longest_pause: float = 2.5) -> None:
    """The agent's audio as it came: no number missing, no sample missing, no pause within an item."""
    sequence = [arrival.audio.sequence for arrival in caller.arrivals]
    assert sequence, "no audio came"
    assert sequence == list(range(1, len(sequence) + 1)), "frames are missing or out of order"
    before: Arrival | None = None
    for arrival in caller.arrivals:
        audio = arrival.audio
        same = before is not None and (before.audio.item_id, before.audio.content_index) == (
            audio.item_id,
            audio.content_index,
        )
        if before is not None and same:
            length = caller.audio_format.seconds(len(before.audio.payload)) * 1000
            assert abs(before.audio.position_ms + length - audio.position_ms) <= 2, "samples are missing"
            assert arrival.at - before.at < longest_pause, f"a pause of {arrival.at - before.at:.2f} s"
        else:
            assert audio.position_ms == 0, "an item does not begin at its start"
        before = arrival
