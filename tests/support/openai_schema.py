"""Server events against the types of the official `openai` package: fields, kinds, nothing unknown."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from openai.types.beta.realtime import realtime_client_event as beta_client
from openai.types.beta.realtime import realtime_server_event as beta_server
from openai.types.realtime import realtime_client_event as ga_client
from openai.types.realtime import realtime_server_event as ga_server
from parley_local.core.settings import Shape
from pydantic import BaseModel


def _members(union: Any) -> dict[str, type[BaseModel]]:
    inner = typing.get_args(union)[0] if typing.get_origin(union) is typing.Annotated else union
    models = typing.get_args(inner)
    return {typing.get_args(model.model_fields["type"].annotation)[0]: model for model in models}


SERVER = {
    Shape.GA: _members(ga_server.RealtimeServerEvent),
    Shape.BETA: _members(beta_server.RealtimeServerEvent),
}
CLIENT = {
    Shape.GA: _members(ga_client.RealtimeClientEvent),
    Shape.BETA: _members(beta_client.RealtimeClientEvent),
}


def check(event: dict[str, Any], shape: Shape) -> None:
    """Raises a ValidationError, or AssertionError for a field that the types do not know."""
    kind, body = event["type"], event
    if kind.startswith("transcription_session."):
        # The package has no type for `created`, and wants what only the REST interface gives.
        kind = "transcription_session.updated"
        secret = {"expires_at": 0, "value": "ek"}
        body = {**event, "type": kind, "session": {**event["session"], "client_secret": secret}}
    model = SERVER[shape][kind].model_validate(body, strict=True)
    unknown = [path for path in _unknown(model, kind) if not path.endswith(KNOWN_BEYOND)]
    assert unknown == [], f"{kind} has fields that the official types do not know: {unknown}"


def _unknown(model: BaseModel, path: str) -> Iterator[str]:
    for name in model.model_extra or {}:
        yield f"{path}.{name}"
    for name in type(model).model_fields:
        for member in _models(getattr(model, name, None)):
            yield from _unknown(member, f"{path}.{name}")


def _models(value: Any) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, list):
        for member in value:
            yield from _models(member)


KNOWN_BEYOND = (
    ".session.id",
    ".session.object",
    ".session.expires_at",
    "transcription_session.updated.session.input_audio_noise_reduction",
    "transcription_session.updated.session.include",
)
"""Fields of sessions that the real service sends and its package's types leave out of what is received."""
