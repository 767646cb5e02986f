"""Conversation items: checked on the way in, rendered per shape, kept in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import checks
from .checks import Json
from .errors import InvalidRequest, invalid_value, missing
from .settings import Shape

MAX_ITEMS = 2000
KINDS = (
    "message", "function_call", "function_call_output",
    "mcp_approval_response", "mcp_approval_request", "mcp_call", "mcp_list_tools",
)  # fmt: skip
CONTENT_OF_ROLE = {
    "system": ("input_text",),
    "user": ("input_text", "input_audio", "input_image"),
    "assistant": ("output_text", "text", "output_audio", "audio"),
}


@dataclass(slots=True)
class Part:
    """One content part. `kind` is `input_text | input_audio | input_image | text | audio`.

    Assistant parts are `text` and `audio` here whatever the shape calls them.
    """

    kind: str
    text: str | None = None
    transcript: str | None = None
    audio: bytes = b""
    duration_ms: float = 0.0
    extra: Json = field(default_factory=dict)

    def render(self, shape: Shape) -> Json:
        """The part as item content; audio bytes are left out."""
        kind = f"output_{self.kind}" if shape is Shape.GA and self.kind in ("text", "audio") else self.kind
        if self.kind in ("text", "input_text"):
            return {"type": kind, "text": self.text or ""}
        if self.kind == "input_image":
            return {"type": kind, **self.extra}
        return {"type": kind, "transcript": self.transcript}


@dataclass(slots=True)
class Item:
    """One item of the conversation; `fields` holds what only its kind has (call_id, output, ...)."""

    id: str
    kind: str
    status: str = "completed"
    role: str | None = None
    content: list[Part] = field(default_factory=list)
    fields: Json = field(default_factory=dict)

    def render(self, shape: Shape) -> Json:
        if self.kind.startswith("mcp_"):
            return {"id": self.id, "type": self.kind, **self.fields}  # these have neither object nor status
        body: Json = {"id": self.id, "object": "realtime.item", "type": self.kind, "status": self.status}
        if self.kind == "message":
            return body | {"role": self.role, "content": [part.render(shape) for part in self.content]}
        return body | self.fields

    @property
    def words(self) -> str:
        """All text and transcripts of the item."""
        texts = (part.text if part.text is not None else part.transcript for part in self.content)
        return " ".join(text for text in texts if text)


def parse_item(value: object, new_id: str, param: str = "item") -> tuple[Item, list[tuple[Part, str]]]:
    """An item a client sends, and its audio parts with their base64 text still to be decoded."""
    body = checks.mapping(value, param)
    if body.get("type") is None:
        raise missing(f"{param}.type")
    kind = checks.one_of(body["type"], f"{param}.type", KINDS)
    identifier = new_id
    if body.get("id") is not None:
        identifier = checks.string(body["id"], f"{param}.id", longest=64)
    if kind == "message":
        return _parse_message(body, identifier, param)
    fields = {key: item for key, item in body.items() if key not in ("id", "object", "type", "status")}
    needed = {"function_call": ("name", "arguments"), "function_call_output": ("call_id", "output")}
    for key in needed.get(kind, ()):
        checks.required_string(body, key, param)
    if kind == "function_call":
        fields.setdefault("call_id", identifier.replace("item_", "call_", 1))
    return Item(identifier, kind, fields=fields), []


def _parse_message(
    body: Mapping[str, Any], identifier: str, param: str
) -> tuple[Item, list[tuple[Part, str]]]:
    checks.known(body, param, ("id", "object", "type", "status", "role", "content"))
    if body.get("role") is None:
        raise missing(f"{param}.role")
    role = checks.one_of(body["role"], f"{param}.role", tuple(CONTENT_OF_ROLE))
    item = Item(identifier, "message", role=role)
    undecoded: list[tuple[Part, str]] = []
    for index, content in enumerate(checks.sequence(body.get("content"), f"{param}.content", 100)):
        path = f"{param}.content[{index}]"
        part = checks.mapping(content, path)
        kind = checks.one_of(part.get("type"), f"{path}.type", CONTENT_OF_ROLE[role])
        if kind in ("output_audio", "audio") and part.get("audio"):
            raise InvalidRequest(
                "invalid_value", f"Assistant audio cannot be created by a client ('{path}.audio').", path
            )
        parsed = Part(kind.removeprefix("output_"))
        if kind.endswith("text"):
            parsed.text = checks.required_string(part, "text", path)
        elif kind == "input_image":
            parsed.extra = {key: part[key] for key in ("image_url", "detail") if key in part}
        else:
            parsed.transcript = part.get("transcript")
            if kind == "input_audio":
                undecoded.append((parsed, checks.required_string(part, "audio", path)))
        item.content.append(parsed)
    return item, undecoded


class Conversation:
    """Items in order, addressed by id."""

    def __init__(self, identifier: str) -> None:
        self.id = identifier
        self._items: list[Item] = []

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def last_id(self) -> str | None:
        return self._items[-1].id if self._items else None

    def find(self, item_id: str, param: str = "item_id") -> Item:
        for item in self._items:
            if item.id == item_id:
                return item
        raise InvalidRequest(
            "item_not_found", f"Item with item_id '{item_id[:64]}' not found in the conversation.", param
        )

    def has(self, item_id: str) -> bool:
        return any(item.id == item_id for item in self._items)

    def previous_id(self, item: Item) -> str | None:
        index = self._items.index(item)
        return self._items[index - 1].id if index else None

    def insert(self, item: Item, after: str | None = None) -> str | None:
        """Add `item` at the end, at the start (`root`) or after another; return the id before it."""
        if self.has(item.id):
            raise invalid_value("item.id", item.id, "An item with this id is in the conversation already.")
        if len(self._items) >= MAX_ITEMS:
            raise InvalidRequest(
                "conversation_full", f"The conversation holds {MAX_ITEMS} items. Delete some first.", None
            )
        if after is None:
            index = len(self._items)
        elif after == "root":
            index = 0
        else:
            index = self._items.index(self.find(after, "previous_item_id")) + 1
        self._items.insert(index, item)
        return self._items[index - 1].id if index else None

    def remove(self, item_id: str) -> None:
        self._items.remove(self.find(item_id))
