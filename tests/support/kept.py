"""A conversation's keeper that a test feeds by hand; PCMU, so that a millisecond is eight bytes."""

from __future__ import annotations

from typing import Any

from parley_realtime.formats import PCMU
from parley_realtime.protocol.keeper import ConversationKeeper
from parley_realtime.protocol.restore import RestorePlan

VAD = {"type": "server_vad", "create_response": True}
SESSION = {"audio": {"input": {"turn_detection": VAD, "transcription": {"model": "w"}}}}


def second(count: float = 1.0, value: int = 1) -> bytes:
    return bytes([value]) * int(PCMU.bytes_per_second * count)


class Kept:
    """A keeper, and the connections under it."""

    def __init__(self, session: dict[str, Any] = SESSION, *, answers: bool = True) -> None:
        self.keeper = ConversationKeeper(
            ga=True,
            answers=answers,
            audio=PCMU,
            outward=PCMU,
            replay_ms=5000,
            quiet_ms=2000,
            held_ms=3000,
            limit=8,
        )
        self.server("session.created", session=session)

    def server(self, kind: str, **fields: Any) -> bool:
        return self.keeper.server({"type": kind, **fields}, 1.0)

    def client(self, kind: str, **fields: Any) -> None:
        self.keeper.client({"type": kind, **fields}, 0, 1.0)

    def user(self, item_id: str, text: str = "hello") -> None:
        content = [{"type": "input_text", "text": text}]
        item = {"id": item_id, "type": "message", "role": "user", "content": content}
        self.server("conversation.item.added", item=item)

    def turn(self, item_id: str, start: int, end: int, *, words: str | None = None) -> None:
        self.server("input_audio_buffer.speech_started", item_id=item_id, audio_start_ms=start)
        self.server("input_audio_buffer.speech_stopped", item_id=item_id, audio_end_ms=end)
        self.server("input_audio_buffer.committed", item_id=item_id)
        content = [{"type": "input_audio", "transcript": None}]
        item = {"id": item_id, "type": "message", "role": "user", "content": content}
        self.server("conversation.item.added", item=item)
        if words is not None:
            kind = "conversation.item.input_audio_transcription.completed"
            self.server(kind, item_id=item_id, content_index=0, transcript=words)

    def answer(self, response_id: str, item_id: str = "", words: str = "", *, whole: bool = False) -> None:
        self.server("response.created", response={"id": response_id, "conversation_id": "c"})
        if not item_id:
            return
        item = {"id": item_id, "type": "message", "role": "assistant", "content": []}
        ids = {"response_id": response_id, "item_id": item_id, "content_index": 0}
        self.server("response.output_item.added", response_id=response_id, item=item)
        self.server("response.output_audio_transcript.delta", **ids, delta=words)
        self.keeper.audio(response_id, item_id, 0, len(second()), 1.0)
        if whole:
            self.server("response.output_audio.done", **ids)
            self.server("response.output_audio_transcript.done", **ids, transcript=words)
            self.server("response.output_item.done", response_id=response_id, item=item)

    def move(self, *, rotation: bool = False) -> list[Any]:
        """The connection is lost and replaced: what is sent on the new one."""
        plan = self.keeper.plan()
        assert isinstance(plan, RestorePlan), plan
        return self.keeper.carried(plan, rotation=rotation)

    def lost(self, unsent: bytes = b"") -> list[Any]:
        self.loss = self.keeper.lost(unsent, "event_x")
        return self.move()


def kinds(sent: list[Any]) -> list[Any]:
    return [len(each) if isinstance(each, bytes) else each["type"] for each in sent]
