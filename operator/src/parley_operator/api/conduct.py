"""What an agent does beside conversing: declared behaviour, scenario, recording, recovery.

Parsers raise `FieldError`. All durations are seconds, 0 leaves the worker's default or switches a rule off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .fields import FieldError, Fields
from .references import ConfigMapRef, parse_config_map_ref, parse_secret_ref

MAX_LINE = 4096
MAX_LINES = 16
MAX_PHRASES = 64
MAX_PARAMETERS = 64 * 1024
RECORDING_FORMATS = ("wav", "opus")
FAIL, RESTART, RESUME = RECOVERY_POLICIES = ("Fail", "Restart", "Resume")
ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MEMORY = re.compile(r"([0-9]{1,6})(Mi|Gi)")
_FACTORS = {"Mi": 1024**2, "Gi": 1024**3}
MEMORY_BOUNDS = (16 * 1024**2, 16 * 1024**3)
_S3_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s?#]*)?")


@dataclass(frozen=True, slots=True)
class LineSpec:
    """What the agent says: `text` word for word, or what `instructions` ask for; both empty: nothing."""

    text: str = ""
    instructions: str = ""

    def __bool__(self) -> bool:
        return bool(self.text or self.instructions)


@dataclass(frozen=True, slots=True)
class BehaviourSpec:
    """The declared rules of a conversation."""

    greeting: LineSpec = LineSpec()
    hang_up_tool: bool = False
    hang_up_phrases: tuple[str, ...] = ()
    farewell: LineSpec = LineSpec()
    idle_after: float = 0.0
    idle_lines: tuple[LineSpec, ...] = ()
    idle_hang_up: bool = True
    goodbye_before: float = 0.0
    goodbye: LineSpec = LineSpec()


@dataclass(frozen=True, slots=True)
class ScenarioLimitsSpec:
    """Bounds of user code; 0 leaves the worker's default."""

    handler_timeout: float = 0.0
    memory_bytes: int = 0
    timers: int = 0
    events_per_second: int = 0


@dataclass(frozen=True, slots=True)
class ScenarioSpec:
    """User code. Neither entry point nor source: just parameters and limits for the agent's scenario."""

    entry_point: str = ""
    source: ConfigMapRef | None = None
    function: str = "main"
    parameters: Mapping[str, object] = field(default_factory=dict)
    limits: ScenarioLimitsSpec = ScenarioLimitsSpec()

    @property
    def has_code(self) -> bool:
        return bool(self.entry_point or self.source)


@dataclass(frozen=True, slots=True)
class RecordingSpec:
    """A stereo recording to a folder of the worker or an S3-compatible store."""

    format: str = "wav"
    directory: str = ""
    s3_url: str = ""
    s3_endpoint: str = ""
    s3_region: str = ""
    credentials: str = ""


@dataclass(frozen=True, slots=True)
class RecoverySpec:
    """What happens when the worker is lost (`policy`) or the provider's WebSocket is (all the rest)."""

    restore: bool = True
    keep_private: bool = False
    rotate_after: float = 0.0
    policy: str = FAIL


def parse_behaviour(fields: Fields) -> BehaviourSpec:
    """The rules written beside an agent's other fields."""
    hang_up, idle, goodbye = (fields.child(key) for key in ("hangUp", "idle", "goodbye"))
    lines = tuple(
        _line(Fields(item, f"{idle.at('lines')}[{index}]"))
        for index, item in enumerate(idle.items("lines", most=MAX_LINES))
    )
    after = idle.duration("after", 0.0)
    before = goodbye.duration("before", 0.0)
    if fields.has("idle") and not after:
        raise FieldError(idle.at("after"), "is required and must be more than 0s; write for example 10s")
    if fields.has("goodbye") and not before:
        raise FieldError(goodbye.at("before"), "is required and must be more than 0s; write for example 20s")
    phrases = hang_up.texts("phrases", most=MAX_PHRASES)
    for index, phrase in enumerate(phrases):
        if len(phrase) > 200 or not phrase.strip():
            raise FieldError(f"{hang_up.at('phrases')}[{index}]", "must be words, at most 200 characters")
    idle_hang_up = idle.flag("hangUp", True)
    if fields.has("idle") and not lines and not idle_hang_up:
        raise FieldError(idle.path, "does nothing: give lines, or leave hangUp true")
    found = BehaviourSpec(
        greeting=_line(fields.child("greeting")) if fields.has("greeting") else LineSpec(),
        hang_up_tool=hang_up.flag("tool"),
        hang_up_phrases=phrases,
        farewell=_line(hang_up.child("farewell")) if hang_up.has("farewell") else LineSpec(),
        idle_after=after,
        idle_lines=lines,
        idle_hang_up=idle_hang_up,
        goodbye_before=before,
        goodbye=_line(goodbye, finish=False) if fields.has("goodbye") else LineSpec(),
    )
    for part in (hang_up, idle, goodbye):
        part.finish()
    return found


def _line(fields: Fields, *, finish: bool = True) -> LineSpec:
    found = LineSpec(fields.text("text", longest=MAX_LINE), fields.text("instructions", longest=MAX_LINE))
    if bool(found.text) == bool(found.instructions):
        raise FieldError(fields.path, "exactly one of text and instructions must be set")
    if finish:
        fields.finish()
    return found


def parse_scenario(parent: Fields, *, partial: bool) -> ScenarioSpec | None:
    """The scenario under `scenario`; `partial` ones may leave the code to the agent."""
    if not parent.has("scenario"):
        return None
    fields = parent.child("scenario")
    point = fields.text("entryPoint", longest=253)
    if point and not ENTRY_POINT.fullmatch(point):
        raise FieldError(
            fields.at("entryPoint"), f"{point!r} is not an entry point; write package.module:function"
        )
    source = parse_config_map_ref(fields, "configMapRef")
    function = fields.text("function", longest=128)
    if (point and source) or not (partial or point or source):
        raise FieldError(fields.path, "exactly one of entryPoint and configMapRef must be set")
    if function and (source is None or not _FUNCTION.fullmatch(function)):
        raise FieldError(
            fields.at("function"),
            "cannot be used; it is the name of a function in configMapRef's source",
        )
    parameters = fields.mapping("parameters")
    if len(json.dumps(parameters, ensure_ascii=False).encode()) > MAX_PARAMETERS:
        raise FieldError(fields.at("parameters"), f"is larger than {MAX_PARAMETERS} bytes of JSON")
    found = ScenarioSpec(point, source, function or "main", parameters, _limits(fields.child("limits")))
    fields.finish()
    return found


def _limits(fields: Fields) -> ScenarioLimitsSpec:
    text = fields.text("memory", longest=16)
    match = _MEMORY.fullmatch(text)
    memory = int(match[1]) * _FACTORS[match[2]] if match else 0
    least, most = MEMORY_BOUNDS
    if text and not least <= memory <= most:
        raise FieldError(fields.at("memory"), f"{text!r} is not 16Mi to 16Gi; write for example 256Mi")
    timeout = fields.duration("handlerTimeout", 0.0)
    if timeout > 60:
        raise FieldError(fields.at("handlerTimeout"), f"is {timeout:g} s; at most 60 s are allowed")
    found = ScenarioLimitsSpec(
        handler_timeout=timeout,
        memory_bytes=memory,
        timers=fields.number("timers", 0, least=1, most=10_000),
        events_per_second=fields.number("eventsPerSecond", 0, least=1, most=10_000),
    )
    fields.finish()
    return found


def parse_recording(parent: Fields, *, privacy: bool) -> RecordingSpec | None:
    """The recording under `recording`; never together with privacy."""
    if not parent.has("recording"):
        return None
    fields = parent.child("recording")
    if privacy:
        raise FieldError(fields.path, "cannot be given together with privacy; leave one of them out")
    kind = fields.choice("format", RECORDING_FORMATS, "wav")
    volume, s3 = fields.child("volume"), fields.child("s3")
    if fields.has("volume") == fields.has("s3"):
        raise FieldError(fields.path, "exactly one of volume and s3 must be set")
    fields.finish()
    if fields.has("volume"):
        found = RecordingSpec(kind, directory=check_folder(volume.required("path"), volume.at("path")))
        volume.finish()
        return found
    url = s3.required("url", longest=1024)
    if not _S3_URL.fullmatch(url) or ".." in url.split("/"):
        raise FieldError(s3.at("url"), f"{url!r} is no place in a store; write s3://bucket/prefix")
    credentials = parse_secret_ref(s3, "credentialsSecretRef", "accessKeyId")
    if credentials is None:
        raise FieldError(s3.at("credentialsSecretRef"), "is required; name a Secret with the store's keys")
    found = RecordingSpec(
        kind,
        s3_url=url,
        s3_endpoint=s3.text("endpoint", longest=2048),
        s3_region=s3.text("region", longest=64),
        credentials=credentials.name,
    )
    s3.finish()
    return found


def check_folder(path: str, where: str) -> str:
    """An absolute path without `.`, `..` or empty parts."""
    parts = path.split("/")
    if not path.startswith("/") or {"..", "."} & set(parts) or "" in parts[1:-1] or "\0" in path:
        raise FieldError(where, f"{path!r} is not an absolute path without '..', such as /recordings")
    return path.rstrip("/") or "/"


def parse_recovery(fields: Fields, *, privacy: bool) -> RecoverySpec:
    """`policy` speaks of the worker, all the rest of the provider's WebSocket."""
    policy = fields.choice("policy", RECOVERY_POLICIES, FAIL)
    if policy == RESUME and privacy:
        raise FieldError(
            fields.at("policy"), "Resume needs the journal, which privacy keeps empty; use Restart or Fail"
        )
    found = RecoverySpec(
        policy=policy,
        restore=fields.choice("webSocket", ("Restore", "Fail"), "Restore") == "Restore",
        keep_private=fields.flag("keepPrivate"),
        rotate_after=fields.duration("rotateAfter", 0.0),
    )
    fields.finish()
    return found
