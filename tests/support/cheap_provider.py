"""A provider that costs next to nothing, in a process of its own: it measures clients, it does not test them.

`python tests/support/cheap_provider.py [--cert C --key K]` prints the port it listens on. Every four seconds
of appended audio end a turn, which is answered by three seconds of audio (deltas of 100 ms, at two and a half
times real time), its words, and the events around them: about 15 frames a second in all, as a provider sends.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import ssl
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

TURN_BYTES = 4 * 48_000
DELTA_SECONDS = 0.1
DELTAS = 30
SPEED = 2.5
AUDIO = base64.b64encode(bytes(range(240)) * 20).decode()
WORDS = "Sure, I can help you with that. Could you tell me a little more about what you need today? "

_ids = itertools.count()


class Session(WSListener):
    """One client."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._to = transport
        self._open = True
        self._heard = 0
        self._turn = 0
        self.tell({"type": "session.created", "session": {"id": "sess", "type": "realtime"}})

    def tell(self, event: dict[str, Any]) -> None:
        if self._open:
            event = {"type": event["type"], "event_id": f"event_{next(_ids):021d}", **event}
            self._to.send(WSMsgType.TEXT, json.dumps(event, separators=(",", ":")).encode())

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type is WSMsgType.CLOSE:
            self._open = False
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.payload_size > 600:
            # An append: base64 of audio and 47 bytes around it.
            self._heard += (frame.payload_size - 47) // 4 * 3
            if self._heard >= TURN_BYTES:
                self._heard -= TURN_BYTES
                self._answer()
        elif b'"session.update"' in frame.get_payload_as_bytes():
            self.tell({"type": "session.updated", "session": {"id": "sess", "type": "realtime"}})

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self._open = False

    def _answer(self) -> None:
        self._turn += 1
        heard, item = f"item_u{self._turn:020d}", f"item_a{self._turn:020d}"
        response = f"resp_{self._turn:020d}"
        self.tell({"type": "input_audio_buffer.speech_started", "audio_start_ms": 0, "item_id": heard})
        self.tell({"type": "input_audio_buffer.speech_stopped", "audio_end_ms": 0, "item_id": heard})
        self.tell({"type": "input_audio_buffer.committed", "previous_item_id": None, "item_id": heard})
        user = {
            "id": heard, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
            "content": [{"type": "input_audio", "transcript": None}],
        }  # fmt: skip
        self.tell({"type": "conversation.item.added", "previous_item_id": None, "item": user})
        self.tell({"type": "conversation.item.done", "previous_item_id": None, "item": user})
        shown = {"id": response, "object": "realtime.response", "status": "in_progress", "output": []}
        self.tell({"type": "response.created", "response": shown})
        said = {
            "id": item, "object": "realtime.item", "type": "message", "status": "in_progress",
            "role": "assistant", "content": [],
        }  # fmt: skip
        where = {"response_id": response, "item_id": item, "output_index": 0, "content_index": 0}
        self.tell({"type": "response.output_item.added", "response_id": response, "item": said})
        self.tell({"type": "conversation.item.added", "previous_item_id": heard, "item": said})
        self._delta(where, said, 0, asyncio.get_running_loop().time())

    def _delta(self, where: dict[str, Any], said: dict[str, Any], number: int, begun: float) -> None:
        loop = asyncio.get_running_loop()
        if number < DELTAS:
            self.tell({"type": "response.output_audio.delta", **where, "delta": AUDIO})
            if number % 2 == 0:
                self.tell({"type": "response.output_audio_transcript.delta", **where, "delta": WORDS[:6]})
            due = begun + (number + 1) * DELTA_SECONDS / SPEED
            loop.call_at(due, self._delta, where, said, number + 1, begun)
            return
        self.tell({"type": "response.output_audio.done", **where})
        self.tell({"type": "response.output_audio_transcript.done", **where, "transcript": WORDS})
        done = said | {"status": "completed", "content": [{"type": "output_audio", "transcript": WORDS}]}
        self.tell({"type": "conversation.item.done", "previous_item_id": None, "item": done})
        self.tell({"type": "response.output_item.done", "response_id": where["response_id"], "item": done})
        ended = {"id": where["response_id"], "object": "realtime.response", "status": "completed"}
        self.tell({"type": "response.done", "response": ended | {"output": [done]}})


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cert")
    parser.add_argument("--key")
    given = parser.parse_args()
    tls: dict[str, Any] = {}
    if given.cert:
        tls["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls["ssl"].load_cert_chain(given.cert, given.key)

    def session(_request: WSUpgradeRequest) -> WSListener:
        return Session()

    server = await ws_create_server(session, "127.0.0.1", 0, **tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
