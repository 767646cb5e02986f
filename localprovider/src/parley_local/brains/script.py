"""The scripted brain: a YAML dialogue of patterns, replies and function calls. See docs/local-provider.md."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from parley_local.core.effects import BrainRequest, Call, Reply, Say, ToolResult
from parley_local.speech.digits import extract, join, spell

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


@dataclass(frozen=True, slots=True)
class ScriptBrain:
    """Answers by the first rule that fits the last thing said, or the last tool result."""

    rules: tuple[Rule, ...]
    greeting: str = "Hello."
    default: str = "I have no answer to that."

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
        _known(body, {"greeting", "default", "rules"}, where)
        rules = body.get("rules", [])
        if not isinstance(rules, list):
            raise ScriptError(f"{where}: 'rules' must be a list")
        parsed = tuple(_rule(rule, f"{where}: rules[{index}]") for index, rule in enumerate(rules))
        texts = {key: _text(body, key, where) for key in ("greeting", "default") if key in body}
        return cls(parsed, **{key: text for key, text in texts.items() if text is not None})

    async def reply(self, request: BrainRequest) -> Reply:
        heard = [entry for entry in request.history if isinstance(entry, ToolResult) or entry.role == "user"]
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
    _known(body, {"match", "tool", "say", "call"}, where)
    source, tool, say = (_text(body, key, where) for key in ("match", "tool", "say"))
    if source is None and tool is None:
        raise ScriptError(f"{where}: needs 'match' (a pattern), 'tool' (a function's name) or both")
    try:
        pattern = re.compile(source, re.IGNORECASE) if source is not None else None
    except re.error as error:
        raise ScriptError(f"{where}: 'match' is not a regular expression: {error}") from error
    call = body.get("call")
    if call is None:
        if say is None:
            raise ScriptError(f"{where}: needs 'say', 'call' or both")
        return Rule(pattern, tool, say)
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise ScriptError(f"{where}: 'call' must be a mapping with a 'name'")
    _known(call, {"name", "arguments"}, f"{where}: call")
    arguments = call.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ScriptError(f"{where}: call: 'arguments' must be a mapping")
    return Rule(pattern, tool, say, call["name"], arguments)


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
    parts: list[Say | Call] = []
    if rule.say is not None:
        parts.append(Say(spell(_fill(rule.say, slots))))
    if rule.call is not None:
        parts.append(Call(rule.call, _fill_any(dict(rule.arguments), slots)))
    return tuple(parts)
