"""Callers of livekit rooms, told what to do by lines of JSON as the load program is.

Commands: `{"op": "call", "sid": N}`, `{"op": "stop", "sid": N}`, `{"op": "dump", "path": P}`. Events:
listening, started (the agent's track is there), ended, dumped. A caller publishes 20 ms of a tone each 20
ms; what it hears above silence is kept with its time (CLOCK_MONOTONIC seconds).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from livekit import api, rtc

RATE = 24000
FRAME = RATE // 50
QUIET = 500
JOIN_S = 60.0
URL = os.environ["LIVEKIT_URL"]
TONE = (6000 * np.sin(2 * np.pi * 300 * np.arange(RATE) / RATE)).astype("<i2")
FRAMES = [TONE[i * FRAME : (i + 1) * FRAME].tobytes() for i in range(50)]


def say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


@dataclass
class Caller:
    """One room with one caller."""

    sid: int
    send_t: list[float] = field(default_factory=list)
    rx_t: list[float] = field(default_factory=list)
    rx_b: list[int] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Dispatch the agent, join, publish, and wait for the agent's track."""
        name = f"room-{self.sid}"
        async with api.LiveKitAPI(URL.replace("ws", "http", 1)) as service:
            request = api.CreateAgentDispatchRequest(agent_name="bench", room=name)
            await service.agent_dispatch.create_dispatch(request)
        token = api.AccessToken().with_identity(f"caller-{self.sid}")
        token = token.with_grants(api.VideoGrants(room_join=True, room=name))
        self.room = rtc.Room()
        heard = asyncio.Event()

        def subscribed(track: Any, publication: Any, participant: Any) -> None:
            if track.kind == rtc.TrackKind.KIND_AUDIO:
                self.tasks.append(asyncio.create_task(self.listen(track)))
                heard.set()

        self.room.on("track_subscribed", subscribed)
        await self.room.connect(URL, token.to_jwt())
        self.source = rtc.AudioSource(RATE, 1, queue_size_ms=200)
        track = rtc.LocalAudioTrack.create_audio_track("microphone", self.source)
        options = rtc.TrackPublishOptions()
        options.source = rtc.TrackSource.SOURCE_MICROPHONE
        await self.room.local_participant.publish_track(track, options)
        self.tasks.append(asyncio.create_task(self.speak()))
        async with asyncio.timeout(JOIN_S):
            await heard.wait()

    async def speak(self) -> None:
        loop = asyncio.get_running_loop()
        began, count = loop.time(), 0
        while True:
            frame = rtc.AudioFrame(FRAMES[count % len(FRAMES)], RATE, 1, FRAME)
            await self.source.capture_frame(frame)
            self.send_t.append(time.monotonic())
            count += 1
            await asyncio.sleep(max(0.0, began + count * 0.02 - loop.time()))

    async def listen(self, track: Any) -> None:
        stream = rtc.AudioStream(track, sample_rate=RATE, num_channels=1, frame_size_ms=20)
        async for event in stream:
            now = time.monotonic()
            samples = np.frombuffer(event.frame.data, dtype="<i2")
            if np.abs(samples).max() > QUIET:
                self.rx_t.append(now)
                self.rx_b.append(len(samples) * 2)

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.room.disconnect()

    def times(self) -> dict[str, Any]:
        """What was sent and heard so far."""
        return {"sid": self.sid, "send_t": self.send_t, "rx_t": self.rx_t, "rx_b": self.rx_b}


class Callers:
    """All calls."""

    def __init__(self) -> None:
        self.calls: dict[int, Caller] = {}

    async def obey(self, command: dict[str, Any]) -> None:
        match command["op"]:
            case "call":
                await self.call(int(command["sid"]))
            case "stop":
                caller = self.calls.pop(int(command["sid"]), None)
                if caller is not None:
                    await caller.stop()
                    say(event="ended", sid=caller.sid, status="OK", reason="", t=time.monotonic())
            case "dump":
                times = [caller.times() for caller in self.calls.values()]
                data = {"sessions": times, "rx_bytes_ms": RATE * 2 / 1000}
                await asyncio.to_thread(Path(command["path"]).write_text, json.dumps(data))
                say(event="dumped", path=command["path"])

    async def call(self, sid: int) -> None:
        caller = Caller(sid)
        try:
            await caller.start()
        except Exception as error:  # noqa: BLE001 - whatever it is, the bench is told
            say(event="refused", sid=sid, status=type(error).__name__, reason=str(error), t=time.monotonic())
            return
        self.calls[sid] = caller
        say(event="started", sid=sid, t=time.monotonic())

    async def close(self) -> None:
        await asyncio.gather(*(caller.stop() for caller in self.calls.values()), return_exceptions=True)


async def main() -> None:
    callers = Callers()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    say(event="listening")
    under_way: set[asyncio.Task[None]] = set()
    while line := await reader.readline():
        task = asyncio.create_task(callers.obey(json.loads(line)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)
    await callers.close()


if __name__ == "__main__":
    asyncio.run(main())
