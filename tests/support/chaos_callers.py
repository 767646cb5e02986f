"""Callers of the chaos suite: they talk all the while, and know what they should have heard.

An `Ear` follows the agent's audio as a player hears it: how long it was quiet, and whether another session's
agent was heard. A `Talker` is one caller: it attaches through the SDK, which comes back by itself, and keeps
the numbers of the turns that it was told of.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from chaos_provider import ANSWER, PAUSE, TURN, caller_of, pitch, tone, voice_of
from parley_client import (
    AgentAudio,
    AudioFormat,
    Call,
    CallOptions,
    ConversationEvent,
    Ended,
    Moved,
    ParleyError,
    Reconnecting,
    Resolver,
    Target,
    connect,
)
from parley_client.audio import BufferedPlayer, pace

FORMAT = AudioFormat.parse("pcm16@24000")
AUDIBLE = 3000  # of 32768
CYCLE = ANSWER + PAUSE
HEARD = re.compile(r"caller-(\d+)-\d+ at (\d+) Hz")
RESUME_FOR = 60.0


class Ear(BufferedPlayer):
    """What is heard of a tone of `frequency`, on the caller's clock (seconds)."""

    def __init__(self, frequency: int, *, buffer_ms: int = 60) -> None:
        super().__init__(buffer_ms=buffer_ms)
        self.frequency = frequency
        self.sound_end: float | None = None
        """When the last sound ended; None before the first."""
        self.longest = 0.0
        """The longest quiet between two sounds, in seconds, since `watch`."""
        self.longest_at = 0.0
        self.seconds = 0.0
        """How much sound was heard."""
        self.strange = 0
        """Pieces in another tone: another session's agent."""
        self._watching = False

    def watch(self) -> None:
        """Count silences from now on: what was before belongs to the beginning of the call."""
        self._watching = True
        self.longest = 0.0

    def on_heard(self, start: float, payload: bytes) -> None:
        samples = np.frombuffer(payload, dtype="<i2")
        if not len(samples) or int(np.max(np.abs(samples))) < AUDIBLE:
            return
        length = len(samples) / FORMAT.sample_rate_hz
        found = pitch(samples, FORMAT.sample_rate_hz)
        if found and abs(found - self.frequency) > 50:
            self.strange += 1
        self.quiet_until(start)
        self.sound_end = start + length
        self.seconds += length

    def quiet_until(self, now: float) -> None:
        """It has been quiet since the last sound."""
        if self._watching and self.sound_end is not None and now - self.sound_end > self.longest:
            self.longest, self.longest_at = now - self.sound_end, self.sound_end


@dataclass
class Turns:
    """The numbers of the agent's turns as a caller is told them."""

    sid: int
    told: list[int] = field(default_factory=list)
    whole: Counter[int] = field(default_factory=Counter)
    cut: list[int] = field(default_factory=list)
    """Turns that were being told when the stream was cut: these may be said again."""
    misheard: int = 0
    """Turns in which the agent understood another caller."""

    def see(self, event: ConversationEvent) -> None:
        """Take a conversation event; others than words are ignored."""
        text = str(event.data.get("transcript") or event.data.get("delta") or "")
        for sid, turn in TURN.findall(text):
            if int(sid) == self.sid and (not self.told or int(turn) != self.told[-1]):
                self.told.append(int(turn))
            if event.type == "response.output_audio_transcript.done":
                self.whole[int(turn)] += 1
        for sid, hertz in HEARD.findall(text):
            wrong = int(hertz) not in (0, caller_of(self.sid))
            self.misheard += int(sid) != self.sid or wrong

    @property
    def lost(self) -> int:
        """Turns between the first and the last that were told of nowhere."""
        return len(set(range(self.told[0], self.told[-1])) - set(self.told)) if self.told else 0

    @property
    def doubled(self) -> int:
        """Turns that were told of as a whole more than once, those that a cut fell into left out."""
        return sum(max(0, count - 1 - self.cut.count(turn)) for turn, count in self.whole.items())

    def interrupted(self) -> None:
        """The stream is cut."""
        self.cut += self.told[-1:]


class Talker:
    """One caller of one session. `async with Talker(...)`: attached and talking; leaving hangs up."""

    def __init__(
        self, name: str, sid: int, target: Target, resolver: Resolver | None = None, **options: Any
    ) -> None:
        self.name = name
        self.sid = sid
        self.ear = Ear(voice_of(sid))
        self.turns = Turns(sid)
        self.target = target
        self.others: Counter[str] = Counter()
        """Events besides audio and conversation, by kind: Draining, Moved, Reconnecting, ..."""
        self.failure: str = ""
        """Why the call failed; empty while it has not."""
        self.ended: Ended | None = None
        self.hung_up = False
        self._resolver = resolver
        self._options = CallOptions(**{"resume_timeout": RESUME_FOR, **options})
        self._tasks: list[asyncio.Task[None]] = []
        self.call: Call | None = None

    async def start(self) -> None:
        """Attach. Raises ParleyError as `connect`."""
        call = self.call = connect(
            self.target,
            input_format=FORMAT,
            player=self.ear,
            options=self._options,
            resolver=self._resolver,
        )
        await call.__aenter__()
        self._tasks = [asyncio.create_task(self._talk(call)), asyncio.create_task(self._listen(call))]

    async def hang_up(self) -> None:
        """End the call; the silence until now counts. Never fails."""
        if self.ended is None:
            self.ear.quiet_until(asyncio.get_running_loop().time())
        self.hung_up = True
        if self.call is not None:
            with contextlib.suppress(ParleyError):
                await self.call.hang_up()
            with contextlib.suppress(ParleyError):
                await self.call.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def cut(self) -> bool:
        """Ended by anything but its caller."""
        return bool(self.failure) or (self.ended is not None and self.ended.reason != "CallerHangup")

    @property
    def resumes(self) -> int:
        return self.call.stats.resumes if self.call is not None else 0

    @property
    def excess(self) -> float:
        """Seconds of the longest silence beyond what the agent makes itself."""
        return max(0.0, self.ear.longest - PAUSE)

    async def _talk(self, call: Call) -> None:
        frame = tone(caller_of(self.sid), 0.02, FORMAT.sample_rate_hz)

        def frames() -> Any:
            while True:
                yield frame

        with contextlib.suppress(ParleyError):
            async for piece in pace(frames()):
                if call.ended is not None:
                    return
                await call.send_audio(piece)

    async def _listen(self, call: Call) -> None:
        try:
            async for event in call:
                if isinstance(event, ConversationEvent):
                    self.turns.see(event)
                elif isinstance(event, Ended):
                    self.ended = event
                elif not isinstance(event, AgentAudio):
                    self.others[type(event).__name__] += 1
                    if isinstance(event, Reconnecting | Moved):
                        self.turns.interrupted()
        except ParleyError as error:
            if not self.hung_up:
                self.failure = f"{type(error).__name__}: {error}"
        if not self.hung_up:
            self.ear.quiet_until(asyncio.get_running_loop().time())
