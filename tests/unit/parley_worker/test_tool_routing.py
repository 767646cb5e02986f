"""Who answers which function, what may pass, and when a webhook is tried again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_worker.core.agent import ToolRoute, ToolRouteKind
from parley_worker.core.model import SessionKey
from parley_worker.core.tool_routing import (
    MAX_ARGUMENT_BYTES,
    MAX_MESSAGE_CHARACTERS,
    RETRY_MAX_SECONDS,
    ToolCode,
    ToolProblem,
    ToolRoutes,
    call_key,
    check_arguments,
    check_output,
    result_text,
    retry_wait,
)

WEATHER = ToolRoute("weather", ToolRouteKind.NATS)


def function(name: str) -> dict[str, object]:
    return {"type": "function", "name": name, "parameters": {}}


def test_a_route_wins_and_an_offered_function_without_one_is_the_callers() -> None:
    routes = ToolRoutes([WEATHER], {"tools": [function("weather"), function("clock"), {"type": "mcp"}, 7]})
    assert routes.find("weather") is WEATHER
    assert routes.find("clock") == ToolRoute("clock", ToolRouteKind.CALLER)
    assert routes.find("made-up") is None


def test_without_any_known_function_every_call_is_the_callers() -> None:
    routes = ToolRoutes([], {"instructions": "x"})
    assert routes.find("anything") == ToolRoute("anything")


def test_the_offer_follows_the_session_and_single_responses() -> None:
    routes = ToolRoutes([], {"tools": [function("a")]})
    routes.offer({"tools": [function("b")]})
    assert routes.find("a") is None
    assert routes.find("b") == ToolRoute("b")
    routes.offer({"voice": "x"})
    assert routes.find("b") == ToolRoute("b")
    routes.offer_once({"tools": [function("c")]})
    assert routes.find("c") == ToolRoute("c")
    for n in range(2000):
        routes.offer_once({"tools": [function(f"f{n}")]})
    assert routes.find("c") is None


def test_functions_of_our_own_are_known_without_being_offered() -> None:
    assert ToolRoutes([WEATHER], {}, own=("hang_up",)).find("hang_up") == ToolRoute("hang_up")


@pytest.mark.parametrize("arguments", ["[1]", "1", '"x"', "{", "[" * 100_000, "{]"])
def test_arguments_that_are_no_object_are_not_passed_on(arguments: str) -> None:
    problem = check_arguments(WEATHER, arguments)
    assert problem is not None
    assert problem.code is ToolCode.TOO_LARGE if len(arguments) > MAX_ARGUMENT_BYTES else ToolCode.REFUSED


def test_arguments_have_a_limit_and_may_be_missing() -> None:
    fits = json.dumps({"a": "é" * ((MAX_ARGUMENT_BYTES - 9) // 2)}, ensure_ascii=False)
    assert check_arguments(WEATHER, "") is None
    assert check_arguments(WEATHER, fits) is None
    problem = check_arguments(WEATHER, fits + "  ")
    assert problem is not None
    assert problem.code is ToolCode.TOO_LARGE


def test_a_result_over_the_limit_names_size_and_limit() -> None:
    route = ToolRoute("f", max_output_bytes=4)
    assert check_output(route, "éé") is None
    problem = check_output(route, "ééx")
    assert problem is not None
    assert problem.code is ToolCode.TOO_LARGE
    assert "5 bytes; at most 4" in problem.message


def test_an_error_is_json_of_bounded_length() -> None:
    output = ToolProblem(ToolCode.FAILED, "x" * 10_000).output()
    assert json.loads(output) == {"error": {"code": "failed", "message": "x" * MAX_MESSAGE_CHARACTERS}}


@pytest.mark.parametrize(
    ("data", "kind", "result"),
    [
        (b'{"a": 1}', "application/json", '{"a": 1}'),
        (b"sunny", "", "sunny"),
        (b"sunny", "text/plain; charset=utf-8", "sunny"),
        (b" \n", "application/json", "null"),
        (b"", "", "null"),
        (b"{", "text/plain", "{"),
    ],
)
def test_a_result_is_text(data: bytes, kind: str, result: str) -> None:
    assert result_text(data, kind, "f") == result


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"{", "application/json"),
        (b"{", "application/problem+json; x=y"),
        (b"\xff", ""),
        (b"[" * 99_999, "x/y+json"),
    ],
)
def test_what_is_no_text_or_not_the_json_it_claims_to_be_is_no_result(data: bytes, kind: str) -> None:
    problem = result_text(data, kind, "f")
    assert isinstance(problem, ToolProblem)
    assert problem.code is ToolCode.INVALID_RESULT


def test_the_key_of_a_call_fits_a_header() -> None:
    assert call_key(SessionKey("ns", "n", "uid", 3), "call_1") == "uid.3.call_1"
    assert call_key(SessionKey("ns", "n", "uid", 3), "a\r\nX: b\ud800é") == "uid.3.a%0D%0AX:%20b%3F%C3%A9"


@given(st.text())
def test_no_call_id_breaks_a_header(call_id: str) -> None:
    key = call_key(SessionKey("ns", "n", "uid", 1), call_id)
    assert key.isascii()
    assert key.isprintable()
    assert " " not in key


@given(st.integers(1, 20), st.floats(0, 0.999), st.floats(0, 60), st.none() | st.floats(0, 60))
def test_a_retry_never_passes_the_deadline_and_never_comes_too_early(
    failed: int, chance: float, remaining: float, after: float | None
) -> None:
    wait = retry_wait(failed, after, remaining, chance)
    if wait is None:
        assert (after or 0) + RETRY_MAX_SECONDS >= remaining
    else:
        assert (after or 0) <= wait < remaining
        assert wait <= (after or 0) + RETRY_MAX_SECONDS


def test_the_backoff_doubles_up_to_its_bound() -> None:
    waits = [retry_wait(n, None, 100, 0.5) for n in range(1, 7)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.5, 1.5])
