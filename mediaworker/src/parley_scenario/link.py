"""What the parts of a context share: the way to the worker, and questions that it answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from parley_scenario.events import ScenarioMistake

MAX_QUESTIONS = 256


class Link:
    """The scenario's end of the connection. `write` sends a frame and never waits."""

    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write = write
        self._numbers = itertools.count(1)
        self._questions: dict[str, asyncio.Future[Any]] = {}

    def send(self, t: str, **fields: Any) -> None:
        """Tell the worker something."""
        self._write({"t": t, **fields})

    def name(self, prefix: str) -> str:
        """A new name within this session."""
        return f"{prefix}-{next(self._numbers)}"

    def ask(self, id: str) -> asyncio.Future[Any]:
        """A future for what the worker will say about `id`."""
        if len(self._questions) >= MAX_QUESTIONS:
            raise ScenarioMistake(
                f"{MAX_QUESTIONS} answers are being waited for: wait for some before asking"
            )
        future = asyncio.get_running_loop().create_future()
        self._questions[id] = future
        future.add_done_callback(lambda _: self._questions.pop(id, None))
        return future

    def answer(self, id: object, value: Any) -> None:
        """The worker's word on a question; one on which nobody waits is dropped."""
        future = self._questions.get(id) if isinstance(id, str) else None
        if future is not None and not future.done():
            future.set_result(value)

    def close(self) -> None:
        """Nothing will be answered any more: whoever waits is cancelled."""
        for future in list(self._questions.values()):
            future.cancel()
