"""What the session core asks of its shell, and the words it exchanges with a brain."""

from __future__ import annotations

from dataclasses import dataclass, field

from parley_local.speech.wire import WireFormat

from .checks import Json


@dataclass(frozen=True, slots=True)
class Utterance:
    """Something that was said or written; `role` is `user`, `assistant` or `system`."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A function call the assistant made; `arguments` is its JSON text."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool's output, with the name of the function where the call is known."""

    name: str
    output: str
    call_id: str = ""


Entry = Utterance | ToolUse | ToolResult


@dataclass(frozen=True, slots=True)
class BrainRequest:
    """The conversation a reply is asked for, oldest entry first.

    `tools` are the names of all tools; `functions` the function tools as the client gave them.
    """

    instructions: str
    history: tuple[Entry, ...]
    tools: tuple[str, ...] = ()
    functions: tuple[Json, ...] = ()
    tool_choice: str | Json = "auto"
    session_id: str = ""


@dataclass(frozen=True, slots=True)
class Say:
    """Words of a reply, spoken or written as the session's modalities say."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function call of a reply; `arguments` as text is passed on as it is, JSON or not."""

    name: str
    arguments: Json | str = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class McpCall:
    """A call of a tool on an MCP server, done by the provider itself. `error` set: it failed."""

    server_label: str
    name: str
    arguments: Json = field(default_factory=dict)
    output: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Emit:
    """A server event sent as it is, for what only other providers make. `event` has `type`, no `event_id`."""

    event: Json


Part = Say | Call | McpCall | Emit
Reply = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class BrainFailure:
    """Why there is no reply: what `response.done` says with status `failed`."""

    message: str
    code: str = "server_error"
    kind: str = "server_error"


@dataclass(frozen=True, slots=True)
class Send:
    """Send one server event."""

    event: Json


@dataclass(frozen=True, slots=True)
class Close:
    """Close the WebSocket with this code and reason once all events are out."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Recognise committed audio; answer with `Session.transcribed`."""

    item_id: str
    audio: bytes = field(repr=False)
    wire: WireFormat


@dataclass(frozen=True, slots=True)
class Think:
    """Ask the brain; answer with `Session.replied`."""

    response_id: str
    request: BrainRequest


@dataclass(frozen=True, slots=True)
class Speak:
    """Synthesise; answer with `Session.spoke`."""

    response_id: str
    text: str
    voice: str
    speed: float
    wire: WireFormat


@dataclass(frozen=True, slots=True)
class Abandon:
    """Work under way for this response is of no use any more."""

    response_id: str


Effect = Send | Close | Transcribe | Think | Speak | Abandon
