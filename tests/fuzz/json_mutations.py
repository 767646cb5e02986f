"""Mutations that keep lines JSON: keys come, go and change places, values become odd ones. For any engine."""

from __future__ import annotations

import json
import random
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 1e308, 0.5, "", "0", "-1", "\ud800", "x" * 300,
    "AAAA", "////", "=", [], {}, [[]], {"": None}, [None] * 20,
)  # fmt: skip
MAX_PLACES = 200


def mutated(dice: random.Random, data: bytes, words: list[str]) -> bytes | None:
    """One to three such changes in one line; None where no line is JSON."""
    lines = data.split(b"\n")
    for at in dice.sample(range(len(lines)), len(lines)):
        try:
            value = json.loads(lines[at])
        except (ValueError, RecursionError):
            continue
        if not isinstance(value, dict):
            continue
        for _ in range(dice.randint(1, 3)):
            _change(dice, value, words)
        lines[at] = json.dumps(value).encode()
        if dice.random() < 0.2:
            lines.insert(dice.randint(0, len(lines)), dice.choice(lines))
        return b"\n".join(lines)
    return None


def _change(dice: random.Random, value: dict[str, Any], words: list[str]) -> None:
    place = dice.choice(_objects(value))
    keys = sorted(place)
    match dice.randrange(4):
        case 0 if keys:
            del place[dice.choice(keys)]
        case 1 if keys:
            place[dice.choice(words)] = place.pop(dice.choice(keys))
        case 2 if keys:
            place[dice.choice(keys)] = _value(dice, words)
        case _:
            place[dice.choice(words)] = _value(dice, words)


def _value(dice: random.Random, words: list[str]) -> Any:
    return dice.choice(words) if dice.random() < 0.5 else json.loads(json.dumps(dice.choice(ODD)))


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects in it, itself first."""
    found: list[dict[str, Any]] = []
    waiting = [value]
    while waiting and len(found) < MAX_PLACES:
        each = waiting.pop()
        if isinstance(each, dict):
            found.append(each)
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)
    return found
