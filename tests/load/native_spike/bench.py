"""CPU of the steps of a frame's way: the worker's Python beside the spike's Rust, in one process and one run.

python tests/load/native_spike/bench.py [--rounds N] [--json FILE]

Each step is first shown to give the same bytes both ways. Rounds take turns; what is printed is the median of
the CPU time of this thread, so that other work on the machine disturbs it little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import native_spike
from parley.media.v1 import media_pb2 as pb
from parley_realtime import RealtimeAPIClient, RealtimeAPIClientParameters
from parley_realtime.client.connection import ConnectionState
from parley_realtime.formats import AudioFormat
from parley_realtime.protocol.core import AudioDelta, ProtocolCore, encode_append
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import ClientType
from parley_realtime.recovery import RecoveryParameters
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.media_path import InputPath, OutputPath, PlayoutMode
from parley_worker.core.playout import AudioCounters, PlayoutLedger
from parley_worker.core.session_budget import BudgetLimits
from parley_worker.runtime.session_guard import SessionGuard
from parley_worker.runtime.session_media import SessionMedia
from parley_worker.telemetry.frames import FrameCounts
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.many_leg import ManyLeg
from parley_worker.transport.many_server import ManyStream
from parley_worker.transport.many_turns import ManyTurns, WriterBounds

SESSIONS = 100
STEP = 0.005
PCM = PROVIDER_FORMATS["pcm16"]
FRAME = bytes(range(256)) * 3 + bytes(192)
DELTA = (FRAME * 8)[:7200]
UNBOUNDED = BudgetLimits(**{field.name: 1 << 40 for field in fields(BudgetLimits)})
HELD = PCM.bytes_per_ms * 12_000
EVENT = (
    b'{"type":"response.output_audio.delta","event_id":"event_Bq1Lx6vAQ3tVdxXcqzq2u",'
    b'"response_id":"resp_Bq1Lx1HkWxGq9OZ1e4iXb","item_id":"item_Bq1LxAh5wq1dJb3m0w3bT",'
    b'"output_index":0,"content_index":0,"delta":"' + b64encode(DELTA) + b'"}'
)


@dataclass(frozen=True)
class Step:
    """A step, done by each way `calls` times a round, `units` of it each time; `prepare` is not timed.

    A way is called with the number of the call, counted on from round to round.
    """

    name: str
    units: float
    calls: int
    ways: dict[str, Callable[[int], object]]
    prepare: Callable[[], None] = lambda: None


class Units:
    """A session without players, recorders or a mixer."""

    listening = steering = False
    agent_heard = True


class Media(SessionMedia):
    """The worker's own `leg_audio`, `on_audio` and `_tick` on a session that is attached."""

    def __init__(self, clock: Clock, frames: FrameCounts, leg: Any) -> None:
        self._ledger, self._counters = PlayoutLedger(), AudioCounters()
        self._output = OutputPath(PCM, self._ledger, self._counters, 1 << 40)
        self._output.attach(PCM, PlayoutMode.REALTIME)
        self._input = InputPath(PCM, PCM, 1e9)
        self._monotonic = clock.monotonic
        self._deps: Any = SimpleNamespace(clock=clock, pacer={self})
        self._counts = frames
        self._mode = PlayoutMode.REALTIME
        self._guard = SessionGuard(UNBOUNDED, None, lambda event: None, int)
        self._bytes_per_ms = PCM.bytes_per_ms
        self._gaps = 0
        self._last_heard = ""
        self.leg = leg
        self.units: Any = Units()
        self.to_provider = None

    def _heard(self, response_id: str) -> None:
        self._last_heard = response_id


class Runner:
    """A session as its leg and the bench see it."""

    def __init__(self, clock: Clock, frames: FrameCounts, leg: Any) -> None:
        self._media = Media(clock, frames, leg)
        self._session: Any = SimpleNamespace(ledger=self._media._ledger)

    @property
    def leg_audio(self) -> Any:
        """See SessionPort."""
        return self._media.leg_audio


class Clock:
    """Time that the bench sets."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Unit:
    """As the worker's media unit of a session."""

    own_clock = True

    def __init__(self, runner: Runner) -> None:
        self._hear = runner._media.on_audio

    def media_started(self, source: object, **_: object) -> None:
        """Nothing to prepare."""

    def media(self, source: object, chunk: Any) -> None:
        self._hear(chunk.payload, chunk.response_id, chunk.item_id, chunk.content_index)


class Socket:
    """Takes everything; `sent` is told."""

    writable, latency = True, 0.0

    def __init__(self, sent: Callable[[bytes], None]) -> None:
        self.send = sent


class Stream(ManyStream):
    """The worker's own reading of a stream of many."""

    def __init__(self, legs: dict[int, Any]) -> None:
        self._legs = legs


def open_client(sent: Callable[[bytes], None]) -> RealtimeAPIClient:
    """A client with recovery, set by hand to where it is in the midst of a call."""
    parameters = RealtimeAPIClientParameters(
        api_key="none", clear_on_speech=False, recovery=RecoveryParameters()
    )
    client = RealtimeAPIClient(parameters)
    lifeline: Any = client._connection
    line = lifeline._line = lifeline._new_line(parameters)
    lifeline._state = line.connection._state = ConnectionState.OPEN
    lifeline._serving = line.connection._clear = True
    line.connection._socket = Socket(sent)
    return client


def drop(_: bytes) -> None:
    """Nobody listens."""


def deltas() -> Iterator[Step]:
    """What the provider says: once for 150 ms of an answer."""
    audio = AudioFormat.named("pcm16")
    core = ProtocolCore(GA, ClientType.REALTIME, audio, audio)
    cut, read = native_spike.cut_delta, core.decode
    incoming = read(EVENT)
    assert isinstance(incoming, AudioDelta)
    chunk = incoming.chunk
    assert cut(EVENT, 2) == (chunk.payload, chunk.response_id, chunk.item_id, chunk.content_index)
    assert cut(EVENT[:-2], 2) is None
    assert cut(b'{"type":"response.done"}', 2) is None
    yield Step(
        "audio delta of 150 ms: decode",
        1,
        200,
        {
            "python": lambda _: read(EVENT),
            "native": lambda _: cut(EVENT, 2),
        },
    )

    clock = Clock()
    runner = Runner(clock, FrameCounts((1.0,)), None)
    client = open_client(drop)
    client.send_media_to(Unit(runner))
    received = client._connection._line.connection._received
    outlets = [native_spike.Outlet()]

    def prepare() -> None:
        runner._media._output.clear(())
        runner._media._output._muted.clear()
        runner._media._output._epochs.clear()
        outlets[0] = native_spike.Outlet()
        outlets[0].open(1, len(FRAME), 0.0)

    def native(_: int) -> object:
        found = cut(EVENT, 2)
        return outlets[0].push(1, found[0], found[2], found[3], 1)

    prepare()
    received(EVENT)
    assert runner._media._output.bytes == len(DELTA)
    yield Step(
        "audio delta: from frame to playout queue",
        1,
        200,
        {"python": lambda _: received(EVENT), "native": native},
        prepare,
    )


def appends() -> Iterator[Step]:
    """What the provider is told: a frame of 20 ms."""
    text = encode_append(FRAME)
    masked = native_spike.append_frame(FRAME, 0x01020304)
    assert native_spike.append(FRAME) == text
    assert bytes(byte ^ masked[4 + i % 4] for i, byte in enumerate(masked[8:])) == text
    ways: dict[str, Callable[[int], object]] = {
        "python": lambda _: encode_append(FRAME),
        "native": lambda _: native_spike.append(FRAME),
        "native, masked frame": lambda i: native_spike.append_frame(FRAME, i),
    }
    yield Step("append of 20 ms: build", 1, 500, ways)


def frames_in(rounds: int) -> Step:
    """A quarter of the sessions speaks in each request, as a gateway that writes every 5 ms has it."""
    calls, share = 60, SESSIONS // 4
    clock, frames = Clock(), FrameCounts((1.0,))
    given: list[bytes] = []
    told: Callable[[bytes], None] = given.append
    legs: dict[int, Any] = {}
    inlet = native_spike.Inlet()
    for handle in range(1, share + 1):
        leg = SimpleNamespace()
        runner = Runner(clock, frames, leg)
        runner._media.to_provider = open_client(lambda data: told(data)).push_media
        leg.hear = runner.leg_audio
        legs[handle] = leg
        inlet.open(handle, PCM.bytes_per_ms, PCM.sample_bytes, 1e9, HELD)
    take = Stream(legs)._take
    read = pb.ConverseManyRequest.FromString
    requests = [request(number, share) for number in range(1, 2 + calls * (rounds + 1))]

    def python(call: int) -> object:
        clock.now = call * 0.02
        return take(read(requests[call + 1]).entries)

    def native(call: int) -> object:
        appended, others = inlet.take(requests[call + 1], call * 0.02)
        for _, data in appended:
            drop(data)
        return others

    take(read(requests[0]).entries)
    appended, others = inlet.take(requests[0], 0.0)
    assert [data for _, data in appended] == given
    assert not others
    start = pb.ConverseManyRequest(entries=[pb.CallerEntry(handle=1, detach=pb.Detach())])
    assert inlet.take(start.SerializeToString(), 0.0) == ([], [start.entries[0].SerializeToString()])
    told = drop
    return Step(
        "frame in, ConverseMany: request bytes to append", share, calls, {"python": python, "native": native}
    )


def request(number: int, share: int) -> bytes:
    """The `number`th frame of each session."""
    entries = [
        pb.CallerEntry(handle=handle, audio=FRAME, sequence=number, media_time_ms=number * 20)
        for handle in range(1, share + 1)
    ]
    return pb.ConverseManyRequest(entries=entries).SerializeToString()


class Talk:
    """SESSIONS sessions that all speak, both ways; a quarter of them is due every 5 ms."""

    ticks = 240
    chunks = 8  # 60 frames, as many as are due in so many ticks

    def __init__(self) -> None:
        self.clock, self.frames = Clock(), FrameCounts((0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2))
        self.legs: dict[int, ManyLeg] = {}
        self.writer = ManyTurns(WriterBounds(), self.legs, lambda leg: None)
        self.outlet = native_spike.Outlet()
        self.turns: list[list[Runner]] = [[], [], [], []]
        self.runners: dict[int, Runner] = {}
        for handle in range(1, SESSIONS + 1):
            leg = self.legs[handle] = ManyLeg(handle, self.writer, LegBounds(), "", lambda *_: None)
            runner = self.runners[handle] = Runner(self.clock, self.frames, leg)
            self.turns[handle % 4].append(runner)
            self.outlet.open(handle, len(FRAME), 0.0)
        for quarter in range(4):
            for handle in self.runners:
                if handle % 4 == quarter:
                    self.push(handle, self.chunks)
            mine, other = self.python(quarter), self.native(quarter)
            assert len(mine) > SESSIONS // 4 * len(FRAME)
            assert mine == other

    def push(self, handle: int, chunks: int) -> None:
        item = f"item_{handle:020}"
        for _ in range(chunks):
            self.runners[handle]._media._output.push(DELTA, "resp", item, 0, self.clock.now)
            self.outlet.push(handle, DELTA, item, 0, 1)

    def prepare(self) -> None:
        for handle in self.runners:
            self.push(handle, self.chunks)

    def python(self, call: int) -> bytes:
        now = self.clock.now = call * STEP
        for runner in self.turns[call % 4]:
            runner._media._tick(now)
        response, _ = self.writer.collect()
        self.writer.asked.clear()
        return response.SerializeToString()

    def native(self, call: int) -> bytes:
        entries, _ = self.outlet.tick(call * STEP)
        return entries

    def same_ledgers(self) -> bool:
        """Both ways know the same of what was played."""
        for handle, runner in self.runners.items():
            (part,) = runner._session.ledger._parts.values()
            (segment,) = runner._session.ledger._segments
            ((_, _, sent),), ((_, start, position, length),) = self.outlet.played(handle)
            if (sent, position, length) != (part.sent, segment.position, segment.length):
                return False
            if abs(start - segment.start) > 1e-6:
                return False
        return True


def crossing() -> Step:
    """What a call into the extension costs by itself, beside a call of a Python method."""
    outlet, clock = native_spike.Outlet(), Clock()
    return Step(
        "a call that does nothing",
        1,
        2000,
        {"python": lambda _: clock.monotonic(), "native": lambda _: outlet.given()},
    )


def measure(step: Step, rounds: int, first: int = 0) -> dict[str, list[float]]:
    """Microseconds of CPU a unit, by way and round. The first round is not counted."""
    spent: dict[str, list[float]] = {way: [] for way in step.ways}
    for number in range(rounds + 1):
        step.prepare()
        begin = first + number * step.calls
        ways = list(step.ways.items())
        for name, way in ways if number % 2 else reversed(ways):
            began = time.thread_time()
            for call in range(begin, begin + step.calls):
                way(call)
            spent[name].append((time.thread_time() - began) / step.calls / step.units * 1e6)
    return {way: rounds[1:] for way, rounds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", help="file for all rounds")
    options = parser.parse_args()
    found = asyncio.run(compare(options.rounds))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)


async def compare(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Measure and print every step, within an event loop that stands still."""
    talk = Talk()
    out = Step(
        "frame out, ConverseMany: playout queue to response bytes",
        SESSIONS / 4,
        talk.ticks,
        {"python": talk.python, "native": talk.native},
        talk.prepare,
    )
    steps = [*deltas(), *appends(), frames_in(rounds), out, crossing()]
    found: dict[str, dict[str, list[float]]] = {}
    for step in steps:
        spent = found[step.name] = measure(step, rounds, 4 if step is out else 0)
        base = statistics.median(spent["python"])
        print(step.name)
        for way, values in spent.items():
            middle = statistics.median(values)
            low, high = min(values), max(values)
            print(f"  {way:30} {middle:8.2f} us  ({low:.2f} to {high:.2f})  {base / middle:6.1f} times")
    assert talk.same_ledgers()
    return found


if __name__ == "__main__":
    main()
