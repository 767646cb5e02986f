"""Function calls of the model: who is owed a result, and when to ask for the answer that uses it."""

from __future__ import annotations

from dataclasses import dataclass

MAX_CALLS = 256
ANSWER_WAIT_SECONDS = 10.0


@dataclass(slots=True)
class _Call:
    response_id: str
    called_at: float
    returned: bool = False


class ToolLedger:
    """Calls by id. An answer is asked for once all calls of a response have results, or after 10 s."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._wanted_since: float | None = None

    def called(self, call_id: str, response_id: str, now: float) -> bool:
        """False when the call is known already."""
        if call_id in self._calls:
            return False
        self._calls[call_id] = _Call(response_id, now)
        while len(self._calls) > MAX_CALLS:
            del self._calls[next(iter(self._calls))]
        return True

    def returned(self, call_id: str, now: float) -> float | str:
        """Seconds since the call, or why the result cannot be taken."""
        call = self._calls.get(call_id)
        if call is None:
            return f"call_id {call_id!r} is unknown: use the call_id of a function call of this session"
        if call.returned:
            return f"call_id {call_id!r} has its result already"
        call.returned = True
        return now - call.called_at

    def want_answer(self, now: float) -> None:
        """The agent shall speak about the results."""
        if self._wanted_since is None:
            self._wanted_since = now

    def answered(self) -> None:
        """A response that sees the results was asked for."""
        self._wanted_since = None

    def answer_due(self, now: float) -> bool:
        """True when a response may be asked for (as soon as none is active)."""
        if self._wanted_since is None:
            return False
        open_calls = any(not call.returned for call in self._calls.values())
        return not open_calls or now >= self._wanted_since + ANSWER_WAIT_SECONDS

    def deadline(self) -> float | None:
        """When waiting for other results ends."""
        return None if self._wanted_since is None else self._wanted_since + ANSWER_WAIT_SECONDS
