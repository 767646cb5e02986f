"""The official `openai` Python SDK, GA and beta, holds spoken conversations with the local provider."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import speech
from openai import AsyncOpenAI
from parley_local import LocalProvider, LocalProviderConfig, serve
from websockets.exceptions import ConnectionClosedError

RATE = 24000
EXAMPLES = Path(__file__).parents[2] / "examples" / "brains"
KEY = "sk-local"
pytestmark = pytest.mark.timeout(120)


def speaking(brain: str = "echo") -> LocalProviderConfig:
    return LocalProviderConfig(
        port=0,
        voice="flite",
        recognizer="whisper",
        detector="silero",
        brain=brain,
        api_keys=(KEY,),
        audio_speed=0,
    )


@pytest.fixture
async def provider() -> AsyncIterator[LocalProvider]:
    async with serve(speaking()) as running:
        yield running


def sdk(provider: LocalProvider, key: str = KEY) -> AsyncOpenAI:
    return AsyncOpenAI(api_key=key, websocket_base_url=f"ws://127.0.0.1:{provider.port}/v1")


async def append(connection: Any, pcm: bytes) -> None:
    for at in range(0, len(pcm), 9600):
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[at : at + 9600]).decode())


async def collect(connection: Any, last: str) -> list[Any]:
    events = []
    async with asyncio.timeout(60):
        async for event in connection:
            events.append(event)
            if event.type == last:
                break
    assert not [event for event in events if event.type == "error"]
    return events


def audio_of(events: list[Any], kind: str) -> bytes:
    return b"".join(base64.b64decode(event.delta) for event in events if event.type == kind)


async def test_ga_spoken_conversation(provider: LocalProvider) -> None:
    async with sdk(provider) as client, client.realtime.connect(model="gpt-realtime") as connection:
        turns = {"type": "server_vad", "silence_duration_ms": 700}
        audio: Any = {"input": {"transcription": {"model": "whisper-1"}, "turn_detection": turns}}
        await connection.session.update(session={"type": "realtime", "audio": audio})
        for code in (speech.random_code(), speech.random_code()):
            question = await asyncio.to_thread(speech.synthesize, speech.code_phrase(code), RATE)
            await append(connection, question)
            events = await collect(connection, "response.done")
            kinds = [event.type for event in events]
            assert kinds.count("input_audio_buffer.speech_started") == 1
            (heard,) = [
                e for e in events if e.type == "conversation.item.input_audio_transcription.completed"
            ]
            assert code in heard.transcript
            answer = audio_of(events, "response.output_audio.delta")
            assert await asyncio.to_thread(speech.recognize_digits, answer, RATE) == code
            assert events[-1].response.usage.output_token_details.audio_tokens > 0


async def test_beta_spoken_conversation(provider: LocalProvider) -> None:
    code = speech.random_code()
    question = await asyncio.to_thread(speech.synthesize, speech.code_phrase(code), RATE)
    async with (
        sdk(provider) as client,
        client.beta.realtime.connect(model="gpt-4o-realtime-preview") as connection,
    ):
        await connection.session.update(
            session={"input_audio_transcription": {"model": "whisper-1"}, "turn_detection": None}  # type: ignore[typeddict-item]
        )
        await append(connection, question)
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        events = await collect(connection, "response.done")
        assert "conversation.created" in [event.type for event in events]
        answer = audio_of(events, "response.audio.delta")
        assert await asyncio.to_thread(speech.recognize_digits, answer, RATE) == code


async def test_ga_tool_call_from_speech() -> None:
    async with serve(speaking(f"script:{EXAMPLES / 'weather.yaml'}")) as provider:
        question = await asyncio.to_thread(speech.synthesize, "What is the weather in London?", RATE)
        async with sdk(provider) as client, client.realtime.connect(model="gpt-realtime") as connection:
            tool: Any = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
            turns: Any = {"type": "server_vad", "silence_duration_ms": 700}
            await connection.session.update(
                session={"type": "realtime", "tools": [tool], "audio": {"input": {"turn_detection": turns}}}
            )
            await append(connection, question)
            done = (await collect(connection, "response.done"))[-1]
            call = done.response.output[-1]
            assert (call.type, call.name) == ("function_call", "get_weather")
            assert "london" in call.arguments.lower()
            output: Any = {
                "type": "function_call_output", "call_id": call.call_id,
                "output": '{"temperature": 471203, "sky": "clear"}',
            }  # fmt: skip
            await connection.conversation.item.create(item=output)
            await connection.response.create()
            events = await collect(connection, "response.done")
            answer = audio_of(events, "response.output_audio.delta")
            assert await asyncio.to_thread(speech.recognize_digits, answer, RATE) == "471203"


async def test_ga_text_items_truncate_and_delete(provider: LocalProvider) -> None:
    async with sdk(provider) as client, client.realtime.connect(model="gpt-realtime") as connection:
        item: Any = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "good day"}],
        }
        await connection.conversation.item.create(item=item)
        await connection.response.create()
        events = await collect(connection, "response.done")
        (answer,) = events[-1].response.output
        assert answer.content[0].transcript == "You said: good day"
        await connection.conversation.item.truncate(item_id=answer.id, content_index=0, audio_end_ms=100)
        assert (await collect(connection, "conversation.item.truncated"))[-1].audio_end_ms == 100
        await connection.conversation.item.retrieve(item_id=answer.id)
        assert (await collect(connection, "conversation.item.retrieved"))[-1].item.id == answer.id
        await connection.conversation.item.delete(item_id=answer.id)
        assert (await collect(connection, "conversation.item.deleted"))[-1].item_id == answer.id
        await connection.response.create(response={"output_modalities": ["text"]})
        events = await collect(connection, "response.done")
        assert "response.output_text.done" in [event.type for event in events]


async def test_a_wrong_key_is_an_error_event_and_close_3000(provider: LocalProvider) -> None:
    async with sdk(provider, "wrong") as client, client.realtime.connect(model="gpt-realtime") as connection:
        event: Any = await connection.recv()
        assert (event.type, event.error.code) == ("error", "invalid_api_key")
        with pytest.raises(ConnectionClosedError) as closed:
            await connection.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            3000,
            "invalid_request_error.invalid_api_key",
        )


async def test_g711_caller() -> None:
    """Telephone quality both ways: the digits survive mu-law at 8 kHz twice."""
    from parley_local.speech.wire import WireFormat, decode, encode

    code = speech.random_code()
    pcm = await asyncio.to_thread(speech.synthesize, speech.code_phrase(code), 8000)
    question = encode(decode(pcm, WireFormat.PCM16), 8000, WireFormat.PCMU)
    async with serve(speaking()) as provider:
        async with sdk(provider) as client, client.realtime.connect(model="gpt-realtime") as connection:
            wire: Any = {"format": {"type": "audio/pcmu"}}
            turns: Any = {"type": "server_vad", "silence_duration_ms": 700}
            audio: Any = {"input": {**wire, "turn_detection": turns}, "output": wire}
            await connection.session.update(session={"type": "realtime", "audio": audio})
            await append(connection, question)
            events = await collect(connection, "response.done")
        ulaw = audio_of(events, "response.output_audio.delta")
        answer = encode(decode(ulaw, WireFormat.PCMU), 8000, WireFormat.PCM16)
        assert await asyncio.to_thread(speech.recognize_digits, answer, RATE) == code
