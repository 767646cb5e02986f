"""Function calls of the model: who is owed a result, and when to ask for the answer that uses it."""

from __future__ import annotations

from dataclasses import dataclass

from parley_worker.core.agent import ToolRoute

MAX_CALLS = 256
MAX_OPEN_CALLS = 16


@dataclass(slots=True)
class ToolCall:
    """One call. `echoed` is true once the provider has shown that its history holds the result."""

    call_id: str
    name: str
    response_id: str
    route: ToolRoute
    called_at: float
    returned: bool = False
    echoed: bool = False
    silent: bool = False
    """Its result asks for no answer."""

    @property
    def deadline(self) -> float:
        """When the call is given up (monotonic seconds)."""
        return self.called_at + self.route.timeout


class ToolLedger:
    """Calls by id; the latest 256 are remembered, so that none is run twice, and at most 16 are open.

    An answer is wanted by a response of which a result came, and due when all its calls have theirs: every
    call has a deadline, so nothing waits for ever.
    """

    def __init__(self) -> None:
        self._calls: dict[str, ToolCall] = {}
        self._open: dict[str, ToolCall] = {}
        self._wanted: set[str] = set()

    def called(self, call: ToolCall) -> bool:
        """False when the call is known already."""
        if call.call_id in self._calls:
            return False
        self._calls[call.call_id] = self._open[call.call_id] = call
        while len(self._calls) > MAX_CALLS:
            closed = next((i for i, known in self._calls.items() if known.returned), None)
            if closed is None:
                break
            del self._calls[closed]
        return True

    @property
    def full(self) -> bool:
        """True when no further call may be open beside those that are."""
        return len(self._open) > MAX_OPEN_CALLS

    def find(self, call_id: str) -> ToolCall | None:
        return self._calls.get(call_id)

    def open_calls(self) -> list[ToolCall]:
        """Calls without a result, oldest first."""
        return list(self._open.values())

    def open_call(self, call_id: str) -> ToolCall | str:
        """The call that waits for its result, or why a result cannot be taken."""
        call = self._calls.get(call_id)
        if call is None:
            return f"call_id {call_id!r} is unknown: use the call_id of a function call of this session"
        if call.returned:
            return f"call_id {call_id!r} has its result already"
        return call

    def returned(self, call: ToolCall) -> None:
        """The call has its result, of whatever kind."""
        call.returned = True
        self._open.pop(call.call_id, None)

    def echoed(self, call_id: str) -> None:
        """The provider's history holds the result."""
        if (call := self._calls.get(call_id)) is not None:
            call.echoed = True

    def want_answer(self, response_id: str = "") -> None:
        """The agent shall speak about the results of that response's calls; without a name: of any."""
        self._wanted.add(response_id)

    def asked(self) -> None:
        """A response was asked for, behind all results given so far."""
        self._wanted.clear()

    def response_created(self) -> None:
        """The provider makes a response: it answers the results that were in its history before."""
        self._wanted &= {
            call.response_id
            for call in self._calls.values()
            if call.returned and not call.echoed and not call.silent
        }

    def _has_open(self, response_id: str) -> bool:
        return any(call.response_id == response_id for call in self._open.values())

    def answer_due(self) -> bool:
        """True when a response may be asked for (as soon as none is active)."""
        return any(not self._has_open(wanted) for wanted in self._wanted)

    def next_deadline(self) -> float | None:
        """When the first open call is given up."""
        return min((call.deadline for call in self._open.values()), default=None)
