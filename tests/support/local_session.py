"""Drives the local provider's session core by hand: virtual time, counted ids, an energy detector."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from parley_local.core.effects import Close, Effect, Reply, Send, Speak, Think, Transcribe
from parley_local.core.session import Session, SessionOptions
from parley_local.core.settings import Shape
from parley_local.speech.vad import EnergyVad


def tone(ms: int, rate: int = 24000) -> bytes:
    t = np.arange(rate * ms // 1000) / rate
    return (np.sin(2 * np.pi * 440 * t) * 12000).astype("<i2").tobytes()


def silence(ms: int, rate: int = 24000) -> bytes:
    return bytes(rate * ms // 1000 * 2)


class Harness:
    """A session with its effects sorted: `events` sent, work asked for, close codes."""

    def __init__(self, shape: Shape = Shape.GA, **options: Any) -> None:
        self._ids = 0
        self.now = 100.0
        chosen = SessionOptions(shape=shape, **{"model": "m", "pace": 0.0, **options})
        self.session = Session(chosen, EnergyVad, self._new_id, self.now)
        self.events: list[dict[str, Any]] = []
        self.work: list[Transcribe | Think | Speak] = []
        self.closed: list[Close] = []
        self.take(self.session.start(self.now))

    def _new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}{self._ids}"

    def take(self, effects: list[Effect]) -> list[dict[str, Any]]:
        new = [effect.event for effect in effects if isinstance(effect, Send)]
        self.events += new
        self.work += [effect for effect in effects if isinstance(effect, Transcribe | Think | Speak)]
        self.closed += [effect for effect in effects if isinstance(effect, Close)]
        return new

    def send(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        return self.take(self.session.receive(json.dumps({"type": kind, **fields}), self.now))

    def raw(self, message: str | bytes) -> list[dict[str, Any]]:
        return self.take(self.session.receive(message, self.now))

    def append(self, audio: bytes, step: int = 960) -> list[dict[str, Any]]:
        new: list[dict[str, Any]] = []
        for at in range(0, len(audio), step):
            new += self.send(
                "input_audio_buffer.append", audio=base64.b64encode(audio[at : at + step]).decode()
            )
        return new

    def user_says(self, text: str) -> list[dict[str, Any]]:
        content = [{"type": "input_text", "text": text}]
        item = {"type": "message", "role": "user", "content": content}
        return self.send("conversation.item.create", item=item)

    def finish_work(
        self, reply: Callable[[Think], Reply], heard: str | None = "hello", audio: bytes | None = b"\0" * 9600
    ) -> None:
        """Answer everything the session asked for until it asks for nothing more."""
        while self.work:
            job = self.work.pop(0)
            if isinstance(job, Transcribe):
                self.take(self.session.transcribed(job.item_id, heard, self.now))
            elif isinstance(job, Think):
                self.take(self.session.replied(job.response_id, reply(job), self.now))
            else:
                self.take(self.session.spoke(job.response_id, job.text, audio, self.now))

    def advance(self, seconds: float) -> list[dict[str, Any]]:
        """Let virtual time pass, with every deadline on the way."""
        new: list[dict[str, Any]] = []
        end = self.now + seconds
        while (due := self.session.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            new += self.take(self.session.tick(self.now))
        self.now = end
        return new

    @property
    def types(self) -> list[str]:
        """Types sent so far, runs of the same delta as one."""
        found: list[str] = []
        for event in self.events:
            kind = event["type"]
            if not (kind.endswith(".delta") and kind in found[-2:]):
                found.append(kind)
        return found

    def last(self, kind: str) -> dict[str, Any]:
        return next(event for event in reversed(self.events) if event["type"] == kind)


def error_of(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The one error among these events."""
    (event,) = [event for event in events if event["type"] == "error"]
    return dict(event["error"])
