"""Tools of an agent: what the model is told, and who answers the calls.

Parsers raise `FieldError`. All durations are seconds, 0 leaves the worker's default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from .fields import FieldError, Fields
from .references import SecretRef, parse_secret_ref

ROUTES = ("caller", "nats", "webhook", "scenario")
FUNCTION = "function"
MAX_TOOLS = 128
MAX_TIMEOUT = 300.0
MAX_OUTPUT_BYTES = 1024 * 1024
MAX_RETRIES = 10
SIGNING_KEY = "signingKey"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """Who answers a function's calls. `url` and below are for webhooks; `retries` `None` is the default."""

    kind: str = "caller"
    timeout: float = 0.0
    max_output_bytes: int = 0
    cancel_on_barge_in: bool = False
    url: str = ""
    signing: SecretRef | None = None
    ca_pem: str = ""
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool. `definition` goes to the provider; `name` and `route` are a function's alone."""

    definition: Mapping[str, object] = field(default_factory=dict)
    name: str = ""
    route: RouteSpec | None = None


def parse_tools(parent: Fields) -> tuple[ToolSpec, ...]:
    """The list under `tools`; names of functions are unique."""
    found: list[ToolSpec] = []
    names: set[str] = set()
    for index, item in enumerate(parent.items("tools", most=MAX_TOOLS)):
        path = f"{parent.at('tools')}[{index}]"
        tool = _tool(item, path)
        if tool.name and tool.name in names:
            raise FieldError(f"{path}.name", f"{tool.name!r} is the name of an earlier tool; choose another")
        names.add(tool.name)
        found.append(tool)
    return tuple(found)


def refuse_routes(session: Mapping[str, object], path: str) -> None:
    """Tools of a passed-through session object go to the provider as they are: a route would be lost."""
    tools = session.get("tools")
    for index, item in enumerate(tools if isinstance(tools, list) else []):
        if isinstance(item, Mapping) and "route" in item:
            raise FieldError(
                f"{path}.tools[{index}].route",
                "is not passed through; write the tool in the agent's tools",
            )


def _tool(item: object, path: str) -> ToolSpec:
    if not isinstance(item, Mapping):
        raise FieldError(path, "must be an object with type, name and parameters")
    definition = {str(k): v for k, v in cast("Mapping[str, object]", item).items() if k != "route"}
    fields = Fields(item, path)
    kind = fields.text("type", FUNCTION, longest=64) or FUNCTION
    routed = fields.has("route")
    if kind != FUNCTION:
        if routed:
            raise FieldError(
                f"{path}.route", f"is only for type {FUNCTION}; the provider itself answers type {kind}"
            )
        return ToolSpec(definition)
    name = fields.text("name", longest=64)
    if not name and not routed:
        # The provider says in its own words what it misses.
        return ToolSpec(definition)
    if not _NAME.fullmatch(name):
        raise FieldError(
            f"{path}.name", f"{name!r} is not a function's name: letters, digits, '_' and '-', at most 64"
        )
    definition.setdefault("type", FUNCTION)
    return ToolSpec(definition, name, _route(fields.child("route")) if routed else RouteSpec())


def _route(fields: Fields) -> RouteSpec:
    kinds = [kind for kind in ROUTES if fields.has(kind)]
    timeout = fields.duration("timeout", 0.0)
    if timeout > MAX_TIMEOUT:
        raise FieldError(fields.at("timeout"), f"is {timeout:g} s; at most {MAX_TIMEOUT:g} s are allowed")
    output = fields.number("maxOutputBytes", 0, least=1, most=MAX_OUTPUT_BYTES)
    cancel = fields.flag("cancelOnBargeIn")
    retries = fields.number("retries", 0, least=0, most=MAX_RETRIES) if fields.has("retries") else None
    fields.finish()
    if len(kinds) != 1:
        raise FieldError(fields.path, f"exactly one of {', '.join(ROUTES)} must be set")
    kind = kinds[0]
    if retries is not None and kind != "webhook":
        raise FieldError(fields.at("retries"), f"is only for webhook; a call of route {kind} is made once")
    if kind != "webhook":
        fields.child(kind).finish()
        return RouteSpec(kind, timeout, output, cancel)
    webhook = fields.child(kind)
    found = RouteSpec(
        kind,
        timeout,
        output,
        cancel,
        url=webhook.required("url", longest=2048),
        signing=parse_secret_ref(webhook, "signingSecretRef", SIGNING_KEY),
        ca_pem=webhook.text("caBundle", longest=65536),
        retries=retries,
    )
    webhook.finish()
    return found
