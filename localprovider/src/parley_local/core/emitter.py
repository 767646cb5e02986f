"""Server events in the dialect of the connection, collected as effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .checks import Json
from .effects import Effect, Send
from .errors import error_body
from .items import Item
from .settings import Shape

NewId = Callable[[str], str]
BETA_NAMES = {
    "response.output_text.delta": "response.text.delta",
    "response.output_text.done": "response.text.done",
    "response.output_audio.delta": "response.audio.delta",
    "response.output_audio.done": "response.audio.done",
    "response.output_audio_transcript.delta": "response.audio_transcript.delta",
    "response.output_audio_transcript.done": "response.audio_transcript.done",
    "conversation.item.added": "conversation.item.created",
}
WITHOUT_ID = ("input_audio_buffer.dtmf_event_received",)


class Emitter:
    """Numbers, names and collects what goes out; `new_id(prefix)` makes ids."""

    def __init__(self, shape: Shape, new_id: NewId) -> None:
        self.shape = shape
        self.new_id = new_id
        self._effects: list[Effect] = []

    def take(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    def ask(self, effect: Effect) -> None:
        self._effects.append(effect)

    def emit(self, kind: str, **fields: Any) -> None:
        """Send the event with GA name `kind`, under its beta name where the connection is beta."""
        name = BETA_NAMES.get(kind, kind) if self.shape is Shape.BETA else kind
        head = {} if kind in WITHOUT_ID else {"event_id": self.new_id("event_")}
        self.ask(Send({"type": name, **head, **fields}))

    def item_added(self, item: Item, previous_id: str | None) -> None:
        self.emit("conversation.item.added", previous_item_id=previous_id, item=item.render(self.shape))

    def item_done(self, item: Item, previous_id: str | None) -> None:
        if self.shape is Shape.GA:
            self.emit("conversation.item.done", previous_item_id=previous_id, item=item.render(self.shape))

    def error(
        self, code: str | None, message: str, param: str | None = None, event_id: str | None = None
    ) -> None:
        self.emit("error", error=error_body(code, message, param, event_id))

    def fault(self, body: Json) -> None:
        """An `error` event with a ready body."""
        self.emit("error", error=body)
