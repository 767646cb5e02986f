"""A provider that can be asked what it knows, and its questions: facts in texts, tones and tool results.

The brain sees the items of its own connection and nothing else. Numbers are spoken as tones, one frequency
each, so that every word of a sentence can be checked without a speech model.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any
from unittest import mock

import numpy as np
from parley_local import connection, server
from parley_local.config import LocalProviderConfig
from parley_local.core.effects import BrainRequest, Call, Reply, Say, ToolResult, Utterance
from parley_local.core.items import Item
from parley_local.core.session import Session
from parley_local.server import LocalProvider, serve

RATE = 24_000
TONE_MS, GAP_MS = 160, 60
_LOW, _STEP = 400.0, 20.0


def spoken(numbers: Iterable[int], silence_ms: int = 500) -> bytes:
    """A sentence of numbers from 0 to 99 in pcm16 at 24 kHz, and the silence behind it."""
    pieces = []
    for number in numbers:
        time = np.arange(RATE * TONE_MS // 1000) / RATE
        tone = np.sin(2 * np.pi * (_LOW + _STEP * number) * time) * 12000
        pieces += [tone, np.zeros(RATE * GAP_MS // 1000)]
    pieces.append(np.zeros(RATE * silence_ms // 1000))
    return np.concatenate(pieces).astype("<i2").tobytes()


class NumbersRecognizer:
    """Hears the numbers of `spoken`."""

    def transcribe(self, samples: Any, rate: int) -> str:
        loud = np.abs(samples) > 0.05
        step = rate * 20 // 1000
        frames = [bool(loud[at : at + step].any()) for at in range(0, len(samples), step)]
        numbers, start = [], None
        for index, frame in enumerate([*frames, False]):
            if frame and start is None:
                start = index
            elif not frame and start is not None:
                piece = samples[start * step : index * step]
                if len(piece) >= rate * TONE_MS // 2000:
                    spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece)), rate))
                    numbers.append(round((int(np.argmax(spectrum)) * 1.0 - _LOW) / _STEP))
                start = None
        return "numbers " + " ".join(str(number) for number in numbers) if numbers else ""


class RecallBrain:
    """`q<N> remember <word>`, `q<N> lookup <key>`, `q<N> recall`, and spoken numbers."""

    async def reply(self, request: BrainRequest) -> Reply:
        heard = [e for e in request.history if isinstance(e, ToolResult) or getattr(e, "role", "") == "user"]
        last = heard[-1] if heard else None
        if isinstance(last, ToolResult):
            question = re.match(r"q(\d+) ", last.output)
            return (Say(f"a{question.group(1) if question else ''} result {last.output}"),)
        text = last.text if isinstance(last, Utterance) else ""
        match = re.fullmatch(r"q(\d+) (\w+) ?(.*)", text)
        if match is None:
            return (Say(f"heard {text}"),)
        number, verb, rest = match.groups()
        if verb == "lookup":
            return (Call("lookup", {"key": rest}),)
        if verb == "recall":
            return (Say(f"a{number} " + " ".join(facts(request))),)
        if verb == "long":
            return (Say(f"a{number} " + "and so on " * 12 + "end"),)
        return (Say(f"a{number} noted"),)


def facts(request: BrainRequest) -> list[str]:
    """Everything that was told and every result of a tool, in order."""
    found = []
    for entry in request.history:
        if isinstance(entry, ToolResult):
            found.append(entry.output.rpartition(" ")[2])
        elif isinstance(entry, Utterance) and entry.role == "user":
            if entry.text.startswith("numbers "):
                found.append(entry.text.removeprefix("numbers ").replace(" ", "-"))
            elif match := re.fullmatch(r"q\d+ remember (\w+)", entry.text):
                found.append(match.group(1))
    return found


def seen(item: Item) -> dict[str, Any]:
    """An item as a model sees it, whatever kind of content carries its words."""
    body: dict[str, Any] = {"id": item.id, "type": item.kind}
    if item.kind == "message":
        return body | {"role": item.role, "words": item.words}
    return body | item.fields


class Held:
    """What the provider held on each of its connections, in the order in which they came."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []

    def items(self, index: int) -> list[dict[str, Any]]:
        """What the model saw on connection `index`; messages without a word are left out."""
        items = [seen(item) for item in self.sessions[index].conversation]
        return [item for item in items if item.get("words") != ""]


@asynccontextmanager
async def recalling(**changes: Any) -> AsyncIterator[tuple[LocalProvider, Held]]:
    """A local provider with the brain and the recogniser of this module."""
    held = Held()

    class Watched(connection.Connection):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            held.sessions.append(self._session)

    config = LocalProviderConfig(**{"port": 0, "brain": "recall:RecallBrain", "audio_speed": 0.0, **changes})
    with (
        mock.patch.object(server, "Connection", Watched),
        mock.patch("parley_local.engines.TonesRecognizer", NumbersRecognizer),
    ):
        async with serve(config) as local:
            yield local, held
