"""The scripted brain: a YAML dialogue of patterns, replies and function calls. See docs/local-provider.md."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from parley_local.core.catalogue import SERVER_EVENTS
from parley_local.core.effects import BrainRequest, Call, Emit, McpCall, Part, Reply, Say, ToolResult
from parley_local.core.mcp import McpServer
from parley_local.speech.digits import extract, join, spell

from .base import BrainError, caller_turns, word_for_word

MAX_WORDS = 4000
_SLOT = re.compile(r"\{([A-Za-z0-9_.]+)(?:\|(digits|spell))?\}")


class ScriptError(ValueError):
    """A dialogue file that cannot be used; the text names the place and the remedy."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: what it listens to and what it answers."""

    pattern: re.Pattern[str] | None
    tool: str | None
    say: str | None
    call: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    mcp_call: Mapping[str, Any] | None = None
    emit: tuple[Mapping[str, Any], ...] = ()
    fail: str | None = None


@dataclass(frozen=True, slots=True)
class ScriptBrain:
    """Answers by the first rule that fits the last thing said, or the last tool result."""

    rules: tuple[Rule, ...]
    greeting: str = "Hello."
    default: str = "I have no answer to that."
    mcp_servers: Mapping[str, McpServer] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> ScriptBrain:
        """Read a dialogue file. Raises ScriptError."""
        try:
            body = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ScriptError(f"{path}: cannot be read: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ScriptError(f"{path}: not valid YAML: {error}") from error
        return cls.parse(body, str(path))

    @classmethod
    def parse(cls, body: object, where: str = "script") -> ScriptBrain:
        """Check a dialogue. Raises ScriptError."""
        if not isinstance(body, dict):
            raise ScriptError(f"{where}: expected a mapping with 'greeting', 'default' and 'rules'")
        _known(body, {"greeting", "default", "rules", "mcp"}, where)
        rules = body.get("rules", [])
        if not isinstance(rules, list):
            raise ScriptError(f"{where}: 'rules' must be a list")
        parsed = tuple(_rule(rule, f"{where}: rules[{index}]") for index, rule in enumerate(rules))
        texts = {key: _text(body, key, where) for key in ("greeting", "default") if key in body}
        given = {key: text for key, text in texts.items() if text is not None}
        return cls(parsed, mcp_servers=_servers(body.get("mcp", {}), f"{where}: mcp"), **given)

    async def reply(self, request: BrainRequest) -> Reply:
        line = word_for_word(request)
        if line is not None:
            return (Say(line),)
        heard = caller_turns(request)
        if not heard:
            return (Say(spell(self.greeting)),)
        last = heard[-1]
        said = last.output if isinstance(last, ToolResult) else join(last.text)
        for rule in self.rules:
            if rule.tool != (last.name if isinstance(last, ToolResult) else None):
                continue
            match = rule.pattern.search(said[:MAX_WORDS]) if rule.pattern else None
            if rule.pattern is None or match is not None:
                return _answer(rule, _slots(match, last))
        return (Say(spell(self.default)),)


def _known(body: Mapping[str, Any], allowed: set[str], where: str) -> None:
    extra = sorted(str(key) for key in body if key not in allowed)
    if extra:
        raise ScriptError(f"{where}: unknown key {extra[0]!r}; known keys are {', '.join(sorted(allowed))}")


def _text(body: Mapping[str, Any], key: str, where: str) -> str | None:
    value = body.get(key)
    if value is not None and not isinstance(value, str):
        raise ScriptError(f"{where}: {key!r} must be a string, not {value!r}")
    return value


def _rule(body: object, where: str) -> Rule:
    if not isinstance(body, dict):
        raise ScriptError(f"{where}: expected a mapping")
    _known(body, {"match", "tool", "say", "call", "mcp_call", "emit", "fail"}, where)
    source, tool, say, fail = (_text(body, key, where) for key in ("match", "tool", "say", "fail"))
    if source is None and tool is None:
        raise ScriptError(f"{where}: needs 'match' (a pattern), 'tool' (a function's name) or both")
    try:
        pattern = re.compile(source, re.IGNORECASE) if source is not None else None
    except re.error as error:
        raise ScriptError(f"{where}: 'match' is not a regular expression: {error}") from error
    emit = _directives(body.get("emit", []), f"{where}: emit")
    mcp_call = _named(body.get("mcp_call"), f"{where}: mcp_call", {"server", "arguments", "output", "error"})
    call = _named(body.get("call"), f"{where}: call", {"arguments"})
    if say is None and fail is None and call is None and mcp_call is None and not emit:
        raise ScriptError(f"{where}: needs 'say', 'call' or both ('mcp_call', 'emit' and 'fail' will do too)")
    name, arguments = (call["name"], call.get("arguments", {})) if call else (None, {})
    return Rule(pattern, tool, say, name, arguments, mcp_call, emit, fail)


def _named(body: object, where: str, others: set[str]) -> Mapping[str, Any] | None:
    """A call: a mapping with a name, and arguments that are a mapping."""
    if body is None:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("name"), str):
        raise ScriptError(f"{where}: must be a mapping with a 'name'")
    _known(body, {"name", *others}, where)
    if not isinstance(body.get("arguments", {}), dict):
        raise ScriptError(f"{where}: 'arguments' must be a mapping")
    for key in ("server", "output", "error"):
        _text(body, key, where)
    if "server" in others and "server" not in body:
        raise ScriptError(f"{where}: needs 'server', a label of 'mcp'")
    return body


def _directives(body: object, where: str) -> tuple[Mapping[str, Any], ...]:
    """Server events to be sent as they are: each of a type the protocol has, with the fields it needs."""
    if not isinstance(body, list):
        raise ScriptError(f"{where}: must be a list of events")
    for index, event in enumerate(body):
        place = f"{where}[{index}]"
        if not isinstance(event, dict) or not isinstance(event.get("type"), str):
            raise ScriptError(f"{place}: must be a mapping with a 'type'")
        shapes = [events[event["type"]] for events in SERVER_EVENTS.values() if event["type"] in events]
        if not shapes:
            raise ScriptError(f"{place}: {event['type']!r} is no server event of the protocol")
        missing = [name for name in shapes[0] if name not in event]
        if missing:
            raise ScriptError(f"{place}: {event['type']} needs {missing[0]!r}")
    return tuple(body)


def _servers(body: object, where: str) -> dict[str, McpServer]:
    if not isinstance(body, dict):
        raise ScriptError(f"{where}: must be a mapping of server labels")
    servers: dict[str, McpServer] = {}
    for label, server in body.items():
        place = f"{where}: {label}"
        if not isinstance(server, dict):
            raise ScriptError(f"{place}: must be a mapping with 'tools' or 'error'")
        _known(server, {"tools", "error"}, place)
        tools = server.get("tools", [])
        if not isinstance(tools, list) or not all(
            isinstance(t, dict) and isinstance(t.get("name"), str) for t in tools
        ):
            raise ScriptError(f"{place}: 'tools' must be a list of mappings with a 'name'")
        full = tuple({"input_schema": {"type": "object"}, **tool} for tool in tools)
        servers[str(label)] = McpServer(full, _text(server, "error", place))
    return servers


def _slots(match: re.Match[str] | None, last: object) -> dict[str, str]:
    slots: dict[str, str] = {}
    if match is not None:
        slots = {str(index): group or "" for index, group in enumerate((match.group(), *match.groups()))}
        slots |= {name: group or "" for name, group in match.groupdict().items()}
    if isinstance(last, ToolResult):
        slots["result"] = last.output
        try:
            parsed = json.loads(last.output)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, dict):
            slots |= {f"result.{key}": str(value) for key, value in parsed.items()}
    return slots


def _fill(template: str, slots: Mapping[str, str]) -> str:
    def value(slot: re.Match[str]) -> str:
        text = slots.get(slot.group(1), "")
        return extract(text) if slot.group(2) == "digits" else text

    return _SLOT.sub(value, template)


def _fill_any(value: Any, slots: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _fill(value, slots)
    if isinstance(value, dict):
        return {key: _fill_any(member, slots) for key, member in value.items()}
    return [_fill_any(member, slots) for member in value] if isinstance(value, list) else value


def _answer(rule: Rule, slots: Mapping[str, str]) -> Reply:
    if rule.fail is not None:
        raise BrainError(_fill(rule.fail, slots))
    parts: list[Part] = [Emit(_fill_any(dict(event), slots)) for event in rule.emit]
    if rule.mcp_call is not None:
        call = _fill_any(dict(rule.mcp_call), slots)
        parts.append(
            McpCall(
                call["server"],
                call["name"],
                call.get("arguments", {}),
                call.get("output", ""),
                call.get("error"),
            )
        )
    if rule.say is not None:
        parts.append(Say(spell(_fill(rule.say, slots))))
    if rule.call is not None:
        parts.append(Call(rule.call, _fill_any(dict(rule.arguments), slots)))
    return tuple(parts)
