"""What sessions and the services that answer function calls know of each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from parley_worker.core.agent import ToolRoute
from parley_worker.core.model import SessionKey
from parley_worker.core.tool_routing import ToolProblem, call_key


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """One call. `arguments` is a JSON object as text; `deadline` is monotonic, `deadline_unix` wall time."""

    session: SessionKey
    call_id: str
    name: str
    arguments: str = field(repr=False)
    route: ToolRoute
    deadline: float
    deadline_unix: float

    @property
    def key(self) -> str:
        """The same for every try of this call, and for no other."""
        return call_key(self.session, self.call_id)


class ToolCallFailed(Exception):
    """There is no result; `problem` is what the model is told. Its text holds neither content nor secret."""

    def __init__(self, problem: ToolProblem) -> None:
        super().__init__(str(problem.code))
        self.problem = problem


class ToolService(Protocol):
    """Answers calls of one kind of route."""

    async def call(self, request: ToolRequest) -> str:
        """The result as text for the model; ToolCallFailed when there is none. Cancelled at the deadline."""
