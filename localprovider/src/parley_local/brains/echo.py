"""The brain that says back what it understood."""

from __future__ import annotations

from parley_local.core.effects import BrainRequest, Reply, Say, ToolResult
from parley_local.speech.digits import spell

from .base import caller_turns, word_for_word


class EchoBrain:
    """`You said: ...`, digits one by one so that they can be recognised again."""

    greeting = "Hello. Say something, and I will say it back."
    puzzled = "I did not hear anything."

    async def reply(self, request: BrainRequest) -> Reply:
        line = word_for_word(request)
        if line is not None:
            return (Say(line),)
        spoken = caller_turns(request)
        if not spoken:
            return (Say(self.greeting),)
        last = spoken[-1]
        if isinstance(last, ToolResult):
            return (Say(f"{last.name or 'The tool'} returned: {spell(last.output)}"),)
        text = last.text.strip()
        return (Say(f"You said: {spell(text)}" if text else self.puzzled),)
