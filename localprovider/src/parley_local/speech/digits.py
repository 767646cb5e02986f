"""Digits that survive being spoken: `471 203`, `4-7-1` and `four seven one` all become `4, 7, 1, ...`."""

from __future__ import annotations

import re

WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4",
    "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
}  # fmt: skip
SOUND_ALIKES = {"oh": "0", "o": "0", "won": "1", "to": "2", "too": "2", "for": "4", "ate": "8"}

_TOKEN = re.compile(r"[0-9]+|[A-Za-z]+|[^0-9A-Za-z]+")
_JOINT = re.compile(r"(?:[\s,\-–—:/]|\.(?=\s))+")


def _numeric(token: str) -> bool:
    return token.isascii() and token.isdigit()


def _value(token: str) -> str | None:
    return token if _numeric(token) else WORDS.get(token.lower())


def find_runs(text: str) -> list[tuple[int, int, str]]:
    """Runs of spoken or written digits: (start, end, digits). Single number words are no run ("one day").

    A sound-alike ("oh", "for") counts only between two digits of a run.
    """
    tokens = [(m.start(), m.end(), m.group()) for m in _TOKEN.finditer(text)]
    runs: list[tuple[int, int, str]] = []
    index = 0
    while index < len(tokens):
        if _value(tokens[index][2]) is None:
            index += 1
            continue
        index = _extend(tokens, index, runs)
    return runs


def _extend(tokens: list[tuple[int, int, str]], index: int, runs: list[tuple[int, int, str]]) -> int:
    """Read one run from `index`; append it to `runs`; return the index after it."""
    start, end, token = tokens[index]
    digits = _value(token) or ""
    words = 1
    position = index + 1
    held = ""
    taken = position
    while position < len(tokens):
        token = tokens[position][2]
        value = _value(token)
        if value is not None:
            digits, held, words, end = digits + held + value, "", words + 1, tokens[position][1]
            taken = position + 1
        elif token.lower() in SOUND_ALIKES and not held and words > 2:
            held = SOUND_ALIKES[token.lower()]
        elif not _JOINT.fullmatch(token):
            break
        position += 1
    if words > 1 or _numeric(tokens[index][2]):
        runs.append((start, end, digits))
    return taken


def extract(text: str) -> str:
    """All digits of `text` in order, digit words in runs included."""
    return "".join(digits for _, _, digits in find_runs(text))


def join(text: str) -> str:
    """`text` with every run of digits written as one number: `four, seven, one` becomes `471`."""
    out: list[str] = []
    cursor = 0
    for start, end, digits in find_runs(text):
        out += [text[cursor:start], digits]
        cursor = end
    return "".join(out) + text[cursor:]


def spell(text: str) -> str:
    """`text` with every run of two or more digits written one by one, so that a voice says each clearly."""
    out: list[str] = []
    cursor = 0
    for start, end, digits in find_runs(text):
        if len(digits) < 2:
            continue
        out += [text[cursor:start], ", ".join(digits)]
        cursor = end
    return "".join(out) + text[cursor:]
