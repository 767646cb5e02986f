"""Scenarios over our own client, recorded by its trace; and recordings played back into it without a socket.

`python tests/support/client_recorder.py` writes the golden recordings of the unit tests anew.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import protocol_scenarios as scenarios
from parley_local import LocalProviderConfig, serve
from parley_realtime import (
    MediaChunk,
    MediaSource,
    RealtimeAPIClientParameters,
    RealtimeError,
    RealtimeEvent,
    beta,
    create_realtime_api_client,
)
from parley_realtime.client.trace import TraceEntry
from parley_realtime.protocol.shape import ClientType
from parley_realtime.transport import Ending, Receiver
from recorded_session import DELTA_TYPES, SHAPES, Recording, Step, wire_text

GOLDEN = Path(__file__).parents[1] / "unit" / "parley_realtime" / "golden"
GOLDEN_SCENARIOS = (
    "a caller who interrupts-ga",
    "a caller who interrupts-beta",
    "a function call and its result-ga",
    "a spoken question and a spoken answer-beta",
    "an update with one wrong field is refused whole-ga",
    "a transcription session-ga",
    "tools of an MCP server and a call of one-ga",
    "events of other transports-ga",
)


@dataclass
class Listener:
    """Everything a client says: names to listeners, audio to a unit, events to an observer; and its trace."""

    shape: str
    events: asyncio.Queue[dict[str, Any]] = field(default_factory=asyncio.Queue)
    heard: list[str] = field(default_factory=list)
    audio: dict[str, int] = field(default_factory=dict)
    trace: list[TraceEntry] = field(default_factory=list)
    own_clock: bool = True
    error: RealtimeError | None = None
    dispatched: asyncio.Event = field(default_factory=asyncio.Event)

    def listen(self, client: Any) -> None:
        """Register for every name of the provider's events, and for the audio."""
        shape = SHAPES[self.shape]
        for name in {*shape.names.values(), shape.unknown_name}:
            client.add_event_listener(name, self._hear)
        client.send_media_to(self)

    def _hear(self, event: RealtimeEvent[Any, Any]) -> None:
        self.heard.append(event.name)
        self.dispatched.set()

    def media_started(
        self, source: MediaSource, *, tag: str | None, encoding: str, custom_parameters: Mapping[str, str]
    ) -> None:
        """See MediaUnit."""

    def media(self, source: MediaSource, chunk: MediaChunk) -> None:
        self.audio[chunk.item_id] = self.audio.get(chunk.item_id, 0) + len(chunk.payload)
        self.events.put_nowait({"type": DELTA_TYPES[self.shape], "item_id": chunk.item_id})

    def media_done(self, source: MediaSource, *, response_id: str, item_id: str, content_index: int) -> None:
        """See MediaUnit."""

    def media_cleared(self, source: MediaSource) -> None:
        """See MediaUnit."""

    @property
    def told(self) -> int:
        """How many events of the trace are for listeners."""
        return sum(e.direction == "received" and e.frame["type"] != "audio delta" for e in self.trace)

    def recording(self, title: str) -> Recording:
        begin = self.trace[0].at
        steps = tuple(Step(round(e.at - begin, 3), e.direction, e.frame) for e in self.trace)
        return Recording(self.shape, title, steps, tuple(self.heard), self.audio)


class ClientLink:
    """See `protocol_scenarios.Link`."""

    def __init__(self, client: Any, listener: Listener) -> None:
        self._client = client
        self._listener = listener

    async def send(self, event: dict[str, Any]) -> None:
        if event["type"] == "input_audio_buffer.append":
            self._client.push_media(base64.b64decode(event["audio"]))
            await asyncio.sleep(0)
        else:
            self._client.send_event(event)

    async def receive(self) -> dict[str, Any]:
        try:
            async with asyncio.timeout(scenarios.PATIENCE_S):
                return await self._listener.events.get()
        except TimeoutError:
            raise AssertionError(f"nothing came for {scenarios.PATIENCE_S:g} s") from None

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def close_code(self) -> int:
        async with asyncio.timeout(scenarios.PATIENCE_S):
            await self._client.wait_closed()
        return 1000 if self._client.error is None else int(self._client.error.close_code or 1000)


@asynccontextmanager
async def connected(
    listener: Listener, base_url: str, kind: ClientType = ClientType.REALTIME
) -> AsyncIterator[Any]:
    """A client that `listener` listens to, closed at the end."""
    create = create_realtime_api_client if listener.shape == "ga" else beta.create_realtime_api_client
    parameters = RealtimeAPIClientParameters(
        api_key="sk-recorded-key",
        base_url=base_url,
        type=kind,
        trace=listener.trace.append,
        observer=listener.events.put_nowait,
    )
    client: Any = await create(parameters)
    listener.listen(client)
    try:
        yield client
    finally:
        client.close()
        await client.wait_closed()


async def record(scenario: scenarios.Scenario, base_url: str) -> Recording:
    """Run the scenario with our client and give its recording."""
    listener = Listener(scenario.shape.value)
    kind = ClientType.TRANSCRIPTION if scenario.transcription else ClientType.REALTIME
    async with connected(listener, base_url, kind) as client:
        await scenarios.run(scenario, ClientLink(client, listener))
        async with asyncio.timeout(scenarios.PATIENCE_S):
            while len(listener.heard) < listener.told:
                listener.dispatched.clear()
                await listener.dispatched.wait()
        return listener.recording(scenario.id)


class PlayedBack:
    """A socket that gives a recording's received frames, one a turn of the loop, and takes what is sent."""

    writable = True
    latency = 0.0
    close_code = 1000
    close_reason = ""

    def __init__(self, recording: Recording) -> None:
        self.frames = [
            wire_text(recording, step.frame).encode()
            for step in recording.steps
            if step.direction == "received"
        ]
        self.sent: list[str | bytes] = []
        self._receiver: Receiver | None = None

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        assert self._receiver is not None
        if not self.frames:
            self._receiver.lost(Ending(1000, "", 1000, received_first=True))
            return
        self._receiver.frame(self.frames.pop(0))
        loop = asyncio.get_running_loop()
        # Two turns: who connects is back from `connect` and listens before the next frame comes.
        loop.call_soon(loop.call_soon, self._next)

    def send(self, data: str | bytes) -> None:
        self.sent.append(data)

    async def close(self, code: int, reason: str) -> None:
        """Gone at once."""

    def abort(self) -> None:
        """Nothing is open."""


async def play_back(recording: Recording) -> Listener:
    """What our client tells when its provider is the recording; `open_socket` must be replaced already."""
    listener = Listener(recording.shape)
    kind = ClientType.TRANSCRIPTION if "transcription" in recording.title else ClientType.REALTIME
    async with connected(listener, "ws://recorded.test", kind) as client:
        await client.wait_closed()
        listener.error = client.error
    return listener


async def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    config = LocalProviderConfig(port=0, audio_speed=4, brain=f"script:{scenarios.BRAIN}")
    async with serve(config) as provider:
        for scenario in scenarios.load():
            if scenario.id in GOLDEN_SCENARIOS:
                recording = await record(scenario, f"ws://127.0.0.1:{provider.port}")
                path = GOLDEN / f"{scenario.id.replace(' ', '-')}.jsonl"
                path.write_text("\n".join(recording.lines()) + "\n")
                print(f"{path.name}: {len(recording.steps)} frames, {path.stat().st_size} bytes")


if __name__ == "__main__":
    asyncio.run(main())
