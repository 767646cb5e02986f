"""Events made from their TypedDicts: what an event looks like, without writing eighty of them by hand."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from parley_realtime.payloads import beta, ga

SHAPES: dict[str, types.ModuleType] = {"ga": ga, "beta": beta}


def server_events(shape: str) -> Iterator[tuple[str, Any]]:
    """Every server event of a shape: its type on the wire and its TypedDict."""
    return _by_type(SHAPES[shape].ServerEvent)


def client_events(shape: str) -> Iterator[tuple[str, Any]]:
    """Every client event of a shape: its type on the wire and its TypedDict."""
    return _by_type(SHAPES[shape].ClientEvent)


def _by_type(union: Any) -> Iterator[tuple[str, Any]]:
    for kind in get_args(union):
        yield get_args(get_type_hints(kind)["type"])[0], kind


def sample(kind: Any, *, full: bool = True) -> Any:
    """A value of a type. `full`: with the fields that may be missing as well."""
    return _value(kind, "value", full, ())


def _value(kind: Any, name: str, full: bool, above: tuple[Any, ...]) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (typing.Required, typing.NotRequired):
        return _value(args[0], name, full, above)
    if typing.is_typeddict(kind) or (origin is not None and typing.is_typeddict(origin)):
        return _fields(kind, full, (*above, kind))
    if origin is Literal:
        return args[0]
    if origin in (Union, types.UnionType):
        return _value(next(a for a in args if a is not type(None)), name, full, above)
    if origin is list:
        return [_value(args[0], name, full, above)]
    if origin is dict or kind is dict:
        return {"key": "value"}
    simple = {str: f"a {name}", int: 7, float: 0.5, bool: True, Any: {"any": 1}, object: {"any": 1}}
    return simple[kind]


def _fields(kind: Any, full: bool, above: tuple[Any, ...]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    wanted = hints if full else kind.__required_keys__
    return {name: _value(hint, name, full, above) for name, hint in hints.items() if name in wanted}
