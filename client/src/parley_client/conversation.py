"""One spoken conversation: a WAV goes in, the answer is recorded, the call ends when the agent has answered.

What `parley call`, `parley run` and `parley demo` have in common.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from .audio import SILENT_DB, LevelMeter, WavRecorder, paced_silence, paced_wav
from .call import Call, connect
from .events import (
    AgentAudio,
    Clear,
    ConversationEvent,
    Draining,
    Ended,
    Event,
    Moved,
    Reconnecting,
    Transcript,
    Transfer,
    transcript_of,
)
from .formats import PCM16_24K, AudioFormat
from .options import CallOptions, Playout
from .resolving import Resolver
from .target import Target

LEAD_MS: Final = 300
LEVELS_SECONDS: Final = 0.1
GREETED_SECONDS: Final = 1.0


class Listener(Protocol):
    """Told what happens while it happens."""

    def transcript(self, transcript: Transcript) -> None:
        """One side said something; pieces of an answer come before the whole."""
        ...

    def levels(self, caller_db: float, agent_db: float, seconds: float) -> None:
        """Loudness of both sides, ten times a second."""
        ...

    def happened(self, event: Event) -> None:
        """Anything else worth a line."""
        ...


@dataclass(frozen=True, slots=True)
class ConversationOptions:
    """How to hold the conversation.

    Attributes:
        format: caller and agent audio.
        playout: who paces the agent.
        answer_timeout: seconds to wait for an answer after the question.
        linger: seconds of silence after an answer before the caller hangs up.
        listen_first: the agent greets: the question waits until that was heard and a second more, or until
            nothing was heard for `answer_timeout` seconds.
        buffer_ms: jitter buffer of the recording.
        call: the rest.
    """

    format: AudioFormat = PCM16_24K
    playout: Playout = Playout.REALTIME
    answer_timeout: float = 30.0
    linger: float = 1.5
    listen_first: bool = False
    buffer_ms: int = 120
    call: CallOptions = field(default_factory=CallOptions)


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    ended: Ended | None
    """The session's last word; None when it was not heard in time."""
    answered: bool
    """True when agent audio was heard after the question."""
    recording: Path
    transcripts: list[Transcript]
    seconds: float
    call: Call


class TurnWatch:
    """Decides when the conversation is over. Pure: time is an argument (seconds)."""

    def __init__(self, linger: float, answer_timeout: float) -> None:
        self._linger = linger
        self._answer_timeout = answer_timeout
        self._asked_at: float | None = None
        self._last_sound = float("-inf")
        self._responding = 0
        self._speaking = False
        self.answered = False

    def question_sent(self, now: float) -> None:
        """The last frame of the question is on its way."""
        self._asked_at = now

    def sound(self, now: float) -> None:
        """The agent is heard."""
        self._last_sound = now
        self.answered = self.answered or self._asked_at is not None

    def event(self, type: str, now: float) -> None:
        """A conversation event came."""
        if type == "response.created":
            self._responding += 1
        elif type == "response.done":
            self._responding = max(0, self._responding - 1)
            self._last_sound = max(self._last_sound, now)
        elif type == "input_audio_buffer.speech_started":
            self._speaking = True
        elif type == "input_audio_buffer.speech_stopped":
            self._speaking = False

    def may_ask(self, now: float, since: float) -> bool:
        """True when the agent's greeting was heard to its end, or none came; the call is on since `since`."""
        if self._last_sound == float("-inf"):
            return now - since >= self._answer_timeout
        return not self._responding and now - self._last_sound >= GREETED_SECONDS

    def is_over(self, now: float) -> bool:
        """True when it is time to hang up."""
        if self._asked_at is None:
            return False
        if self.answered and not self._responding and not self._speaking:
            return now - self._last_sound >= self._linger
        return now - max(self._asked_at, self._last_sound) >= self._answer_timeout


async def hold(
    target: Target,
    question: Path,
    answer: Path,
    listener: Listener,
    options: ConversationOptions | None = None,
    *,
    on_call: Callable[[Call], None] | None = None,
    resolver: Resolver | None = None,
) -> Outcome:
    """Play `question` to the session in real time and record what the caller hears into `answer`.

    `resolver` tells where the session is when its worker is lost.

    Raises:
        AudioError: one of the files cannot be used.
        ParleyError: the call failed.
    """
    options = options or ConversationOptions()
    format = options.format
    recorder = WavRecorder(answer, buffer_ms=options.buffer_ms)
    meter = LevelMeter(format)
    watch = TurnWatch(options.linger, options.answer_timeout)
    transcripts: list[Transcript] = []
    now = asyncio.get_running_loop().time
    frames = paced_wav(question, format, lead_ms=LEAD_MS)
    first = await anext(frames)  # a bad file is refused before anybody is called
    call = connect(
        target,
        input_format=format,
        playout=options.playout,
        player=recorder,
        options=options.call,
        resolver=resolver,
    )
    began = now()
    async with call:
        began = now()
        if on_call is not None:
            on_call(call)

        async def send(source: AsyncIterator[bytes]) -> None:
            async for frame in source:
                meter.feed(frame)
                await call.send_audio(frame)

        async def speak() -> None:
            if options.listen_first:
                async for frame in paced_silence(format):
                    await call.send_audio(frame)
                    if watch.may_ask(now(), began):
                        break
                await send(paced_wav(question, format, lead_ms=LEAD_MS))
            else:
                await call.send_audio(first)
                await send(frames)
            watch.question_sent(now())
            await send(paced_silence(format))

        async def supervise() -> None:
            while not watch.is_over(now()):
                await asyncio.sleep(LEVELS_SECONDS)
                if not recorder.idle:
                    watch.sound(now())
                agent = recorder.meter.db if recorder.meter is not None and not recorder.idle else SILENT_DB
                listener.levels(meter.db, agent, now() - began)

        async def listen() -> None:
            async for event in call:
                if isinstance(event, ConversationEvent):
                    watch.event(event.type, now())
                _tell(listener, event, transcripts)

        listening = asyncio.create_task(listen(), name="conversation events")
        others = [
            asyncio.create_task(part(), name=f"conversation {part.__name__}") for part in (speak, supervise)
        ]
        try:
            await asyncio.wait([listening, others[1]], return_when=asyncio.FIRST_COMPLETED)
            await _stop(others)
            if not listening.done():
                await call.hang_up("the question was answered" if watch.answered else "no answer came")
                await asyncio.wait([listening], timeout=options.call.hangup_timeout)
        finally:
            await _stop([*others, listening])
        for task in (listening, *others):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
    with contextlib.suppress(RuntimeError):
        await frames.aclose()  # type: ignore[attr-defined]
    return Outcome(call.ended, watch.answered, answer, transcripts, now() - began, call)


def _tell(listener: Listener, event: Event, transcripts: list[Transcript]) -> None:
    if isinstance(event, AgentAudio):
        return
    if isinstance(event, ConversationEvent) and (words := transcript_of(event)):
        if words.final:
            transcripts.append(words)
        listener.transcript(words)
    elif isinstance(event, Clear | Draining | Moved | Transfer | Reconnecting | ConversationEvent):
        listener.happened(event)


async def _stop(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
