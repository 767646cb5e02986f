"""When a connection that is open has to be given up because nothing comes of it. Pure; times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from parley_realtime.protocol.outstanding import Answer, Outstanding

TOOL_PATIENCE = 4
"""A response in which the provider calls a tool by itself may be silent so many times as long."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The connection is of no use any more."""

    why: str
    code: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The answer has gone silent: ask for its end."""

    answer: Answer


@dataclass(frozen=True, slots=True)
class Vigil:
    """`progress`: nothing at all came though something was asked; `response`: nothing of one answer came."""

    progress: float
    response: float

    def verdict(self, outstanding: Outstanding, heard_at: float, now: float) -> GiveUp | Cancel | None:
        """What has to be done at `now`; `heard_at` is when anything came last."""
        for due, verdict in self._dues(outstanding, heard_at):
            if now >= due:
                return verdict
        return None

    def next_due(self, outstanding: Outstanding, heard_at: float) -> float | None:
        """When `verdict` may have something to say, if nothing changes."""
        return min((due for due, _ in self._dues(outstanding, heard_at)), default=None)

    def _dues(self, outstanding: Outstanding, heard_at: float) -> list[tuple[float, GiveUp | Cancel]]:
        dues: list[tuple[float, GiveUp | Cancel]] = []
        since = outstanding.answer_due_since
        if since is not None:
            silence = f"the provider has said nothing for {self.progress:g} s"
            dues.append((max(since, heard_at) + self.progress, GiveUp(silence, "silent")))
        unmade = GiveUp(f"the provider made no response within {self.response:g} s", "no_response")
        asked = (sent.since for sent in outstanding.peek() if sent.type == "response.create")
        dues += [(since + self.response, unmade) for since in asked if not outstanding.answers]
        stuck = GiveUp("a response can be neither finished nor cancelled", "stuck_response")
        for answer in outstanding.answers.values():
            if answer.cancelled_at is not None:
                patience = min(self.progress, self.response)
                dues.append((max(answer.cancelled_at, answer.since) + patience, stuck))
            else:
                patience = self.response * (TOOL_PATIENCE if answer.waits_for_tool else 1)
                dues.append((answer.since + patience, Cancel(answer)))
        return dues
