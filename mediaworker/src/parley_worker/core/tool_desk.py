"""Function calls from the model's request to its result: routed, bounded, recorded, given up. Pure.

Every call ends in exactly one result for the model (or in the end of the session): what was returned, or an
error that the model can speak about. Nothing is run twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from parley_worker.core.agent import ToolRoute, ToolRouteKind
from parley_worker.core.effects import CallTool, CancelTool, Effect, ObserveTool, SendProvider
from parley_worker.core.fields import object_of, text_of
from parley_worker.core.recorder import Recorder, well_formed
from parley_worker.core.restored import KnownCall
from parley_worker.core.tool_routing import (
    ToolCode,
    ToolProblem,
    ToolRoutes,
    check_arguments,
    check_output,
    timed_out,
    unknown_function,
)
from parley_worker.core.tools import MAX_OPEN_CALLS, ToolCall, ToolLedger

Payload = Mapping[str, Any]
Tell = Callable[[Payload], list[Effect]]
"""Sends the caller's program a message in the form of a conversation event."""
OK = "ok"
BARGE_IN, ENDED = "barge-in", "ended"
MCP = "mcp"
MAX_MCP_CALLS = 64
_SERVICES = frozenset({ToolRouteKind.NATS, ToolRouteKind.WEBHOOK, ToolRouteKind.SCENARIO})


class ToolDesk:
    """The calls of one conversation. Methods return effects; every `now` is monotonic seconds."""

    def __init__(self, recorder: Recorder, routes: ToolRoutes, tell: Tell) -> None:
        self._recorder = recorder
        self._tell: Tell = tell
        self._mcp: dict[str, float] = {}
        self.routes = routes
        self.ledger = ToolLedger()

    def let_go(self) -> None:
        """The session is over: nothing is told any more."""
        self._tell = lambda payload: []

    # What the model asks for

    def called(self, item: Payload, response_id: str, now: float) -> list[Effect]:
        """A function call of the model, complete. One that was cut off is none."""
        call_id, name, arguments = (text_of(item, key) for key in ("call_id", "name", "arguments"))
        arguments = str(well_formed(arguments))
        if item.get("status") == "incomplete":
            return []
        route = self.routes.find(name)
        known = route or ToolRoute(name)
        call = ToolCall(call_id, name, response_id, known, now)
        if not self.ledger.called(call):
            return []
        effects: list[Effect] = [self._recorder.event("tool_called", now, call_id=call_id, tool=name)]
        effects += self._recorder.journal("tool_call", now, call_id=call_id, tool=name, arguments=arguments)
        problem = None
        if route is None:
            problem = unknown_function(name)
        elif self.ledger.full:
            text = f"{MAX_OPEN_CALLS} function calls are running already: wait for their results"
            problem = ToolProblem(ToolCode.REFUSED, text)
        elif route.kind in _SERVICES:
            problem = check_arguments(route, arguments)
        if problem is not None:
            return effects + self._fail(call, problem, now)
        if known.kind in _SERVICES:
            effects.append(CallTool(call_id, name, arguments or "{}", known, call.deadline))
        return effects

    def follow(self, payload: Payload, now: float) -> None:
        """Any server event: what the provider's history holds, what it offers, what it calls itself."""
        match payload.get("type"):
            case "session.created" | "session.updated":
                self.routes.offer(object_of(payload, "session"))
            case "conversation.item.added" | "conversation.item.created" | "conversation.item.done":
                item = object_of(payload, "item")
                if item.get("type") == "function_call_output":
                    self.ledger.echoed(text_of(item, "call_id"))
            case "response.mcp_call.in_progress":
                self._mcp.setdefault(text_of(payload, "item_id"), now)
                while len(self._mcp) > MAX_MCP_CALLS:
                    del self._mcp[next(iter(self._mcp))]

    def restore(self, calls: Iterable[KnownCall], now: float) -> None:
        """Calls of an earlier attempt: none is run twice, and those of the caller may still be answered."""
        for known in calls:
            route = self.routes.find(known.name) or ToolRoute(known.name)
            call = ToolCall(known.call_id, known.name, "", route, now, echoed=known.answered)
            if self.ledger.called(call) and known.answered:
                self.ledger.returned(call)

    def give_up_lost(self, now: float) -> list[Effect]:
        """The provider is there: calls that a lost worker had given to a service have no result any more."""
        effects: list[Effect] = []
        for call in self.ledger.open_calls():
            if call.route.kind in _SERVICES:
                text = (
                    f"the connection was lost while {call.name!r} ran: whether it took effect is not known, "
                    "find out before calling it again"
                )
                effects += self._fail(call, ToolProblem(ToolCode.UNAVAILABLE, text), now)
        return effects

    # What comes back

    def refusal(self, call_id: str) -> str:
        """Why an item that the caller or a scenario made cannot be the result of this call; empty when it
        can. Calls that the model did not make here pass freely."""
        call = self.ledger.find(call_id)
        if call is None:
            return ""
        if call.returned:
            return f"call_id {call_id!r} has its result already"
        if call.route.kind in (ToolRouteKind.NATS, ToolRouteKind.WEBHOOK):
            return _not_yours(call)
        return ""

    def by_item(self, call_id: str, output: str, now: float) -> list[Effect]:
        """A result that goes to the model as an item of the caller's or the scenario's own making."""
        call = self.ledger.find(call_id)
        if call is None or self.refusal(call_id):
            return []
        return self._record(call, output, None, now)

    def from_caller(self, call_id: str, output: str, no_response: bool, now: float) -> list[Effect] | str:
        """The caller's result, given to the model; a sentence when it cannot be taken."""
        call = self.ledger.open_call(call_id)
        if isinstance(call, str):
            return call
        if call.route.kind is not ToolRouteKind.CALLER:
            return _not_yours(call)
        return self._take(call, output, now, respond=not no_response)

    def returned(self, call_id: str, output: str, now: float) -> list[Effect]:
        """The result of a service; one that comes too late is dropped."""
        call = self.ledger.open_call(call_id)
        return [] if isinstance(call, str) else self._take(call, output, now)

    def failed(self, call_id: str, problem: ToolProblem, now: float) -> list[Effect]:
        """A service has no result."""
        call = self.ledger.open_call(call_id)
        return [] if isinstance(call, str) else self._fail(call, problem, now)

    def _take(self, call: ToolCall, output: str, now: float, respond: bool = True) -> list[Effect]:
        problem = check_output(call.route, output)
        if problem is not None:
            return self._fail(call, problem, now)
        return self._give(call, output, None, now, respond)

    def _fail(self, call: ToolCall, problem: ToolProblem, now: float, respond: bool = True) -> list[Effect]:
        return self._give(call, problem.output(), problem, now, respond)

    def _give(
        self, call: ToolCall, output: str, problem: ToolProblem | None, now: float, respond: bool
    ) -> list[Effect]:
        """Give the model its result, and ask for an answer once that may be."""
        item = {"type": "function_call_output", "call_id": call.call_id, "output": output}
        effects: list[Effect] = [SendProvider({"type": "conversation.item.create", "item": item})]
        effects += self._record(call, output, problem, now)
        call.silent = not respond
        if respond:
            self.ledger.want_answer(call.response_id)
        return effects

    def _record(
        self, call: ToolCall, output: str, problem: ToolProblem | None, now: float, reason: str = BARGE_IN
    ) -> list[Effect]:
        """The call has its result: one event, one journal record, one number."""
        self.ledger.returned(call)
        took = now - call.called_at
        code = "" if problem is None else str(problem.code)
        facts: dict[str, object] = {"call_id": call.call_id, "duration_ms": round(took * 1000)}
        if problem is None:
            event = self._recorder.event("tool_returned", now, **facts)
        elif problem.code is ToolCode.CANCELLED:
            event = self._recorder.event(
                "tool_cancelled", now, call_id=call.call_id, tool=call.name, reason=reason
            )
        else:
            event = self._recorder.event("tool_failed", now, tool=call.name, code=code, **facts)
        journal = self._recorder.journal("tool_result", now, output=output, error_code=code, **facts)
        return [event, *journal, ObserveTool(str(call.route.kind), code or OK, took)]

    # Giving up

    def barge_in(self, now: float) -> list[Effect]:
        """The caller speaks: calls whose route says so are given up. What the caller says is answered
        anyway."""
        effects: list[Effect] = []
        for call in self.ledger.open_calls():
            if call.route.cancel_on_barge_in:
                text = f"the caller began to speak before {call.name!r} had answered"
                effects += self._give_up(call, BARGE_IN)
                effects += self._fail(call, ToolProblem(ToolCode.CANCELLED, text), now, respond=False)
        return effects

    def on_deadline(self, now: float) -> list[Effect]:
        """Calls that took too long."""
        effects: list[Effect] = []
        for call in self.ledger.open_calls():
            if now >= call.deadline:
                effects += self._give_up(call, "timeout")
                effects += self._fail(call, timed_out(call.route), now)
        return effects

    def end(self, now: float) -> list[Effect]:
        """The session ends: calls that run are given up and recorded; the model is told nothing any more."""
        effects: list[Effect] = []
        problem = ToolProblem(ToolCode.CANCELLED, "the session ended")
        for call in self.ledger.open_calls():
            if call.route.kind in _SERVICES:
                effects.append(CancelTool(call.call_id))
            effects += self._record(call, problem.output(), problem, now, ENDED)
        return effects

    def abandon(self) -> list[Effect]:
        """The session goes on elsewhere: nobody here waits for a result any more."""
        calls = self.ledger.open_calls()
        return [CancelTool(call.call_id) for call in calls if call.route.kind in _SERVICES]

    def _give_up(self, call: ToolCall, reason: str) -> list[Effect]:
        """Stop whoever works on the call."""
        if call.route.kind in _SERVICES:
            return [CancelTool(call.call_id)]
        notice = {"type": "parley.tool_cancelled", "call_id": call.call_id, "name": call.name}
        return self._tell({**notice, "reason": reason})

    # Calls that the provider makes itself (MCP)

    @property
    def provider_calls(self) -> bool:
        """True while the provider calls a tool by itself."""
        return bool(self._mcp)

    def mcp_done(self, item: Payload, now: float) -> list[Effect]:
        """The call is over: recorded as other calls are. The item's id stands for the call."""
        item_id, name = text_of(item, "id"), text_of(item, "name")
        took = max(0.0, now - self._mcp.pop(item_id, now))
        error = item.get("error")
        code = str(ToolCode.FAILED) if error else ""
        facts: dict[str, object] = {"call_id": item_id, "duration_ms": round(took * 1000)}
        effects: list[Effect] = [self._recorder.event("tool_called", now, call_id=item_id, tool=name)]
        effects += self._recorder.journal(
            "tool_call", now, call_id=item_id, tool=name, arguments=text_of(item, "arguments")
        )
        if error:
            effects.append(self._recorder.event("tool_failed", now, tool=name, code=code, **facts))
        else:
            effects.append(self._recorder.event("tool_returned", now, **facts))
        effects += self._recorder.journal(
            "tool_result", now, output=text_of(item, "output"), error_code=code, **facts
        )
        return [*effects, ObserveTool(MCP, code or OK, took)]


def _not_yours(call: ToolCall) -> str:
    return f"call_id {call.call_id!r} is answered by the {call.route.kind} route of {call.name!r}"
