r"""A tool of the caller: the agent asks where the caller is, and the caller's own program knows.

    python examples/tools/caller_tool.py tools question.wav answer.wav

Without a cluster, give the address that `parley run` prints, and what is in the files that it names:

    PARLEY_TICKET=$(cat ticket) PARLEY_CA=ca.crt PARLEY_TLS_NAME=worker.parley.local \
        python examples/tools/caller_tool.py 127.0.0.1:7070 question.wav answer.wav

The agent names it so (see session.yaml); a function without a route is the caller's:

    tools:
      - type: function
        name: get_location
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from parley_client import (
    Call,
    ConversationEvent,
    Ended,
    ParleyError,
    Target,
    WavRecorder,
    connect,
    paced_silence,
    paced_wav,
    resolve_address,
    resolve_cluster,
    transcript_of,
)
from parley_client.tools import ToolCall

LISTEN_SECONDS = 20


def get_location(call: ToolCall) -> dict[str, object]:
    """No `async`: it runs in a thread and may take its time while the audio goes on."""
    return {"place": "gate 7", "floor": 2}


async def speak(call: Call, question: str) -> None:
    async for frame in paced_wav(question, call.options.input_format, lead_ms=300):
        await call.send_audio(frame)
    async for frame in paced_silence(call.options.input_format, LISTEN_SECONDS):
        await call.send_audio(frame)


async def converse(target: Target, question: str, answer: str) -> str:
    """Ask, answer what the agent asks back, and return what it says in the end."""
    call = connect(target, input_format="pcm16@24000", player=WavRecorder(answer))
    call.on_tool("get_location", get_location)
    said = ""
    async with call:
        speaking = asyncio.create_task(speak(call, question))
        try:
            async for event in call:
                words = transcript_of(event) if isinstance(event, ConversationEvent) else None
                if words and words.final:
                    sys.stdout.write(f"{words.role}: {words.text}\n")
                    if words.role == "assistant":
                        said = words.text
                        await call.hang_up("the question was answered")
                elif isinstance(event, Ended):
                    sys.stdout.write(f"over: {event.reason}\n")
        finally:
            speaking.cancel()
    return said


async def find(session: str) -> Target:
    if ":" not in session:
        return await resolve_cluster(session, wait=30)
    given = os.environ.get
    ca = await asyncio.to_thread(Path(given("PARLEY_CA", os.devnull)).read_text)
    name = given("PARLEY_TLS_NAME", "")
    return resolve_address(session, given("PARLEY_TICKET", ""), ca_pem=ca, tls_server_name=name)


async def main(session: str, question: str, answer: str) -> None:
    await converse(await find(session), question, answer)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        asyncio.run(main(*sys.argv[1:]))
    except ParleyError as error:
        sys.exit(str(error))
