"""Frames of a scenario's process as core types, and back. Whoever sent them may be hostile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from parley_worker.core.agent import Line
from parley_worker.core.model import RestoreMode, SessionConfig
from parley_worker.core.scenario import (
    ClearAudio,
    Complete,
    DropLines,
    HangUp,
    Log,
    OrderUnit,
    SayLine,
    ScenarioCommand,
    SendEvent,
    TransferCall,
)
from parley_worker.core.units import (
    ControlPlayer,
    CreatePlayer,
    PlayerAction,
    SendMedia,
    StartRecorder,
    StopMedia,
    StopRecorder,
    UnitOrder,
)

MAX_ID_CHARACTERS = 64
MAX_LINE_CHARACTERS = 20_000
MAX_SOURCE_CHARACTERS = 4096
MAX_REASON_CHARACTERS = 500
MAX_SECONDS = 3600


class BadFrame(ValueError):
    """A frame that no scenario host sends."""


def boot_frame(config: SessionConfig, hidden: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a scenario's process is told first. Holds no credential of any kind, only paths in `hidden`."""
    scenario, key = config.scenario, config.key
    assert scenario is not None
    limits = scenario.limits
    session: dict[str, Any] = {"uid": key.uid, "name": key.name, "namespace": key.namespace}
    session["attempt"] = key.attempt
    if config.restore is not None and config.restore.mode is RestoreMode.RESUME:
        session["resumed"] = True
    return {
        "t": "boot",
        "entry_point": scenario.entry_point,
        "source": scenario.source,
        "file_name": scenario.file_name,
        "function": scenario.function,
        "parameters": dict(scenario.parameters),
        "session": session,
        "api_version": config.provider.api_version,
        "privacy": config.privacy,
        "strict": not scenario.entry_point,
        "memory_bytes": limits.memory_bytes,
        "hidden": list(hidden),
        "limits": {
            "handler_timeout": limits.handler_timeout,
            "async_handler_timeout": limits.async_handler_timeout,
            "max_timers": limits.max_timers,
            "http_requests": limits.http_requests,
        },
    }


def command_of(frame: Mapping[str, Any]) -> ScenarioCommand:
    """What a frame asks of the session; BadFrame."""
    match frame.get("t"):
        case "send":
            return SendEvent(_object(frame, "event"))
        case "say":
            text = _text(frame, "text", MAX_LINE_CHARACTERS)
            line = Line(text, _text(frame, "instructions", MAX_LINE_CHARACTERS))
            if not line:
                raise BadFrame("a line says nothing")
            return SayLine(_text(frame, "id", MAX_ID_CHARACTERS), line)
        case "drop_lines":
            return DropLines()
        case "clear":
            return ClearAudio()
        case "hangup":
            return HangUp(frame.get("after_speech") is True)
        case "transfer":
            return TransferCall(_text(frame, "target", 1000), _text(frame, "note", 100_000))
        case "complete":
            return Complete(_text(frame, "reason", MAX_REASON_CHARACTERS))
        case "log":
            return Log(_text(frame, "level", 20), _text(frame, "text", 100_000))
        case "unit":
            return OrderUnit(_order(frame))
    raise BadFrame("a frame is of no known kind")


def is_seconds(value: object) -> TypeGuard[float]:
    """A time that a timer can be set to."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_SECONDS


def _order(frame: Mapping[str, Any]) -> UnitOrder:
    match frame.get("order"):
        case "create_player":
            volume = frame.get("volume", 1.0)
            if isinstance(volume, bool) or not isinstance(volume, int | float) or not 0 <= volume <= 4:
                raise BadFrame("volume is no number from 0 to 4")
            source = _text(frame, "source", MAX_SOURCE_CHARACTERS)
            return CreatePlayer(_unit(frame, "unit"), source, frame.get("loop") is True, float(volume))
        case "control_player":
            action = _text(frame, "action", 10)
            if action not in set(PlayerAction):
                raise BadFrame("a player is told what it does not know")
            return ControlPlayer(_unit(frame, "unit"), PlayerAction(action))
        case "send_media":
            tag = _text(frame, "tag", MAX_ID_CHARACTERS)
            return SendMedia(_unit(frame, "source"), _unit(frame, "target"), tag)
        case "stop_media":
            return StopMedia(_unit(frame, "source"), _unit(frame, "target"))
        case "start_recorder":
            return StartRecorder()
        case "stop_recorder":
            return StopRecorder()
    raise BadFrame("an order to a unit is of no known kind")


def _unit(frame: Mapping[str, Any], name: str) -> str:
    return _text(frame, name, MAX_ID_CHARACTERS)


def _text(frame: Mapping[str, Any], name: str, most: int) -> str:
    value = frame.get(name, "")
    if not isinstance(value, str) or len(value) > most:
        raise BadFrame(f"{name} is no text of at most {most} characters")
    return value


def _object(frame: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = frame.get(name)
    if not isinstance(value, Mapping):
        raise BadFrame(f"{name} is no object")
    return value
