"""Where function calls go, what may come back, and the error results that a model can speak about. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from parley_worker.core.agent import ToolRoute
from parley_worker.core.model import SessionKey

MAX_ARGUMENT_BYTES = 64 * 1024
MAX_MESSAGE_CHARACTERS = 300
MAX_OFFERED = 1024
RETRY_BASE_SECONDS = 0.2
RETRY_MAX_SECONDS = 3.0


class ToolCode(StrEnum):
    """Why a call has no result: `error.code` of what the model is given, and a label of metrics."""

    TIMEOUT = "timeout"
    """No answer in time."""
    UNAVAILABLE = "unavailable"
    """Nobody is there to answer, or the connection failed."""
    REFUSED = "refused"
    """The call may not be made, or whoever answers will not do it."""
    TOO_LARGE = "too_large"
    """Arguments or result are over their limit."""
    INVALID_RESULT = "invalid_result"
    """What came back is not a result."""
    CANCELLED = "cancelled"
    """The call was given up."""
    FAILED = "failed"
    """Whoever answers says that it failed."""


@dataclass(frozen=True, slots=True)
class ToolProblem:
    """An error result. `message` goes to the model: no secret, no address, nothing internal."""

    code: ToolCode
    message: str = field(repr=False)

    def output(self) -> str:
        """What the model is given in place of a result."""
        error = {"code": str(self.code), "message": self.message[:MAX_MESSAGE_CHARACTERS]}
        return json.dumps({"error": error}, separators=(",", ":"), ensure_ascii=False)


class ToolRoutes:
    """Who answers which function: by the session's routes, else the caller, else nobody.

    A function without a route is the caller's when the session or a response offers it, and also when the
    session is not known to offer any: then its functions come from where they cannot be seen.
    """

    def __init__(
        self, routes: Iterable[ToolRoute], session: Mapping[str, Any], own: Iterable[str] = ()
    ) -> None:
        """`own` names functions that the session itself offers and answers: no route leads elsewhere."""
        self._own = tuple(own)
        self._routes = {name: ToolRoute(name) for name in self._own}
        self.reroute(routes)
        self._offered: set[str] = set()
        self._once: dict[str, None] = {}
        self.offer(session)

    def reroute(self, routes: Iterable[ToolRoute]) -> None:
        """Other routes from here on; calls that run keep theirs."""
        own = {name: self._routes[name] for name in self._own}
        self._routes = {**{route.name: route for route in routes}, **own}

    def offer(self, session: Mapping[str, Any]) -> None:
        """The session as it now is; one without `tools` changes nothing."""
        if "tools" in session:
            self._offered = function_names(session["tools"])

    def offer_once(self, response: Mapping[str, Any]) -> None:
        """A response that is asked for, perhaps with functions of its own."""
        self._once.update(dict.fromkeys(function_names(response.get("tools"))))
        while len(self._once) > MAX_OFFERED:
            del self._once[next(iter(self._once))]

    def find(self, name: str) -> ToolRoute | None:
        """The route of a function; None when the model made the name up."""
        route = self._routes.get(name)
        if route is not None:
            return route
        known = self._offered or self._routes
        if not known or name in self._offered or name in self._once:
            return ToolRoute(name)
        return None


def function_names(tools: object) -> set[str]:
    """Names of the functions in a `tools` list of a session or a response."""
    if not isinstance(tools, list):
        return set()
    entries = [t for t in tools[:MAX_OFFERED] if isinstance(t, Mapping) and t.get("type", "") == "function"]
    return {name for t in entries if isinstance(name := t.get("name"), str)}


def check_arguments(route: ToolRoute, arguments: str) -> ToolProblem | None:
    """Why a call with these arguments is not passed on to a service."""
    size = len(arguments.encode("utf-8", "replace"))
    if size > MAX_ARGUMENT_BYTES:
        text = (
            f"the arguments of {route.name!r} have {size} bytes; at most {MAX_ARGUMENT_BYTES} are passed on"
        )
        return ToolProblem(ToolCode.TOO_LARGE, text)
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        return ToolProblem(ToolCode.REFUSED, f"the arguments of {route.name!r} are not a JSON object")
    return None


def check_output(route: ToolRoute, output: str) -> ToolProblem | None:
    """Why this result cannot be given to the model."""
    size = len(output.encode("utf-8", "replace"))
    if size > route.max_output_bytes:
        return too_large(route, size)
    return None


def too_large(route: ToolRoute, size: int | None = None) -> ToolProblem:
    """The result is over the route's limit; `size` when the whole of it was seen."""
    has = f"has {size} bytes" if size is not None else "is too long"
    text = f"the result of {route.name!r} {has}; at most {route.max_output_bytes} can be given. Ask for less"
    return ToolProblem(ToolCode.TOO_LARGE, text)


def result_text(data: bytes, content_type: str, name: str) -> str | ToolProblem:
    """What a service returned as text for the model. What says that it is JSON must be; nothing is `null`."""
    kind = content_type.partition(";")[0].strip().lower()
    is_json = kind == "application/json" or kind.endswith("+json")
    try:
        text = data.decode()
        if text.strip() and is_json:
            json.loads(text)
    except (ValueError, RecursionError):
        problem = f"what {name!r} returned is not {'JSON' if is_json else 'text'}"
        return ToolProblem(ToolCode.INVALID_RESULT, problem)
    return text if text.strip() else "null"


def unreachable(name: str) -> ToolProblem:
    return ToolProblem(ToolCode.UNAVAILABLE, f"{name!r} cannot be reached at the moment")


def timed_out(route: ToolRoute) -> ToolProblem:
    text = f"{route.name!r} did not answer within {route.timeout:g} seconds"
    return ToolProblem(ToolCode.TIMEOUT, text)


def unknown_function(name: str) -> ToolProblem:
    text = f"there is no function {name[:100]!r}: use one of the functions of the session"
    return ToolProblem(ToolCode.REFUSED, text)


def call_key(key: SessionKey, call_id: str) -> str:
    """The call's name for all time, `<uid>.<attempt>.<call_id>`: fit for headers, the same at every retry."""
    return f"{key.uid}.{key.attempt}.{header_text(call_id)}"


def header_text(text: str) -> str:
    """Text from a provider as a header can carry it: what is neither a letter, a digit nor one of `_.-~:` is
    percent-encoded."""
    return quote(text.encode("utf-8", "replace"), safe=":")[:256]


def retry_wait(failed: int, retry_after: float | None, remaining: float, chance: float) -> float | None:
    """Seconds to wait before the next try; None when the time that remains does not reach.

    `failed` counts tries that failed (from 1), `chance` is random in [0, 1): full jitter over an exponential
    back-off, and never earlier than the server asked for by `retry_after`.
    """
    ceiling = min(RETRY_MAX_SECONDS, RETRY_BASE_SECONDS * 2 ** (failed - 1))
    wait = chance * ceiling
    if retry_after is not None:
        wait += retry_after
    return wait if wait < remaining else None
