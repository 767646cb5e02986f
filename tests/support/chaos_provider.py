"""The provider of the chaos suite: an agent that talks without end, and tells who is listening to whom.

One file that needs websockets and numpy alone, so that it runs in a pod of the local provider's image from a
ConfigMap. `python chaos_provider.py PORT`.

The instructions of a session hold `sid=N`. Its agent speaks in a tone of its own (`voice_of`), each answer
is the next turn, and its words begin with `turn-N-T`. A turn goes on only as the caller's audio comes in:
quiet for QUIET seconds of it, then the caller has spoken for SPEECH seconds, then the answer comes, ANSWER
seconds long. So the agent is silent for PAUSE seconds between answers, and not longer unless something is
wrong. What the caller said is transcribed as `caller-N-T at F Hz`, F being what was heard of it.

A conversation that is carried over is continued: the next turn follows the last that an item tells of.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import secrets
import sys
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

RATE = 24_000
ANSWER = 2.0
QUIET, SPEECH, THINK = 0.5, 0.3, 0.1
PAUSE = QUIET + SPEECH + THINK
DELTA = 0.1
LEAD = 0.4
"""Seconds that an answer is sent ahead of how it sounds."""
WORDS = "and so we go on talking about this and that"
TURN = re.compile(r"turn-(\d+)-(\d+)")
VOICES = 20

Event = dict[str, Any]
_ids = itertools.count(1)
_RUN = secrets.token_hex(4)


def voice_of(sid: int) -> int:
    """The tone (Hz) in which the agent of call `sid` speaks."""
    return 300 + 100 * (sid % VOICES)


def caller_of(sid: int) -> int:
    """The tone (Hz) in which the caller of call `sid` speaks."""
    return 350 + 100 * (sid % VOICES)


def tone(frequency: int, seconds: float, rate: int = RATE) -> bytes:
    """PCM16; whole periods where `frequency * seconds` is a whole number, so that pieces fit together."""
    moments = np.arange(round(seconds * rate)) / rate
    return (12_000 * np.sin(2 * np.pi * frequency * moments)).astype("<i2").tobytes()


def pitch(samples: np.ndarray[Any, Any], rate: int = RATE) -> int:
    """Frequency of a tone, by its zero crossings, to 50 Hz; 0 where it is quiet."""
    if len(samples) < rate // 100 or int(np.max(np.abs(samples))) < 3000:
        return 0
    crossings = int(np.count_nonzero(np.diff(np.signbit(samples))))
    return 50 * round(crossings / 2 / (len(samples) / rate) / 50)


class Conversation:
    """One connection. Time is the loop's; the caller's time is the audio that came."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self._out: asyncio.Queue[Event] = asyncio.Queue()
        self._session: Event = {"type": "realtime", "object": "realtime.session", "id": _new("sess")}
        self._items: list[str] = []
        self.sid = 0
        self.turn = 0
        self._carried: dict[int, int] = {}
        self._clock = 0.0  # seconds of caller audio
        self._quiet_until = QUIET
        self._speaking: asyncio.Task[None] | None = None
        self._heard: list[np.ndarray[Any, Any]] = []
        self._user = ""  # the item of a caller who is speaking

    async def run(self) -> None:
        """Until the client goes."""
        self.tell("session.created", session=self._session)
        writer = asyncio.create_task(self._write())
        try:
            async for text in self._socket:
                self._take(json.loads(text))
        except ConnectionClosed:
            pass
        finally:
            for task in (writer, self._speaking):
                if task is not None:
                    task.cancel()

    def tell(self, kind: str, **fields: Any) -> None:
        """Queue an event."""
        self._out.put_nowait({"type": kind, "event_id": _new("event"), **fields})

    async def _write(self) -> None:
        while True:
            await self._socket.send(json.dumps(await self._out.get(), separators=(",", ":")))

    # What the client sends

    def _take(self, event: Event) -> None:
        match event.get("type"):
            case "input_audio_buffer.append":
                self._append(base64.b64decode(event["audio"]))
            case "session.update":
                self._session = _merged(self._session, event["session"])
                if found := re.search(r"sid=(\d+)", str(self._session.get("instructions", ""))):
                    self.sid = int(found[1])
                    self.turn = max(self.turn, self._carried.get(self.sid, 0))  # items may have come before
                self.tell("session.updated", session=self._session)
            case "conversation.item.create":
                self._create(event)
            case "conversation.item.delete":
                self._forget(event["item_id"])
                self.tell("conversation.item.deleted", item_id=event["item_id"])
            case "conversation.item.truncate":
                fields = {key: event[key] for key in ("item_id", "content_index", "audio_end_ms")}
                self.tell("conversation.item.truncated", **fields)
            case "response.create":
                self._answer()
            case "response.cancel":
                if self._speaking is not None:
                    self._speaking.cancel()
            case "input_audio_buffer.clear":
                self.tell("input_audio_buffer.cleared")
            case "input_audio_buffer.commit":
                self._commit()
            case other:
                error = {"type": "invalid_request_error", "code": "unknown", "message": f"{other}?"}
                self.tell("error", error=error | {"event_id": event.get("event_id")})

    def _create(self, event: Event) -> None:
        item = {"id": _new("item"), "object": "realtime.item", "status": "completed", **event["item"]}
        for sid, turn in TURN.findall(json.dumps(item.get("content", []))):
            self._carried[int(sid)] = max(self._carried.get(int(sid), 0), int(turn))
        self.turn = max(self.turn, self._carried.get(self.sid, 0))
        previous = event.get("previous_item_id")
        if previous == "root":
            self._items.insert(0, item["id"])
        elif previous in self._items:
            self._items.insert(self._items.index(previous) + 1, item["id"])
        else:
            self._items.append(item["id"])
        self._show(item)

    def _show(self, item: Event) -> None:
        at = self._items.index(item["id"])
        before = self._items[at - 1] if at else None
        self.tell("conversation.item.added", previous_item_id=before, item=item)
        self.tell("conversation.item.done", previous_item_id=before, item=item)

    def _forget(self, item_id: str) -> None:
        if item_id in self._items:
            self._items.remove(item_id)

    # Whose turn it is, by the caller's audio

    def _append(self, audio: bytes) -> None:
        samples = np.frombuffer(audio, dtype="<i2")
        self._clock += len(samples) / RATE
        if self._speaking is not None and not self._speaking.done():
            return
        if not self._user and self._clock >= self._quiet_until:
            self._user = _new("item")
            start = round(self._clock * 1000)
            self.tell("input_audio_buffer.speech_started", audio_start_ms=start, item_id=self._user)
        elif self._user:
            self._heard.append(samples)
            if self._clock >= self._quiet_until + SPEECH:
                end = round(self._clock * 1000)
                self.tell("input_audio_buffer.speech_stopped", audio_end_ms=end, item_id=self._user)
                self._commit()
                self._answer(THINK)

    def _commit(self) -> None:
        item_id, self._user = self._user or _new("item"), ""
        before = self._items[-1] if self._items else None
        self._items.append(item_id)
        heard = pitch(np.concatenate(self._heard)) if self._heard else 0
        self._heard.clear()
        self.tell("input_audio_buffer.committed", previous_item_id=before, item_id=item_id)
        content = [{"type": "input_audio", "transcript": None}]
        item = {
            "id": item_id,
            "object": "realtime.item",
            "type": "message",
            "status": "completed",
            "role": "user",
        }
        self._show({**item, "content": content})
        words = f"caller-{self.sid}-{self.turn + 1} at {heard} Hz"
        kind = "conversation.item.input_audio_transcription.completed"
        usage = {"type": "duration", "seconds": SPEECH}
        self.tell(kind, item_id=item_id, content_index=0, transcript=words, usage=usage)

    # The agent

    def _answer(self, after: float = 0.0) -> None:
        if self._speaking is None or self._speaking.done():
            self.turn += 1
            self._speaking = asyncio.create_task(self._speak(self.turn, after))

    async def _speak(self, turn: int, after: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(after)
        response, item_id, words = _new("resp"), _new("item"), f"turn-{self.sid}-{turn} {WORDS}"
        item: Event = {"id": item_id, "object": "realtime.item", "type": "message", "role": "assistant"}
        self.tell("response.created", response=_response(response, "in_progress", []))
        where = {"response_id": response, "item_id": item_id, "output_index": 0, "content_index": 0}
        begun: Event = {**item, "status": "in_progress", "content": []}
        self.tell("response.output_item.added", response_id=response, output_index=0, item=begun)
        before = self._items[-1] if self._items else None
        self._items.append(item_id)
        self.tell("conversation.item.added", previous_item_id=before, item=begun)
        self.tell("response.content_part.added", **where, part={"type": "audio", "transcript": ""})
        piece = base64.b64encode(tone(voice_of(self.sid), DELTA)).decode()
        start, count, status = loop.time(), round(ANSWER / DELTA), "completed"
        try:
            for number in range(count):
                if number % 5 == 0:
                    said = words[len(words) * number // count : len(words) * (number + 5) // count]
                    self.tell("response.output_audio_transcript.delta", **where, delta=said)
                self.tell("response.output_audio.delta", **where, delta=piece)
                await asyncio.sleep(start + (number + 1) * DELTA - LEAD - loop.time())
        except asyncio.CancelledError:
            status = "cancelled"
        part = {"type": "output_audio", "transcript": words}
        done = {**item, "status": "completed" if status == "completed" else "incomplete", "content": [part]}
        self.tell("response.output_audio.done", **where)
        self.tell("response.output_audio_transcript.done", **where, transcript=words)
        self.tell("response.content_part.done", **where, part={"type": "audio", "transcript": words})
        self.tell("response.output_item.done", response_id=response, output_index=0, item=done)
        self.tell("conversation.item.done", previous_item_id=before, item=done)
        self.tell("response.done", response=_response(response, status, [done]))
        try:  # the pause is counted from the end of what is heard
            await asyncio.sleep(max(0.0, start + ANSWER - loop.time()) if status == "completed" else 0.0)
        finally:
            self._quiet_until = self._clock + QUIET


def _response(name: str, status: str, output: list[Event]) -> Event:
    details = {"text_tokens": 0, "audio_tokens": 20}
    usage = {
        "total_tokens": 40, "input_tokens": 20, "output_tokens": 20,
        "input_token_details": details | {"cached_tokens": 0}, "output_token_details": details,
    }  # fmt: skip
    body = {"id": name, "object": "realtime.response", "status": status, "output": output}
    return body | {"conversation_id": "conv", "usage": None if status == "in_progress" else usage}


def _merged(old: Event, new: Event) -> Event:
    found = dict(old)
    for key, value in new.items():
        both = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _merged(found[key], value) if both else value
    return found


def _new(prefix: str) -> str:
    return f"{prefix}_{_RUN}{next(_ids):014d}"


async def main(port: int) -> None:
    """Serve until killed."""

    async def converse(socket: ServerConnection) -> None:
        await Conversation(socket).run()

    async with serve(converse, "0.0.0.0", port, compression=None, max_size=None):
        print(f"listening on {port}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
