"""Typed reads of untrusted JSON: each returns the value or raises InvalidRequest naming the field."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from typing import Any

from .errors import InvalidRequest, invalid_value, missing, unknown_parameter

Json = dict[str, Any]
LONGEST_TEXT = 24 * 1024 * 1024  # as long as a message may be


def mapping(value: object, param: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise invalid_value(param, value, "Expected an object.")
    return value


def known(value: Mapping[str, Any], param: str, allowed: Collection[str]) -> None:
    """Refuse the first member of `value` that is not in `allowed`."""
    for key in value:
        if key not in allowed:
            raise unknown_parameter(f"{param}.{key}" if param else str(key))


def string(value: object, param: str, *, longest: int = 1_000_000) -> str:
    if not isinstance(value, str):
        raise invalid_value(param, value, "Expected a string.")
    if len(value) > longest:
        raise InvalidRequest(
            "string_above_max_length",
            f"Invalid '{param}': string too long. Expected at most {longest} characters, got {len(value)}.",
            param,
        )
    return value


def required_string(body: Mapping[str, Any], key: str, param: str = "") -> str:
    path = f"{param}.{key}" if param else key
    if body.get(key) is None:
        raise missing(path)
    return string(body[key], path, longest=LONGEST_TEXT)


def boolean(value: object, param: str) -> bool:
    if not isinstance(value, bool):
        raise invalid_value(param, value, "Expected a boolean.")
    return value


def integer(value: object, param: str, low: int, high: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_value(param, value, "Expected an integer.")
    if value < low:
        raise InvalidRequest(
            "integer_below_min_value",
            f"Invalid '{param}': integer below minimum value. "
            f"Expected a value >= {low}, but got {value} instead.",
            param,
        )
    if high is not None and value > high:
        raise InvalidRequest(
            "integer_above_max_value",
            f"Invalid '{param}': integer above maximum value. "
            f"Expected a value <= {high}, but got {value} instead.",
            param,
        )
    return value


def number(value: object, param: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise invalid_value(param, value, "Expected a number.")
    if not low <= value <= high:
        raise invalid_value(param, value, f"Expected a number from {low:g} to {high:g}.")
    return float(value)


def one_of(value: object, param: str, choices: Collection[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(f"'{choice}'" for choice in choices)
        raise invalid_value(param, value, f"Supported values are: {listed}.")
    return value


def sequence(value: object, param: str, most: int = 1000) -> list[Any]:
    if not isinstance(value, list):
        raise invalid_value(param, value, "Expected an array.")
    if len(value) > most:
        raise invalid_value(param, f"{len(value)} entries", f"Expected at most {most}.")
    return value


def base64_bytes(text: str, param: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            "invalid_value", f"Invalid '{param}'. Expected base64-encoded audio bytes.", param
        ) from error
