"""Reading untyped objects: every error names the field, the value and what would be right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class FieldError(ValueError):
    """A field that cannot be used. `str()` is `<path>: <what is wrong and what would be right>`."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


def parse_duration(text: str, path: str) -> float:
    """Seconds of a duration such as `90s`, `1h30m` or `250ms`."""
    if not _DURATION.fullmatch(text) or len(text) > 32:
        raise FieldError(path, f"{text!r} is not a duration; write for example 90s, 1h30m or 250ms")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


class Fields:
    """A typed view of one mapping. Reading marks a key as known; `finish()` refuses the rest."""

    def __init__(self, value: object, path: str) -> None:
        if not isinstance(value, Mapping):
            raise FieldError(path, f"must be an object, not {_kind(value)}")
        self._value = cast("Mapping[str, object]", value)
        self._known: set[str] = set()
        self.path = path

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def has(self, key: str) -> bool:
        return self.raw(key) is not None

    def raw(self, key: str) -> object:
        self._known.add(key)
        return self._value.get(key)

    def text(self, key: str, default: str = "", *, longest: int = 4096) -> str:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise FieldError(self.at(key), f"must be a string, not {_kind(value)}")
        if len(value) > longest:
            raise FieldError(self.at(key), f"is {len(value)} characters long; at most {longest} are allowed")
        return value

    def required(self, key: str, *, longest: int = 4096) -> str:
        value = self.text(key, longest=longest)
        if not value:
            raise FieldError(self.at(key), "is required")
        return value

    def name(self, key: str, default: str | None = None) -> str:
        """The name of a Kubernetes object; required without a default."""
        value = self.required(key, longest=253) if default is None else self.text(key, default, longest=253)
        if value and not _NAME.fullmatch(value):
            raise FieldError(
                self.at(key), f"{value!r} is not a name: lower case letters, digits, '-' and '.'"
            )
        return value

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        value = self.text(key, default)
        if value not in choices and value != default:
            raise FieldError(self.at(key), f"{value!r} is not supported; use one of {', '.join(choices)}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise FieldError(self.at(key), f"must be true or false, not {_kind(value)}")
        return value

    def number(self, key: str, default: int, *, least: int, most: int) -> int:
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise FieldError(self.at(key), f"must be a whole number, not {_kind(value)}")
        if not least <= value <= most:
            raise FieldError(self.at(key), f"is {value}; it must be between {least} and {most}")
        return value

    def duration(self, key: str, default: float) -> float:
        """Seconds."""
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise FieldError(self.at(key), f"must be a duration string such as 90s, not {_kind(value)}")
        return parse_duration(value, self.at(key))

    def mapping(self, key: str) -> dict[str, object]:
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise FieldError(self.at(key), f"must be an object, not {_kind(value)}")
        return dict(cast("Mapping[str, object]", value))

    def items(self, key: str, *, most: int = 256) -> list[object]:
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise FieldError(self.at(key), f"must be a list, not {_kind(value)}")
        if len(value) > most:
            raise FieldError(self.at(key), f"has {len(value)} items; at most {most} are allowed")
        return list(value)

    def texts(self, key: str, *, most: int = 256) -> tuple[str, ...]:
        found = []
        for index, item in enumerate(self.items(key, most=most)):
            if not isinstance(item, str) or not item:
                raise FieldError(f"{self.at(key)}[{index}]", "must be a non-empty string")
            found.append(item)
        return tuple(found)

    def child(self, key: str) -> Fields:
        """The object under `key`; an empty one when it is missing."""
        value = self.raw(key)
        return Fields({} if value is None else value, self.at(key))

    def finish(self) -> None:
        unknown = sorted(set(self._value) - self._known)
        if unknown:
            raise FieldError(
                self.at(unknown[0]), f"is not a known field; known here: {', '.join(sorted(self._known))}"
            )


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"
