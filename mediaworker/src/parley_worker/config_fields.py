"""How settings are read from text: parsers that say what to give instead, and the field that holds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, field
from typing import Any


def text(value: str) -> str:
    """Any text."""
    return value


def integer(low: int, high: int) -> Callable[[str], int]:
    """A whole number within bounds."""

    def parse(value: str) -> int:
        try:
            number = int(value)
        except ValueError:
            raise ValueError(f"give a whole number from {low} to {high}") from None
        if not low <= number <= high:
            raise ValueError(f"give a whole number from {low} to {high}")
        return number

    return parse


def number(low: float, high: float, what: str = "a number") -> Callable[[str], float]:
    """A number within bounds."""

    def parse(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"give {what} from {low:g} to {high:g}") from None
        if not low <= number <= high:
            raise ValueError(f"give {what} from {low:g} to {high:g}")
        return number

    return parse


def seconds(low: float, high: float) -> Callable[[str], float]:
    """Seconds within bounds."""
    return number(low, high, "seconds")


def choice(*words: str) -> Callable[[str], str]:
    """One of these words."""

    def parse(value: str) -> str:
        if value not in words:
            raise ValueError(f"give one of {', '.join(words)}")
        return value

    return parse


def boolean(value: str) -> bool:
    """True or false, as a word or a digit."""
    words = {"true": True, "1": True, "false": False, "0": False}
    if value.lower() not in words:
        raise ValueError("give true or false")
    return words[value.lower()]


def setting(parse: Callable[[str], Any], help_text: str, default: Any = MISSING, secret: bool = False) -> Any:
    """A dataclass field that is read by `parse`; a secret is shown nowhere."""
    metadata = {"parse": parse, "help": help_text, "secret": secret}
    if default is MISSING:
        return field(metadata=metadata, repr=not secret)
    return field(default=default, metadata=metadata, repr=not secret)
