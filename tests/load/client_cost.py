"""One client process of `test_client_cost.py`: so many calls against a provider, and what they cost.

Each call sends 20 ms of audio every 20 ms, the calls spread over those 20 ms, and takes what is answered. The
last line is JSON: CPU seconds per session-second, MiB of memory per session beyond the process's own.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import json
import resource
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import picows
import uvloop
from parley_realtime import MediaChunk, RealtimeAPIClient, RealtimeAPIClientParameters
from parley_realtime.recovery import RecoveryParameters

FRAME = bytes(range(240)) * 4
SLOTS = 4
Push = Callable[[bytes], None]
Close = Callable[[], Awaitable[None]]


class Unit:
    """Where the provider's audio goes: counted."""

    own_clock = True
    heard = 0

    def media(self, source: object, chunk: MediaChunk) -> None:
        self.heard += len(chunk.payload)

    def media_started(self, source: object, **given: object) -> None: ...

    def media_done(self, source: object, **given: object) -> None: ...

    def media_cleared(self, source: object) -> None: ...


def resident() -> float:
    """MiB of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


async def library(
    url: str, tls: ssl.SSLContext | None, transport: str | None, unit: Unit
) -> tuple[Push, Close]:
    """Our client as the worker uses it."""
    more: dict[str, Any] = {} if transport is None else {"transport": transport}
    client = RealtimeAPIClient(
        RealtimeAPIClientParameters(
            api_key="k",
            base_url=url,
            ssl=tls,
            observer=lambda _: None,
            recovery=RecoveryParameters(),
            clear_on_speech=False,
            **more,
        )
    )
    client.send_media_to(unit, {"tag": "unit"})  # type: ignore[arg-type]
    await client.connect()

    async def close() -> None:
        client.close()
        await client.wait_closed()

    return client.push_media, close


async def bare(url: str, tls: ssl.SSLContext | None, unit: Unit) -> tuple[Push, Close]:
    """picows and base64, and nothing else."""

    class Listener(picows.WSListener):
        def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
            if frame.msg_type is picows.WSMsgType.TEXT:
                event = json.loads(frame.get_payload_as_bytes())
                if event["type"] == "response.output_audio.delta":
                    unit.heard += len(base64.b64decode(event["delta"]))

    more: dict[str, Any] = {"ssl_context": tls} if tls is not None else {}
    transport, _ = await picows.ws_connect(Listener, f"{url}/v1/realtime?model=m", **more)

    def push(audio: bytes) -> None:
        data = b"".join((b'{"type":"input_audio_buffer.append","audio":"', base64.b64encode(audio), b'"}'))
        transport.send(picows.WSMsgType.TEXT, data)

    async def close() -> None:
        transport.disconnect()

    return push, close


async def pushes(calls: list[Push], seconds: float) -> None:
    """Everybody's frames, in slots of five milliseconds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    slots = [calls[number::SLOTS] for number in range(SLOTS)]
    for tick in range(int(seconds * 50 * SLOTS)):
        wait = begun + tick * 0.02 / SLOTS - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        for push in slots[tick % SLOTS]:
            push(FRAME)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["idle", "bare", "websockets", "picows", "default"])
    parser.add_argument("url")
    parser.add_argument("--ca")
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--profile")
    given = parser.parse_args()
    tls = ssl.create_default_context(cafile=given.ca) if given.ca else None
    unit = Unit()
    gc.collect()
    before = resident()
    calls: list[Push] = []
    closes: list[Close] = []
    for _ in range(given.calls):
        if given.kind == "idle":
            calls.append(lambda _: None)
            continue
        if given.kind == "bare":
            push, close = await bare(given.url, tls, unit)
        else:
            named = None if given.kind == "default" else given.kind
            push, close = await library(given.url, tls, named, unit)
        calls.append(push)
        closes.append(close)
    await pushes(calls, 2)
    profile = None
    if given.profile:
        import cProfile

        profile = cProfile.Profile()
        profile.enable()
    begun = resource.getrusage(resource.RUSAGE_SELF)
    await pushes(calls, given.seconds)
    ended = resource.getrusage(resource.RUSAGE_SELF)
    user, system = ended.ru_utime - begun.ru_utime, ended.ru_stime - begun.ru_stime
    per = 1000 / given.calls / given.seconds
    if profile is not None:
        profile.disable()
        profile.dump_stats(given.profile)
    gc.collect()
    grown, heard = resident() - before, unit.heard
    for close in closes:
        await close()
    print(
        json.dumps(
            {
                "kind": given.kind,
                "cpu_ms_per_session_s": round((user + system) * per, 3),
                "user": round(user * per, 3),
                "mib_per_session": round(grown / given.calls, 3),
                "heard_s": round(heard / 48_000, 1),
            }
        )
    )


if __name__ == "__main__":
    uvloop.run(main())
