"""What the worker's own Python costs a session: sessions on one stream, in virtual time, without a socket.

python tests/load/hot_path.py [--sessions N] [--seconds N] [--rounds N]

All of the worker and of the client library runs that stands between the messages of gRPC and the frames of
the WebSocket, records included, with a turn of an answer every 4 s as the load program has it. Nothing waits:
the clock of the event loop moves on when nothing is left to do, so that a busy machine changes no behaviour.
The least of the rounds counts there. Part of it is the event loop in Python, and who plays the provider.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from parley.media.v1 import media_pb2 as pb
from parley_realtime import transport
from parley_worker.codec import events_pb
from parley_worker.compiled import is_compiled
from parley_worker.core.model import (
    AccessConfig,
    EndReason,
    LimitsConfig,
    ProviderConfig,
    Secret,
    SessionConfig,
    SessionKey,
)
from parley_worker.runtime.deps import RunnerDeps, RunnerSettings
from parley_worker.runtime.pacer import Pacer
from parley_worker.runtime.session_runner import SessionRunner
from parley_worker.runtime.setting_up import SettingUp
from parley_worker.telemetry.metrics import Metrics
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.many_server import ManyBounds, ManyShared, ManyStream
from virtual_time import VirtualLoop

FRAME = bytes(range(256)) * 3 + bytes(192)
DELTA = base64.b64encode((FRAME * 8)[:7200])
CYCLE, SPEECH, DELTAS, APART = 4.0, 0.5, 20, 0.06
WORDS = ["another", "pair of words"] * 5
PCM = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=24000)
WARM_SECONDS = 6.0


class Provider:
    """One session's provider, as the socket that the client has: answers every CYCLE."""

    writable, latency, close_code, close_reason = True, 0.0, 1006, ""
    numbers, events = itertools.count(), itertools.count()

    def __init__(self) -> None:
        self.number = next(self.numbers)
        self.appends = 0
        self._talk: asyncio.Task[None] | None = None

    def start(self, receiver: Any) -> None:
        self._receiver = receiver
        session = {"type": "realtime", "id": "sess"}
        asyncio.get_running_loop().call_soon(lambda: self.say("session.created", session=session))

    def say(self, kind: str, **fields: Any) -> None:
        event = {"type": kind, "event_id": f"event_{next(self.events):012d}", **fields}
        self._receiver.frame(json.dumps(event, separators=(",", ":")).encode())

    def send(self, data: str | bytes) -> None:
        self.appends += 1
        if self._talk is None:
            self._talk = asyncio.create_task(self._converse(json.loads(data)["session"]))

    async def _converse(self, session: dict[str, Any]) -> None:
        self.say("session.updated", session=session)
        await asyncio.sleep(1 + self.number * 0.6180339887 % 1 * CYCLE)
        last = None
        for turn in itertools.count():
            last = await self._turn(f"{self.number:06d}_{turn}", last)

    async def _turn(self, name: str, last: str | None) -> str:
        asked, said = f"item_u{name}", f"item_a{name}"
        self.say("input_audio_buffer.speech_started", audio_start_ms=0, item_id=asked)
        await asyncio.sleep(SPEECH)
        self.say("input_audio_buffer.speech_stopped", audio_end_ms=500, item_id=asked)
        self.say("input_audio_buffer.committed", previous_item_id=last, item_id=asked)
        heard = message(asked, "user", "completed", {"type": "input_audio", "transcript": None})
        self.say("conversation.item.added", previous_item_id=last, item=heard)
        self.say("conversation.item.done", previous_item_id=last, item=heard)
        await self._answer(f"resp_{name}", said, asked)
        await asyncio.sleep(CYCLE - SPEECH - DELTAS * APART)
        return said

    async def _answer(self, response_id: str, item_id: str, last: str) -> None:
        response = {"object": "realtime.response", "id": response_id, "conversation_id": "conv"}
        about = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}
        item = message(item_id, "assistant", "in_progress")
        self.say("response.created", response={**response, "status": "in_progress", "output": []})
        self.say("response.output_item.added", response_id=response_id, output_index=0, item=item)
        self.say("conversation.item.added", previous_item_id=last, item=item)
        self.say("response.content_part.added", **about, part={"type": "audio", "transcript": ""})
        head = json.dumps({"type": "response.output_audio.delta", **about}).encode()[:-1] + b',"delta":"'
        for number in range(DELTAS):
            self._receiver.frame(head + DELTA + b'"}')
            if number % 2 == 0:
                self.say("response.output_audio_transcript.delta", **about, delta=WORDS[number // 2])
            await asyncio.sleep(APART)
        text = "".join(WORDS)
        self.say("response.output_audio.done", **about)
        self.say("response.output_audio_transcript.done", **about, transcript=text)
        self.say("response.content_part.done", **about, part={"type": "audio", "transcript": text})
        item = message(item_id, "assistant", "completed", {"type": "output_audio", "transcript": text})
        self.say("conversation.item.done", previous_item_id=last, item=item)
        self.say("response.output_item.done", response_id=response_id, output_index=0, item=item)
        usage = {"total_tokens": 253, "input_tokens": 132, "output_tokens": 121}
        self.say(
            "response.done", response={**response, "status": "completed", "output": [item], "usage": usage}
        )

    async def close(self, code: int, reason: str) -> None:
        self.abort()

    def abort(self) -> None:
        if self._talk is not None:
            self._talk.cancel()


def message(item_id: str, role: str, status: str, *content: dict[str, Any]) -> dict[str, Any]:
    shape = {"id": item_id, "object": "realtime.item", "type": "message"}
    return {**shape, "status": status, "role": role, "content": list(content)}


class Gateway:
    """The stream, as the worker sees it, and the directory of its sessions."""

    def __init__(self) -> None:
        self.sessions: dict[str, SessionRunner] = {}
        self.asked: asyncio.Queue[bytes] = asyncio.Queue()
        self.frames = 0
        self.beside = 0.0
        """CPU seconds of what the gateway does itself."""

    async def read(self) -> pb.ConverseManyRequest:
        return pb.ConverseManyRequest.FromString(await self.asked.get())

    async def write(self, response: pb.ConverseManyResponse) -> None:
        response.SerializeToString()
        began = time.process_time()
        for entry in response.entries:
            assert not entry.HasField("failed"), entry
            self.frames += bool(entry.audio)
        self.beside += time.process_time() - began

    def find_by_uid(self, uid: str) -> SessionRunner | None:
        return self.sessions.get(uid)

    def start(self, handle: int, uid: str) -> None:
        start = pb.Start(session_uid=uid, input_format=PCM, output_format=PCM)
        entry = pb.CallerEntry(handle=handle, message=pb.ConverseRequest(start=start))
        self.asked.put_nowait(pb.ConverseManyRequest(entries=[entry]).SerializeToString())

    async def speak(self, seconds: float, first: int) -> int:
        """Every session's frames from number `first` on, a quarter of the sessions every 5 ms."""
        number = first
        for number in range(first, first + round(seconds * 50)):
            for quarter in range(4):
                began = time.process_time()
                entries = [
                    pb.CallerEntry(handle=handle, audio=FRAME, sequence=number, media_time_ms=number * 20)
                    for handle in range(1, len(self.sessions) + 1)
                    if handle % 4 == quarter
                ]
                request = pb.ConverseManyRequest(entries=entries).SerializeToString()
                self.beside += time.process_time() - began
                self.asked.put_nowait(request)
                await asyncio.sleep(0.005)
        return number + 1


class Clock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    def wall(self) -> float:
        return self._loop.time() + 1.7e9


def dependencies(loop: VirtualLoop) -> RunnerDeps:
    tokens = itertools.count()
    sink = mock.Mock()
    sink.publish = lambda record: events_pb.encode(record, "worker", "instance")
    return RunnerDeps(
        clock=Clock(loop),
        sink=sink,
        metrics=Metrics("bench"),
        pacer=Pacer(),
        on_report=lambda report: None,
        new_id=lambda prefix: f"{prefix}{next(tokens)}",
        random_token=lambda: f"token-{next(tokens)}",
        worker_instance_id="instance",
        settings=RunnerSettings(provider_transport="websockets"),
        setting_up=SettingUp(resolver=mock.Mock(lookup=mock.AsyncMock(return_value=[]))),
    )


def session(number: int) -> SessionConfig:
    return SessionConfig(
        key=SessionKey("ns", f"n{number}", f"u{number}", 1),
        provider=ProviderConfig("ws://127.0.0.1:9", "ga", "m", Secret("none")),
        session={"type": "realtime", "instructions": "hello"},
        greet=False,
        limits=LimitsConfig(3600, 600, 60, 60),
        access=AccessConfig(b""),
    )


async def measure(loop: VirtualLoop, sessions: int, seconds: float, rounds: int) -> dict[str, Any]:
    providers: list[Provider] = []

    async def open_socket(*_: object) -> Provider:
        providers.append(Provider())
        return providers[-1]

    deps, gateway = dependencies(loop), Gateway()
    with mock.patch.object(transport, "open_socket", open_socket):
        for number in range(sessions):
            gateway.sessions[f"u{number}"] = SessionRunner(session(number), deps)
        runs = [asyncio.create_task(each.run()) for each in gateway.sessions.values()]
        shared = ManyShared(gateway, deps.metrics, ManyBounds(), LegBounds(), 15.0, "w")
        stream = asyncio.create_task(ManyStream(shared).run(gateway))
        for each in gateway.sessions.values():
            await each.wait_ready()
    for number in range(sessions):
        gateway.start(number + 1, f"u{number}")
    await asyncio.sleep(0.5)
    following = await gateway.speak(WARM_SECONDS, 1)
    gc.collect()
    gc.freeze()
    spent, appends, frames = [], sum(each.appends for each in providers), gateway.frames
    for _ in range(rounds):
        gateway.beside, began = 0.0, time.process_time()
        following = await gateway.speak(seconds, following)
        spent.append(1000 * (time.process_time() - began - gateway.beside) / sessions / seconds)
    over = sessions * seconds * rounds
    result = {
        "compiled": is_compiled(),
        "cpu_ms_per_session_s": {"least": round(min(spent), 2), "rounds": [round(each, 2) for each in spent]},
        "frames_up_per_s": round((sum(each.appends for each in providers) - appends) / over, 2),
        "frames_down_per_s": round((gateway.frames - frames) / over, 2),
    }
    for each in gateway.sessions.values():
        each.terminate(EndReason.TERMINATED, "over")
    await asyncio.gather(*runs)
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round, in virtual time")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    if min(given.sessions, given.seconds, given.rounds) <= 0:
        parser.error("sessions, seconds and rounds are more than 0")
    loop = VirtualLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        result = runner.run(measure(loop, given.sessions, given.seconds, given.rounds))
    sys.stdout.write(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
