r"""A telephony gateway in one file: every line is a call of its own, and all calls share one stream a worker.

    python examples/gateway.py question.wav first-call second-call

The sessions are found through your kubeconfig. Without a cluster, give the address that `parley run` prints
and the tickets, with spaces between them:

    PARLEY_TICKETS="$(cat ticket)" PARLEY_CA=ca.crt PARLEY_TLS_NAME=worker.parley.local \
        python examples/gateway.py question.wav 127.0.0.1:7070

`Line` stands for what a gateway has: a telephone line. This one plays a WAV and counts what it hears.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from parley_client import (
    AgentAudio,
    AudioFormat,
    Call,
    Clear,
    Ended,
    MediaGateway,
    ParleyError,
    Target,
    Transfer,
    paced_silence,
    paced_wav,
    resolve_address,
    resolve_cluster,
)

FORMAT = AudioFormat.parse("g711_ulaw")
LISTEN_SECONDS = 15


class Line:
    """One telephone line."""

    def __init__(self, name: str, question: str) -> None:
        self.name = name
        self.heard = 0
        self._question = question

    async def frames(self) -> AsyncIterator[bytes]:
        """What the caller says, as it comes: 20 ms a frame."""
        async for frame in paced_wav(self._question, FORMAT, lead_ms=300):
            yield frame
        async for frame in paced_silence(FORMAT, LISTEN_SECONDS):
            yield frame

    def play(self, payload: bytes) -> None:
        """Let the caller hear this."""
        self.heard += len(payload)

    def tell(self, words: str) -> None:
        sys.stdout.write(f"{self.name}: {words}\n")


async def speak(call: Call, line: Line) -> None:
    async for frame in line.frames():
        await call.send_audio(frame)
    await call.hang_up("the line is done")


async def carry(gateway: MediaGateway, target: Target, line: Line) -> bool:
    """One call from its attach to its end; what goes wrong in it is its own."""
    try:
        async with gateway.call(target, input_format=FORMAT) as call:
            speaking = asyncio.create_task(speak(call, line))
            try:
                async for event in call:
                    match event:
                        case AgentAudio(payload=payload):
                            line.play(payload)
                        case Clear(heard=heard):
                            line.tell(f"interrupted after {heard.played_ms} ms")
                        case Transfer(target=number):
                            line.tell(f"to be moved to {number}")
                            break
                        case Ended(reason=reason):
                            line.tell(f"over: {reason}; heard {FORMAT.seconds(line.heard):.1f} s")
            finally:
                speaking.cancel()
                await asyncio.wait([speaking])
        return call.ended is not None
    except ParleyError as error:
        line.tell(f"error: {error}")
        return False


async def find(names: list[str]) -> list[Target]:
    tickets = os.environ.get("PARLEY_TICKETS", "").split()
    if not tickets:
        return [await resolve_cluster(name, wait=30) for name in names]
    ca = await asyncio.to_thread(Path(os.environ.get("PARLEY_CA", os.devnull)).read_text)
    tls_name = os.environ.get("PARLEY_TLS_NAME", "")
    return [resolve_address(names[0], ticket, ca_pem=ca, tls_server_name=tls_name) for ticket in tickets]


async def main(question: str, *names: str) -> int:
    targets = await find(list(names))
    async with MediaGateway() as gateway:
        lines = [Line(f"line {number}", question) for number in range(1, len(targets) + 1)]
        carried = await asyncio.gather(*map(carry, [gateway] * len(lines), targets, lines))
    return 0 if all(carried) else 1


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        sys.exit(asyncio.run(main(*sys.argv[1:])))
    except ParleyError as error:
        sys.exit(f"error: {error}")
