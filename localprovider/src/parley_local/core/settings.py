"""The session object: one typed form, read from and written to both protocol shapes.

An update is parsed whole before anything changes: a single invalid field discards it all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from parley_local.speech.wire import WireFormat

from . import checks
from .checks import Json
from .errors import InvalidRequest, invalid_value, missing


class Shape(Enum):
    """The protocol dialect of a connection."""

    GA = "ga"
    BETA = "beta"


VOICES = (
    "alloy", "ash", "ballad", "coral", "echo", "sage", "shimmer", "verse", "marin", "cedar",
    "slt", "rms", "awb", "kal",
)  # fmt: skip
VAD_MS_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """Server-side turn taking. `semantic_vad` is served by the same detector with its own patience."""

    kind: str = "server_vad"
    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_duration_ms: int = 500
    create_response: bool = True
    interrupt_response: bool = True
    idle_timeout_ms: int | None = None
    eagerness: str = "auto"

    @property
    def patience_ms(self) -> int:
        """Silence that ends a turn."""
        if self.kind == "semantic_vad":
            return {"high": 300, "low": 1200}.get(self.eagerness, 600)
        return self.silence_duration_ms

    def render(self, *, transcription: bool = False) -> Json:
        tail: Json = {"create_response": self.create_response, "interrupt_response": self.interrupt_response}
        if self.kind == "semantic_vad":
            return {"type": self.kind, "eagerness": self.eagerness} | ({} if transcription else tail)
        body: Json = {
            "type": self.kind,
            "threshold": self.threshold,
            "prefix_padding_ms": self.prefix_padding_ms,
            "silence_duration_ms": self.silence_duration_ms,
        }
        return body if transcription else body | {"idle_timeout_ms": self.idle_timeout_ms} | tail


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a client may set about a session."""

    shape: Shape
    model: str
    transcription_only: bool = False
    modalities: tuple[str, ...] = ("audio",)
    instructions: str = ""
    voice: str = "alloy"
    speed: float = 1.0
    input_format: WireFormat = WireFormat.PCM16
    output_format: WireFormat = WireFormat.PCM16
    transcription: Json | None = None
    noise_reduction: Json | None = None
    turn_detection: TurnDetection | None = field(default_factory=TurnDetection)
    tools: tuple[Json, ...] = ()
    tool_choice: str | Json = "auto"
    temperature: float = 0.8
    max_output_tokens: int | str = "inf"
    passed: Json = field(default_factory=dict)  # truncation, tracing, prompt, include, reasoning, ...

    @property
    def speaks(self) -> bool:
        return "audio" in self.modalities

    def render(self, session_id: str, expires_at: int) -> Json:
        """The session object as `session.created` and `session.updated` carry it."""
        render = _render_ga if self.shape is Shape.GA else _render_beta
        return render(self, session_id, expires_at)


def _render_format(wire: WireFormat) -> Json:
    body: Json = {"type": wire.ga_name}
    return body | {"rate": wire.rate} if wire is WireFormat.PCM16 else body


def _render_ga(settings: Settings, session_id: str, expires_at: int) -> Json:
    turns = settings.turn_detection
    audio_in: Json = {
        "format": _render_format(settings.input_format),
        "transcription": settings.transcription,
        "noise_reduction": settings.noise_reduction,
        "turn_detection": turns.render(transcription=settings.transcription_only) if turns else None,
    }
    head: Json = {"id": session_id, "expires_at": expires_at}
    if settings.transcription_only:
        return {
            "type": "transcription", "object": "realtime.transcription_session", **head,
            "include": settings.passed.get("include"), "audio": {"input": audio_in},
        }  # fmt: skip
    audio_out: Json = {
        "format": _render_format(settings.output_format),
        "voice": settings.voice,
        "speed": settings.speed,
    }
    return {
        "type": "realtime",
        "object": "realtime.session",
        **head,
        "model": settings.model,
        "output_modalities": list(settings.modalities),
        "instructions": settings.instructions,
        "tools": list(settings.tools),
        "tool_choice": settings.tool_choice,
        "max_output_tokens": settings.max_output_tokens,
        "tracing": None,
        "prompt": None,
        "include": None,
        "truncation": "auto",
        **settings.passed,
        "audio": {"input": audio_in, "output": audio_out},
    }


def _render_beta(settings: Settings, session_id: str, expires_at: int) -> Json:
    turns = settings.turn_detection
    rendered = turns.render() if turns else None
    if rendered is not None:
        rendered.pop("idle_timeout_ms", None)
    body: Json = {
        "id": session_id,
        "object": "realtime.session",
        "expires_at": expires_at,
        "modalities": list(settings.modalities),
        "input_audio_format": settings.input_format.beta_name,
        "input_audio_transcription": settings.transcription,
        "input_audio_noise_reduction": settings.noise_reduction,
        "turn_detection": rendered,
    }
    if settings.transcription_only:
        return body | {"object": "realtime.transcription_session", "include": settings.passed.get("include")}
    return body | {
        "model": settings.model,
        "instructions": settings.instructions,
        "voice": settings.voice,
        "output_audio_format": settings.output_format.beta_name,
        "tools": list(settings.tools),
        "tool_choice": settings.tool_choice,
        "temperature": settings.temperature,
        "max_response_output_tokens": settings.max_output_tokens,
        "speed": settings.speed,
        "tracing": None,
        **settings.passed,
    }


GA_PASSED = ("truncation", "tracing", "prompt", "include", "reasoning", "parallel_tool_calls")
BETA_PASSED = ("tracing", "prompt", "include")
READ_ONLY = ("id", "object", "expires_at", "client_secret")


def update(settings: Settings, session: object, *, voice_fixed: bool) -> Settings:
    """Apply a partial session object. Raises InvalidRequest, leaving `settings` as it was."""
    body = checks.mapping(session, "session")
    parse = _parse_ga if settings.shape is Shape.GA else _parse_beta
    changes = parse(settings, body)
    if voice_fixed and changes.get("voice", settings.voice) != settings.voice:
        raise InvalidRequest(
            "cannot_update_voice",
            "Cannot update a conversation's voice if assistant audio is present.",
            "session.audio.output.voice" if settings.shape is Shape.GA else "session.voice",
        )
    return replace(settings, **changes)


def _common(settings: Settings, body: Mapping[str, Any], passed: tuple[str, ...]) -> Json:
    """Fields that both shapes keep at the top of the session object."""
    changes: Json = {}
    if body.get("model", settings.model) != settings.model:
        raise invalid_value("session.model", body["model"], "The model of a session cannot be changed.")
    if "instructions" in body:
        changes["instructions"] = checks.string(body["instructions"], "session.instructions")
    if "tools" in body:
        changes["tools"] = parse_tools(body["tools"], "session.tools")
    if "tool_choice" in body:
        changes["tool_choice"] = parse_tool_choice(body["tool_choice"], "session.tool_choice")
    kept = {key: body[key] for key in passed if key in body}
    if kept:
        changes["passed"] = {**settings.passed, **kept}
    return changes


def _parse_ga(settings: Settings, body: Mapping[str, Any]) -> Json:
    kind = "transcription" if settings.transcription_only else "realtime"
    if "type" not in body:
        raise missing("session.type")
    checks.one_of(body["type"], "session.type", (kind,))
    allowed = {"type", "audio", "include", *READ_ONLY}
    if not settings.transcription_only:
        allowed |= {"model", "output_modalities", "instructions", "tools", "tool_choice", "max_output_tokens"}
        allowed |= set(GA_PASSED)
    checks.known(body, "session", allowed)
    changes = _common(settings, body, GA_PASSED)
    if "output_modalities" in body:
        changes["modalities"] = parse_modalities(
            body["output_modalities"], "session.output_modalities", Shape.GA
        )
    if "max_output_tokens" in body:
        changes["max_output_tokens"] = parse_max_tokens(
            body["max_output_tokens"], "session.max_output_tokens"
        )
    audio = checks.mapping(body.get("audio") or {}, "session.audio")
    checks.known(audio, "session.audio", ("input",) if settings.transcription_only else ("input", "output"))
    changes |= _parse_input(settings, checks.mapping(audio.get("input") or {}, "session.audio.input"))
    changes |= parse_output(audio.get("output"), "session.audio.output")
    return changes


def _parse_input(settings: Settings, body: Mapping[str, Any]) -> Json:
    param = "session.audio.input"
    checks.known(body, param, ("format", "transcription", "noise_reduction", "turn_detection"))
    changes: Json = {}
    if "format" in body:
        changes["input_format"] = parse_ga_format(body["format"], f"{param}.format")
    if "transcription" in body:
        changes["transcription"] = _parse_transcription(
            settings.transcription, body["transcription"], f"{param}.transcription"
        )
    if "noise_reduction" in body:
        changes["noise_reduction"] = _parse_noise(body["noise_reduction"], f"{param}.noise_reduction")
    if "turn_detection" in body:
        changes["turn_detection"] = _parse_turns(
            settings.turn_detection, body["turn_detection"], f"{param}.turn_detection"
        )
    return changes


def _parse_beta(settings: Settings, body: Mapping[str, Any]) -> Json:
    allowed = {
        "model", "modalities", "instructions", "voice", "input_audio_format", "output_audio_format",
        "input_audio_transcription", "input_audio_noise_reduction", "turn_detection", "tools", "tool_choice",
        "temperature", "max_response_output_tokens", "max_output_tokens", "speed", *BETA_PASSED, *READ_ONLY,
    }  # fmt: skip
    checks.known(body, "session", allowed)
    changes = _common(settings, body, BETA_PASSED)
    if "modalities" in body:
        changes["modalities"] = parse_modalities(body["modalities"], "session.modalities", Shape.BETA)
    if "voice" in body:
        changes["voice"] = parse_voice(body["voice"], "session.voice")
    if "speed" in body:
        changes["speed"] = checks.number(body["speed"], "session.speed", 0.25, 1.5)
    if "input_audio_format" in body:
        changes["input_format"] = parse_beta_format(body["input_audio_format"], "session.input_audio_format")
    if "output_audio_format" in body:
        changes["output_format"] = parse_beta_format(
            body["output_audio_format"], "session.output_audio_format"
        )
    if "input_audio_transcription" in body:
        param = "session.input_audio_transcription"
        changes["transcription"] = _parse_transcription(settings.transcription, body[param[8:]], param)
    if "input_audio_noise_reduction" in body:
        param = "session.input_audio_noise_reduction"
        changes["noise_reduction"] = _parse_noise(body[param[8:]], param)
    if "turn_detection" in body:
        changes["turn_detection"] = _parse_turns(
            settings.turn_detection, body["turn_detection"], "session.turn_detection"
        )
    if "temperature" in body:
        changes["temperature"] = checks.number(body["temperature"], "session.temperature", 0.6, 1.2)
    for key in ("max_output_tokens", "max_response_output_tokens"):
        if key in body:
            changes["max_output_tokens"] = parse_max_tokens(body[key], f"session.{key}")
    return changes


def parse_output(value: object, param: str) -> Json:
    """The GA `audio.output` object of a session or a response."""
    body = checks.mapping(value or {}, param)
    checks.known(body, param, ("format", "voice", "speed"))
    changes: Json = {}
    if "format" in body:
        changes["output_format"] = parse_ga_format(body["format"], f"{param}.format")
    if "voice" in body:
        changes["voice"] = parse_voice(body["voice"], f"{param}.voice")
    if "speed" in body:
        changes["speed"] = checks.number(body["speed"], f"{param}.speed", 0.25, 1.5)
    return changes


def parse_modalities(value: object, param: str, shape: Shape) -> tuple[str, ...]:
    items = tuple(checks.one_of(item, param, ("text", "audio")) for item in checks.sequence(value, param))
    allowed = (
        {("audio",), ("text",)} if shape is Shape.GA else {("text", "audio"), ("audio", "text"), ("text",)}
    )
    if items not in allowed:
        listed = " or ".join(str(list(option)) for option in sorted(allowed))
        raise invalid_value(param, value, f"Expected {listed}.")
    return items


def parse_voice(value: object, param: str) -> str:
    if isinstance(value, dict) and isinstance(value.get("id"), str):
        return str(value["id"])
    return checks.one_of(value, param, VOICES)


def parse_ga_format(value: object, param: str) -> WireFormat:
    body = checks.mapping(value, param)
    checks.known(body, param, ("type", "rate"))
    if "type" not in body:
        raise missing(f"{param}.type")
    name = checks.one_of(body["type"], f"{param}.type", [wire.ga_name for wire in WireFormat])
    wire = next(wire for wire in WireFormat if wire.ga_name == name)
    if wire is WireFormat.PCM16 and body.get("rate") is not None:
        checks.integer(body["rate"], f"{param}.rate", wire.rate, wire.rate)
    return wire


def parse_beta_format(value: object, param: str) -> WireFormat:
    name = checks.one_of(value, param, [wire.beta_name for wire in WireFormat])
    return next(wire for wire in WireFormat if wire.beta_name == name)


def parse_max_tokens(value: object, param: str) -> int | str:
    return "inf" if value == "inf" else checks.integer(value, param, 1, 4096)


def parse_tools(value: object, param: str) -> tuple[Json, ...]:
    tools: list[Json] = []
    for index, tool in enumerate(checks.sequence(value, param, 128)):
        path = f"{param}[{index}]"
        body = checks.mapping(tool, path)
        if checks.one_of(body.get("type"), f"{path}.type", ("function", "mcp")) == "function":
            checks.known(body, path, ("type", "name", "description", "parameters"))
            checks.required_string(body, "name", path)
        tools.append(dict(body))
    return tuple(tools)


def parse_tool_choice(value: object, param: str) -> str | Json:
    if isinstance(value, dict):
        checks.one_of(value.get("type"), f"{param}.type", ("function", "mcp"))
        return dict(value)
    return checks.one_of(value, param, ("auto", "none", "required"))


def _parse_transcription(current: Json | None, value: object, param: str) -> Json | None:
    if value is None:
        return None
    body = checks.mapping(value, param)
    checks.known(body, param, ("model", "language", "prompt", "delay", "keywords", "languages"))
    merged = {**(current or {}), **body}
    if merged.get("model") is None:
        raise missing(f"{param}.model")
    checks.string(merged["model"], f"{param}.model", longest=200)
    return merged


def _parse_noise(value: object, param: str) -> Json | None:
    if value is None:
        return None
    body = checks.mapping(value, param)
    checks.one_of(body.get("type"), f"{param}.type", ("near_field", "far_field"))
    return dict(body)


def _parse_turns(current: TurnDetection | None, value: object, param: str) -> TurnDetection | None:
    if value is None:
        return None
    body = checks.mapping(value, param)
    kinds = ("server_vad", "semantic_vad")
    base = current or TurnDetection()
    kind = checks.one_of(body.get("type", base.kind), f"{param}.type", kinds)
    flags = ("type", "create_response", "interrupt_response")
    server = ("threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms")
    # The detector the client did not choose may be named with null members: SDKs send whole objects.
    given = {key: member for key, member in body.items() if member is not None or key == "idle_timeout_ms"}
    checks.known(given, param, (*flags, *server) if kind == "server_vad" else (*flags, "eagerness"))
    changes: Json = {"kind": kind}
    if "threshold" in given:
        changes["threshold"] = checks.number(given["threshold"], f"{param}.threshold", 0.0, 1.0)
    for key in ("prefix_padding_ms", "silence_duration_ms"):
        if key in given:
            changes[key] = checks.integer(given[key], f"{param}.{key}", 0, VAD_MS_LIMIT)
    for key in ("create_response", "interrupt_response"):
        if key in given:
            changes[key] = checks.boolean(given[key], f"{param}.{key}")
    if "eagerness" in given:
        changes["eagerness"] = checks.one_of(
            given["eagerness"], f"{param}.eagerness", ("low", "medium", "high", "auto")
        )
    if "idle_timeout_ms" in given:
        idle = given["idle_timeout_ms"]
        path = f"{param}.idle_timeout_ms"
        changes["idle_timeout_ms"] = None if idle is None else checks.integer(idle, path, 5000, 30000)
    return replace(base, **changes)
