r"""A caller in one file: attach to a session, speak a WAV, hear the answer, print what both sides say.

    python examples/call.py first-call question.wav answer.wav

The session is found through your kubeconfig. Without a cluster, give the address that `parley run` prints,
and what is in the files that it names:

    PARLEY_TICKET=$(cat ticket) PARLEY_CA=ca.crt PARLEY_TLS_NAME=worker.parley.local \
        python examples/call.py 127.0.0.1:7070 question.wav answer.wav
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from parley_client import (
    Call,
    Clear,
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

ANSWER_SECONDS = 15


async def find(session: str) -> Target:
    if ":" in session:
        given = os.environ.get
        ca = await asyncio.to_thread(Path(given("PARLEY_CA", os.devnull)).read_text)
        name = given("PARLEY_TLS_NAME", "")
        return resolve_address(session, given("PARLEY_TICKET", ""), ca_pem=ca, tls_server_name=name)
    return await resolve_cluster(session, wait=30)


async def speak(call: Call, question: str) -> None:
    """Play the question in real time, then listen for a while, as a telephone would: sending silence."""
    format = call.options.input_format
    async for frame in paced_wav(question, format, lead_ms=300):
        await call.send_audio(frame)
    async for frame in paced_silence(format, ANSWER_SECONDS):
        await call.send_audio(frame)
    await call.hang_up("heard enough")


async def main(session: str, question: str, answer: str) -> int:
    target = await find(session)
    async with connect(target, input_format="pcm16@24000", player=WavRecorder(answer)) as call:
        speaking = asyncio.create_task(speak(call, question))
        try:
            async for event in call:
                if isinstance(event, ConversationEvent) and (words := transcript_of(event)):
                    if words.final:
                        sys.stdout.write(f"{words.role}: {words.text}\n")
                elif isinstance(event, Clear):
                    sys.stdout.write(f"(interrupted after {event.heard.played_ms} ms)\n")
                elif isinstance(event, Ended):
                    sys.stdout.write(f"over: {event.reason}\n")
        finally:
            speaking.cancel()
            await asyncio.wait([speaking])
    return 0 if call.ended and call.ended.reason == "CallerHangup" else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        sys.exit(asyncio.run(main(*sys.argv[1:])))
    except ParleyError as error:
        sys.exit(f"error: {error}")
