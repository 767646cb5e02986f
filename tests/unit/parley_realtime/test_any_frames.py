"""The whole client over a socket that gives any frames: it tells what it understood, and ends."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import client_recorder
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_realtime import ProtocolError, UnavailableError, transport
from parley_realtime.formats import DEFAULT_FORMAT
from parley_realtime.protocol.core import AudioDelta, Incoming, Malformed, ProtocolCore, ServerEvent
from parley_realtime.protocol.shape import ClientType
from recorded_session import SHAPES, Recording, wire_text

CREATED = '{"type": "session.created", "session": {"id": "s"}}'
AUDIO = [
    {"type": "audio delta", "response_id": r, "item_id": i, "content_index": 0, "bytes": n}
    for r, i, n in (("r1", "i1", 960), ("r1", "i1", 0), ("r2", "i2", 4800))
]
EVENTS = [
    '{"type": "response.created", "response": {"id": "r1"}}',
    '{"type": "response.created", "response": null}',
    '{"type": "response.done", "response": {"id": "r1", "status": "cancelled"}}',
    '{"type": "response.output_audio.done", "response_id": "r1", "item_id": "i1", "content_index": null}',
    '{"type": "response.audio.done", "response_id": 5}',
    '{"type": "input_audio_buffer.speech_started", "item_id": "u"}',
    '{"type": "error", "error": {"message": "no", "code": null}}',
    '{"type": "error", "error": 5}',
    '{"type": "error"}',
    '{"type": "rate_limits.updated", "rate_limits": [{"name": 5}, null]}',
    '{"type": "session.updated"}',
    '{"type": "conversation.item.added", "item": []}',
    '{"type": "of.the.future", "value": {"deep": [1, 2, {}]}}',
]
BROKEN = ["", "{", "[]", '{"type": null}', "\x00", '{"type": "response.output_audio.delta", "delta": "A"}']


def understood(recording: Recording, frames: list[str]) -> list[Incoming]:
    """What the protocol core makes of the frames, up to the first that is broken."""
    core = ProtocolCore(SHAPES[recording.shape], ClientType.REALTIME, DEFAULT_FORMAT, DEFAULT_FORMAT)
    incoming: list[Incoming] = []
    for frame in frames:
        incoming.append(core.decode(frame))
        if isinstance(incoming[-1], Malformed):
            break
    return incoming


@settings(max_examples=40, deadline=None)
@given(
    shape=st.sampled_from(["ga", "beta"]),
    frames=st.lists(
        st.sampled_from(EVENTS) | st.sampled_from(range(len(AUDIO))) | st.sampled_from(BROKEN), max_size=12
    ),
)
def test_any_frames(shape: str, frames: list[Any]) -> None:
    recording = Recording(shape, "any", ())
    texts = [CREATED, *(wire_text(recording, AUDIO[f]) if isinstance(f, int) else f for f in frames)]
    played = client_recorder.PlayedBack(recording)
    played.frames = [text.encode() for text in texts]

    async def play() -> client_recorder.Listener:
        async def open_socket(*args: object, **kwargs: object) -> Any:
            return played

        with mock.patch.object(transport, "open_socket", open_socket):
            listener = await asyncio.wait_for(client_recorder.play_back(recording), 10)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks are left: {left}"
        return listener

    listener = asyncio.run(play())
    incoming = understood(recording, texts)
    names = [one.name for one in incoming if isinstance(one, ServerEvent)]
    # An end that is the provider's fault is told after everything that came before it.
    assert listener.heard[: len(names)] == names
    audio: dict[str, int] = {}
    for one in incoming:
        if isinstance(one, AudioDelta):
            audio[one.chunk.item_id] = audio.get(one.chunk.item_id, 0) + len(one.chunk.payload)
    heard = {item: size for item, size in listener.audio.items() if size}
    sent = {item: size for item, size in audio.items() if size}
    if shape == "beta" and any(name.endswith("SpeechStarted") for name in names):
        # The beta shape cuts what runs when the caller speaks: late audio of it is dropped.
        assert all(size <= sent[item] for item, size in heard.items())
    else:
        assert heard == sent
    broken = isinstance(incoming[-1], Malformed)
    assert isinstance(listener.error, ProtocolError if broken else UnavailableError)
