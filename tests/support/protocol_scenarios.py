"""Reads and runs protocol scenarios; `tests/conformance/scenarios/conversation.yaml` explains their form.

A scenario is run over a link: `CoreLink` is the local provider's session core in virtual time with the parts
that a server has (brain, voice, recogniser), `LiveLink` is a WebSocket to a running provider.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml
from local_session import Harness, silence, tone
from parley_local.brains import Brain
from parley_local.core.effects import Speak, Think, Transcribe
from parley_local.core.emitter import BETA_NAMES
from parley_local.core.settings import Shape
from parley_local.speech.tones import TonesRecognizer, TonesVoice
from parley_local.speech.wire import decode, encode
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

FOLDER = Path(__file__).parents[1] / "conformance" / "scenarios"
BRAIN = FOLDER / "brain.yaml"
PATIENCE_S = 10.0
MOST_EVENTS = 2000
MODELS = {Shape.GA: "gpt-realtime", Shape.BETA: "gpt-4o-realtime-preview"}
Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Scenario:
    """One scenario in one shape."""

    name: str
    shape: Shape
    transcription: bool
    steps: tuple[Json, ...]
    also: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return f"{self.name}-{self.shape.value}"

    def sends(self) -> Iterator[str]:
        """Types of the client events it sends."""
        for step in self.steps:
            if "send" in step:
                yield str(self.event(step["send"])["type"])
            if "speak" in step:
                yield "input_audio_buffer.append"

    def expects(self) -> Iterator[str]:
        """Types of the server events it waits for."""
        for step in self.steps:
            for entry in step.get("expect", ()):
                expected = self.expected(entry)
                if expected is not None:
                    yield str(expected["type"])
        yield from self.also

    def event(self, body: Json) -> Json:
        return body[self.shape.value] if "type" not in body else body

    def expected(self, entry: str | Json) -> Json | None:
        """The entry with its type in this shape's words; None where it is not of this shape."""
        expected: Json = {"type": entry} if isinstance(entry, str) else dict(entry)
        only = expected.pop("shape", self.shape.value)
        if only != self.shape.value:
            return None
        if self.shape is Shape.BETA:
            expected["type"] = BETA_NAMES.get(expected["type"], expected["type"])
        return expected


def load() -> list[Scenario]:
    """Every scenario of the folder, once per shape it is for."""
    found: list[Scenario] = []
    for path in sorted(FOLDER.glob("*.yaml")):
        if path == BRAIN:
            continue
        for body in yaml.safe_load(path.read_text()):
            shapes = [Shape(name) for name in body.get("shapes", ("ga", "beta"))]
            found += [
                Scenario(
                    body["name"],
                    shape,
                    bool(body.get("transcription")),
                    tuple(body["steps"]),
                    tuple(body.get("also", ())),
                )
                for shape in shapes
            ]
    return found


class Link(Protocol):
    """A connection to the provider."""

    async def send(self, event: Json) -> None: ...

    async def receive(self) -> Json:
        """The next server event. Raises AssertionError when none comes."""
        ...

    async def wait(self, seconds: float) -> None: ...

    async def close_code(self) -> int: ...


async def run(scenario: Scenario, link: Link) -> list[Json]:
    """Run all steps; the events that came. Raises AssertionError naming the step."""
    saved: dict[str, Any] = {}
    seen: list[Json] = []
    for number, step in enumerate(scenario.steps, 1):
        where = f"{scenario.id}, step {number}"
        if "send" in step:
            await link.send(_filled(scenario.event(step["send"]), saved))
        if "speak" in step:
            for audio in sounds(step["speak"]):
                await link.send({"type": "input_audio_buffer.append", "audio": audio})
        for entry in step.get("expect", ()):
            expected = scenario.expected(entry)
            if expected is not None:
                await _await_event(link, expected, saved, seen, where)
        if "wait" in step:
            await link.wait(step["wait"])
        if "closed" in step:
            code = await link.close_code()
            assert code == step["closed"], f"{where}: closed with {code}"
    return seen


async def _await_event(link: Link, expected: Json, saved: Json, seen: list[Json], where: str) -> None:
    wanted = {path: _filled(value, saved) for path, value in expected.get("where", {}).items()}
    passed: list[str] = []
    for _ in range(MOST_EVENTS):
        try:
            event = await link.receive()
        except AssertionError as error:
            what = f"{where}: {expected['type']} did not come ({error}), but {passed}"
            raise AssertionError(what) from None
        seen.append(event)
        passed.append(event["type"])
        if event["type"] != expected["type"]:
            continue
        found = {path: _at(event, path) for path in wanted}
        assert found == wanted, f"{where}: {expected['type']} has {found}, not {wanted}"
        saved.update({name: _at(event, path) for name, path in expected.get("save", {}).items()})
        return
    raise AssertionError(f"{where}: {expected['type']} did not come among {MOST_EVENTS} events")


def _at(event: Any, path: str) -> Any:
    for key in path.split("."):
        event = event.get(key) if isinstance(event, dict) else None
    return event


def _filled(value: Any, saved: dict[str, Any]) -> Any:
    if isinstance(value, str) and value.startswith("$"):
        return saved[value[1:]]
    if isinstance(value, dict):
        return {key: _filled(member, saved) for key, member in value.items()}
    return [_filled(member, saved) for member in value] if isinstance(value, list) else value


def sounds(plan: str) -> Iterator[str]:
    """Base64 of 20 ms frames of `s300 t1000`: silence and sound in ms."""
    pcm = b"".join((tone if word[0] == "t" else silence)(int(word[1:])) for word in plan.split())
    for at in range(0, len(pcm), 960):
        yield base64.b64encode(pcm[at : at + 960]).decode()


def _at_once(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    raise AssertionError("the coroutine waits")


class CoreLink:
    """The session core, its clock moved on only when nothing else can happen."""

    def __init__(self, scenario: Scenario, brain: Brain, mcp_servers: Any) -> None:
        self.harness = Harness(
            scenario.shape,
            transcription_only=scenario.transcription,
            mcp_servers=mcp_servers,
            model=MODELS[scenario.shape],
            pace=4.0,
        )
        self._brain = brain
        self._read = 0

    async def send(self, event: Json) -> None:
        self.harness.raw(json.dumps(event))

    async def receive(self) -> Json:
        while self._read == len(self.harness.events):
            if self.harness.work:
                self._work()
                continue
            due = self.harness.session.next_deadline()
            assert due is not None, "the session is closed"
            assert due < self.harness.now + PATIENCE_S, "nothing is due"
            self.harness.advance(due - self.harness.now)
        self._read += 1
        return json.loads(json.dumps(self.harness.events[self._read - 1]))  # type: ignore[no-any-return]

    def _work(self) -> None:
        harness, job = self.harness, self.harness.work.pop(0)
        match job:
            case Transcribe():
                text = TonesRecognizer().transcribe(decode(job.audio, job.wire), job.wire.rate)
                harness.take(harness.session.transcribed(job.item_id, text, harness.now))
            case Think():
                reply = _at_once(self._brain.reply(job.request))
                harness.take(harness.session.replied(job.response_id, reply, harness.now))
            case Speak():
                samples, rate = _at_once(TonesVoice().synthesize(job.text, job.voice, job.speed))
                audio = encode(samples, rate, job.wire)
                harness.take(harness.session.spoke(job.response_id, job.text, audio, harness.now))

    async def wait(self, seconds: float) -> None:
        while self.harness.work:
            self._work()
        self.harness.advance(seconds)

    async def close_code(self) -> int:
        return self.harness.closed[0].code


class LiveLink:
    """A WebSocket."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._received: deque[Json] = deque()

    async def send(self, event: Json) -> None:
        await self._socket.send(json.dumps(event))

    async def receive(self) -> Json:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return json.loads(await self._socket.recv())  # type: ignore[no-any-return]
        except TimeoutError:
            raise AssertionError(f"nothing came for {PATIENCE_S:g} s") from None
        except ConnectionClosed as closed:
            raise AssertionError(f"closed: {closed}") from None

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close_code(self) -> int:
        async with asyncio.timeout(PATIENCE_S):
            await self._socket.wait_closed()
        return self._socket.close_code or 1006
