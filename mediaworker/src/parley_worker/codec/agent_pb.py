"""What an agent does beside conversing: `parley.control.v1` to `core.agent`, every field checked.

All functions raise InvalidRequest, which names the field, the value unless it is secret, and the remedy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from parley.control.v1 import control_pb2 as pb

from parley_worker.codec.checks import (
    InvalidRequest,
    json_object,
    require,
    require_pem,
    require_url,
    seconds_within,
)
from parley_worker.core.agent import (
    Behaviour,
    Line,
    MediaAccess,
    RecordingConfig,
    RecoveryConfig,
    ScenarioConfig,
    ScenarioLimits,
    ToolRoute,
    ToolRouteKind,
)
from parley_worker.core.secret import Secret

MAX_TOOLS = 128
MAX_TOOL_SECONDS = 300.0
MAX_TOOL_OUTPUT_BYTES = 1024 * 1024
MAX_TOOL_RETRIES = 10
MAX_SOURCE_BYTES = 256 * 1024
MAX_PARAMETERS_BYTES = 64 * 1024
MAX_LINE_BYTES = 16 * 1024
MAX_LINES = 16
MAX_PHRASES = 64
MAX_PHRASE = 200
MAX_ENTRIES = 256
RECORDING_FORMATS = ("wav", "opus")

_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_FUNCTION = re.compile(r"[A-Za-z_]\w{0,127}", re.ASCII)
_FILE_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
MEMORY_BOUNDS = (16 * 1024 * 1024, 16 * 1024 * 1024 * 1024)


def behaviour(message: pb.Behaviour) -> Behaviour:
    where = "config.behaviour"
    phrases = tuple(message.hang_up_phrases)
    field = f"{where}.hang_up_phrases"
    require(len(phrases) <= MAX_PHRASES, field, len(phrases), f"at most {MAX_PHRASES} phrases")
    for index, phrase in enumerate(phrases):
        good = phrase.strip() and len(phrase) <= MAX_PHRASE
        require(good, f"{field}[{index}]", phrase, f"1 to {MAX_PHRASE} characters")
    require(
        len(message.idle_lines) <= MAX_LINES,
        f"{where}.idle_lines",
        len(message.idle_lines),
        f"at most {MAX_LINES} lines",
    )
    return Behaviour(
        greeting=_line(message.greeting, f"{where}.greeting"),
        hang_up_tool=message.hang_up_tool,
        hang_up_phrases=phrases,
        farewell=_line(message.farewell, f"{where}.farewell"),
        idle_after=seconds_within(message.idle_after, f"{where}.idle_after"),
        idle_lines=tuple(
            _line(line, f"{where}.idle_lines[{index}]") for index, line in enumerate(message.idle_lines)
        ),
        idle_hang_up=message.idle_hang_up,
        goodbye_before=seconds_within(message.goodbye_before, f"{where}.goodbye_before"),
        goodbye=_line(message.goodbye, f"{where}.goodbye"),
    )


def _line(message: pb.Line, field: str) -> Line:
    size = len((message.text or message.instructions).encode())
    require(size <= MAX_LINE_BYTES, field, f"{size} bytes long", f"at most {MAX_LINE_BYTES} bytes")
    return Line(text=message.text, instructions=message.instructions)


def tools(
    messages: Sequence[pb.ToolRoute], *, scenario: bool, where: str = "config.tools"
) -> tuple[ToolRoute, ...]:
    """The routes of a session; `scenario`: it has one, so that a scenario route leads somewhere."""
    require(len(messages) <= MAX_TOOLS, where, len(messages), f"at most {MAX_TOOLS} tools")
    found: dict[str, ToolRoute] = {}
    for index, message in enumerate(messages):
        route = _tool(message, f"{where}[{index}]")
        require(route.name not in found, f"{where}[{index}].name", route.name, "each name once")
        if route.kind is ToolRouteKind.SCENARIO and not scenario:
            raise InvalidRequest(
                f"{where}[{index}].route is scenario, but config.scenario is missing: give a scenario, "
                "or another route"
            )
        found[route.name] = route
    return tuple(found.values())


def _tool(message: pb.ToolRoute, where: str) -> ToolRoute:
    name = message.name
    require(
        _TOOL_NAME.fullmatch(name), f"{where}.name", name, "1 to 64 letters, digits, underscores and dashes"
    )
    word = message.WhichOneof("route")
    require(word, f"{where}.route", "missing or unknown here", "caller, nats, webhook or scenario")
    assert word is not None
    size = message.max_output_bytes
    require(
        0 <= size <= MAX_TOOL_OUTPUT_BYTES,
        f"{where}.max_output_bytes",
        size,
        f"0 (default) to {MAX_TOOL_OUTPUT_BYTES}",
    )
    plain = ToolRoute(name)
    common = {
        "timeout": seconds_within(message.timeout, f"{where}.timeout", MAX_TOOL_SECONDS) or plain.timeout,
        "max_output_bytes": size or plain.max_output_bytes,
        "cancel_on_barge_in": message.cancel_on_barge_in,
    }
    kind = ToolRouteKind(word)
    if kind is not ToolRouteKind.WEBHOOK:
        return ToolRoute(name, kind, **common)  # type: ignore[arg-type]
    webhook = message.webhook
    require_url(webhook.url, f"{where}.webhook.url", ("http", "https"))
    require_pem(webhook.ca_pem, f"{where}.webhook.ca_pem")
    retries = webhook.retries if webhook.HasField("retries") else plain.retries
    require(0 <= retries <= MAX_TOOL_RETRIES, f"{where}.webhook.retries", retries, f"0 to {MAX_TOOL_RETRIES}")
    return ToolRoute(
        name,
        kind,
        url=webhook.url,
        signing_key=Secret(webhook.signing_key),
        ca_pem=webhook.ca_pem,
        retries=retries,
        **common,  # type: ignore[arg-type]
    )


def scenario(message: pb.Scenario) -> ScenarioConfig:
    where = "config.scenario"
    code = message.WhichOneof("code")
    require(code, f"{where}.code", "missing", "entry_point or source")
    plain = ScenarioConfig()
    function = message.function or plain.function
    file_name = message.file_name or plain.file_name
    if code == "entry_point":
        point = message.entry_point
        require(ENTRY_POINT.fullmatch(point), f"{where}.entry_point", point, "package.module:function")
    else:
        size = len(message.source.encode())
        require(
            0 < size <= MAX_SOURCE_BYTES,
            f"{where}.source",
            f"{size} bytes long",
            f"1 to {MAX_SOURCE_BYTES} bytes",
        )
        require(_FUNCTION.fullmatch(function), f"{where}.function", function, "the name of a function")
        require(_FILE_NAME.fullmatch(file_name), f"{where}.file_name", file_name, "a plain file name")
    return ScenarioConfig(
        entry_point=message.entry_point,
        source=message.source,
        file_name=file_name,
        function=function,
        parameters=_parameters(message.parameters_json),
        limits=_scenario_limits(message.limits),
    )


def _parameters(text: str) -> dict[str, object]:
    field = "config.scenario.parameters_json"
    size = len(text.encode())
    require(
        size <= MAX_PARAMETERS_BYTES, field, f"{size} bytes long", f"at most {MAX_PARAMETERS_BYTES} bytes"
    )
    return json_object(text, field) if text else {}


def _scenario_limits(message: pb.ScenarioLimits) -> ScenarioLimits:
    where = "config.scenario.limits"
    memory, timers, events = message.memory_bytes, message.timers, message.events_per_second
    least, most = MEMORY_BOUNDS
    require(
        not memory or least <= memory <= most,
        f"{where}.memory_bytes",
        memory,
        f"0 (default), or {least} to {most}",
    )
    require(0 <= timers <= 10_000, f"{where}.timers", timers, "0 (default) to 10000")
    require(0 <= events <= 10_000, f"{where}.events_per_second", events, "0 (default) to 10000")
    timeout = seconds_within(message.handler_timeout, f"{where}.handler_timeout", 60.0)
    plain = ScenarioLimits()
    return ScenarioLimits(
        handler_timeout=timeout or plain.handler_timeout,
        async_handler_timeout=max(timeout, plain.async_handler_timeout),
        max_timers=timers or plain.max_timers,
        memory_bytes=memory or plain.memory_bytes,
        events_per_second=events or plain.events_per_second,
    )


def recording(message: pb.Recording, *, privacy: bool) -> RecordingConfig:
    where = "config.recording"
    if privacy:
        raise InvalidRequest(f"{where} is given together with config.privacy: give one of them")
    kind = message.format or "wav"
    require(kind in RECORDING_FORMATS, f"{where}.format", kind, f"one of {', '.join(RECORDING_FORMATS)}")
    target = message.WhichOneof("target")
    require(target, f"{where}.target", "missing or unknown here", "directory or s3")
    if target == "directory":
        _folder(message.directory, f"{where}.directory")
        return RecordingConfig(format=kind, directory=message.directory)
    s3 = message.s3
    _bucket(s3.url, f"{where}.s3.url")
    if s3.endpoint:
        require_url(s3.endpoint, f"{where}.s3.endpoint", ("http", "https"))
    both = bool(s3.access_key_id) == bool(s3.secret_access_key)
    require(both, f"{where}.s3", "half a credential", "both access_key_id and secret_access_key, or none")
    return RecordingConfig(
        format=kind,
        s3_url=s3.url,
        s3_endpoint=s3.endpoint,
        s3_region=s3.region,
        s3_access_key=Secret(s3.access_key_id),
        s3_secret_key=Secret(s3.secret_access_key),
    )


def _folder(text: str, field: str) -> None:
    path = PurePosixPath(text)
    good = path.is_absolute() and ".." not in path.parts and "\0" not in text
    require(good, field, text, "an absolute path without ..")


def _bucket(url: str, field: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme == "s3" and bool(_BUCKET.fullmatch(parts.netloc))
        good = good and not parts.query and not parts.fragment and ".." not in parts.path.split("/")
    except ValueError:
        good = False
    require(good, field, "not usable", "s3://bucket or s3://bucket/prefix")


def recovery(message: pb.Recovery) -> RecoveryConfig:
    return RecoveryConfig(
        restore=message.restore,
        keep_private=message.keep_private,
        rotate_after=seconds_within(message.rotate_after, "config.recovery.rotate_after"),
        outlives_worker=message.outlives_worker,
    )


def media_access(message: pb.MediaAccess) -> MediaAccess:
    where = "config.media_access"
    for name, entries in (("hosts", message.hosts), ("directories", message.directories)):
        require(len(entries) <= MAX_ENTRIES, f"{where}.{name}", len(entries), f"at most {MAX_ENTRIES}")
    for index, folder in enumerate(message.directories):
        _folder(folder, f"{where}.directories[{index}]")
    return MediaAccess(tuple(message.hosts), tuple(message.directories))
