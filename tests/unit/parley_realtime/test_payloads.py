"""The payload types against OpenAI's own models, which the `openai` package has: same events, same fields."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
from openai.types.beta.realtime import RealtimeClientEvent as BetaClientEvent
from openai.types.beta.realtime import RealtimeServerEvent as BetaServerEvent
from openai.types.realtime import RealtimeClientEvent, RealtimeServerEvent
from payload_samples import client_events, sample, server_events
from pydantic import BaseModel

# Of GA's documents and captures, not (yet) in the package's models.
BEYOND = {"transcription_session.created", "response.content_part.added", "response.content_part.done"}
MODELS: dict[tuple[str, str], Any] = {
    ("ga", "server"): RealtimeServerEvent,
    ("ga", "client"): RealtimeClientEvent,
    ("beta", "server"): BetaServerEvent,
    ("beta", "client"): BetaClientEvent,
}


def models(side: tuple[str, str]) -> dict[str, type[BaseModel]]:
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in leaves(MODELS[side])}


def leaves(kind: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(kind) and not typing.get_origin(kind) and issubclass(kind, BaseModel):
        yield kind
        return
    for part in get_args(kind):
        yield from leaves(part)


def ours(side: tuple[str, str]) -> dict[str, Any]:
    shape, direction = side
    return dict(server_events(shape) if direction == "server" else client_events(shape))


SIDES = pytest.mark.parametrize("side", list(MODELS), ids="-".join)
EVENTS = [(side, kind) for side in MODELS for kind in ours(side) if kind in models(side)]


@SIDES
def test_the_same_events(side: tuple[str, str]) -> None:
    assert set(ours(side)) - BEYOND == set(models(side)) - BEYOND


@pytest.mark.parametrize(("side", "kind"), EVENTS, ids=["-".join((*side, kind)) for side, kind in EVENTS])
def test_the_same_fields(side: tuple[str, str], kind: str) -> None:
    """All of OpenAI's fields, and those it requires are required here."""
    model, mine = models(side)[kind], ours(side)[kind]
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    assert set(model.model_fields) <= set(get_type_hints(mine))
    assert required <= mine.__required_keys__


@pytest.mark.parametrize("full", [True, False], ids=["every field", "required fields"])
@SIDES
def test_what_our_types_describe_openai_accepts(side: tuple[str, str], full: bool) -> None:
    """An example of each event, made from our type, is valid as theirs, with nothing they do not know."""
    for kind, theirs in models(side).items():
        event = sample(ours(side)[kind], full=full)
        for path, value in ADAPTED.get(kind, ()):
            _put(event, path.split("."), value)
        model = theirs.model_validate(event)
        unknown = set(extras(model))
        assert unknown <= KNOWN_EXTRAS, f"{kind}: OpenAI's model does not know {unknown - KNOWN_EXTRAS}"


# The package's models list the names they know, and require what the client adds or a WebSocket leaves out.
ADAPTED: dict[str, tuple[tuple[str, object], ...]] = {
    "session.update": (("session.model", "gpt-realtime"), ("session.type", "realtime")),
    "session.created": (("session.model", "gpt-realtime"),),
    "session.updated": (("session.model", "gpt-realtime"),),
    "transcription_session.update": (("session.input_audio_transcription", {"model": "whisper-1"}),),
    "transcription_session.updated": (
        ("session.input_audio_transcription", {"model": "whisper-1"}),
        ("session.client_secret", {"value": "x", "expires_at": 1}),
    ),
}


def _put(event: dict[str, Any], path: list[str], value: object) -> None:
    for name in path[:-1]:
        event = event[name]
    event[path[-1]] = value


# Fields that captures and documents show and the package's models leave out.
KNOWN_EXTRAS = {
    *("id", "object", "expires_at", "include", "voice", "languages", "name", "type"),
    *("input_audio_noise_reduction", "create_response", "interrupt_response", "eagerness"),
}


def extras(model: BaseModel) -> Iterator[str]:
    yield from model.model_extra or {}
    for name in model.model_fields_set:
        value = getattr(model, name)
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, BaseModel):
                yield from extras(inner)
