"""What the user sees: live on a terminal, plain lines otherwise, or one JSON object per line."""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.text import Text

from parley_client.audio import SILENT_DB
from parley_client.events import (
    Clear,
    ConversationEvent,
    Draining,
    Event,
    Moved,
    Reconnecting,
    Transcript,
    Transfer,
)
from parley_client.session_events import SessionEvent

WHO: Final = {"user": "caller", "assistant": "agent"}
BAR_CELLS: Final = 16


class Output(ABC):
    """Where a command reports to. Also a `conversation.Listener`."""

    @abstractmethod
    def note(self, text: str, **facts: object) -> None:
        """A line for people, facts for machines."""

    @abstractmethod
    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Something that takes time; done or failed when left."""

    @abstractmethod
    def transcript(self, transcript: Transcript) -> None: ...

    @abstractmethod
    def levels(self, caller_db: float, agent_db: float, seconds: float) -> None: ...

    @abstractmethod
    def session_event(self, event: SessionEvent) -> None:
        """An event of the session from NATS."""

    @abstractmethod
    def rows(self, kind: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table."""

    @abstractmethod
    def result(self, text: str, *, good: bool, **facts: object) -> None:
        """The last word."""

    @abstractmethod
    def error(self, text: str, code: int) -> None:
        """What went wrong; goes to stderr."""

    @abstractmethod
    def heading(self, text: str) -> None:
        """The title of what follows; nothing for machines."""

    def happened(self, event: Event) -> None:
        if words := describe(event):
            self.note(words)

    @abstractmethod
    def close(self) -> None:
        """Leave the terminal as it was."""


def describe(event: Event) -> str:
    """A line for an event of a call, empty when it is not worth one."""
    match event:
        case Clear():
            return f"the agent was cut off after {event.heard.played_ms} ms ({event.reason})"
        case Draining():
            return "the worker is draining"
        case Moved():
            return f"the session moved to {event.endpoint}"
        case Transfer():
            return f"the agent asks for a transfer to {event.target}"
        case Reconnecting():
            return f"the stream was cut, resuming ({event.cause})"
        case ConversationEvent() if event.type == "error":
            error = event.data.get("error") or {}
            return (
                f"the provider reports an error: {error.get('message') or error.get('code') or 'no details'}"
            )
        case ConversationEvent() if event.type == "response.done":
            response = event.data.get("response") or {}
            error = (response.get("status_details") or {}).get("error") or {}
            why = error.get("message") or error.get("code") or "no details"
            return f"the provider could not answer: {why}" if response.get("status") == "failed" else ""
        case ConversationEvent() if event.type == "response.function_call_arguments.done":
            return f"the agent calls {event.data.get('name') or 'a function'}"
    return ""


class JsonOutput(Output):
    """One JSON object per line on stdout, errors too."""

    def _put(self, kind: str, **facts: object) -> None:
        sys.stdout.write(json.dumps({"kind": kind, **facts}, ensure_ascii=False, default=str) + "\n")
        sys.stdout.flush()

    def note(self, text: str, **facts: object) -> None:
        self._put("note", text=text, **facts)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        self._put("step", text=text, state="started")
        yield
        self._put("step", text=text, state="done")

    def transcript(self, transcript: Transcript) -> None:
        if transcript.final:
            self._put(
                "transcript", who=WHO[transcript.role], text=transcript.text, item_id=transcript.item_id
            )

    def levels(self, caller_db: float, agent_db: float, seconds: float) -> None:
        pass

    def heading(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass

    def session_event(self, event: SessionEvent) -> None:
        self._put("event", type=event.type, event=event.raw)

    def rows(self, kind: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for row in rows:
            self._put(kind, **dict(zip((c.lower().replace(" ", "_") for c in columns), row, strict=True)))

    def result(self, text: str, *, good: bool, **facts: object) -> None:
        self._put("result", text=text, good=good, **facts)

    def error(self, text: str, code: int) -> None:
        self._put("error", text=text, exit_code=code)


class PlainOutput(Output):
    """Lines without control characters: logs, pipes, CI."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, text: str, **facts: object) -> None:
        self.console.print(f"  {escape(text)}", style="dim")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        self.console.print(f"- {escape(text)} ...")
        yield

    def transcript(self, transcript: Transcript) -> None:
        if transcript.final and transcript.text:
            who = WHO[transcript.role]
            style = "cyan" if who == "caller" else "green"
            self.console.print(f"  [{style}]{who:>6}:[/] {escape(transcript.text)}")

    def levels(self, caller_db: float, agent_db: float, seconds: float) -> None:
        pass

    def heading(self, text: str) -> None:
        self.console.print(escape(text), style="bold")

    def close(self) -> None:
        pass

    def session_event(self, event: SessionEvent) -> None:
        when = event.occur_time[11:23].rstrip("Z")
        self.console.print(
            f"  {event.sequence:>4}  {when:<12}  [bold]{escape(event.type):<22}[/] {escape(event.summary)}"
        )

    def rows(self, kind: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        if not rows:
            self.console.print(f"no {kind}s")
            return
        # As wide as the words, like kubectl's: a cut name is of no use.
        lines = [[column.upper() for column in columns], *rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            text = "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))
            self.console.print(escape(text.rstrip()))

    def result(self, text: str, *, good: bool, **facts: object) -> None:
        self.console.print(escape(text), style="bold green" if good else "bold red")

    def error(self, text: str, code: int) -> None:
        self.errors.print(f"[bold red]error:[/] {escape(text)}")


class TerminalOutput(PlainOutput):
    """As plain, with a spinner for steps and a live line of levels and of words as they are spoken."""

    def __init__(self) -> None:
        super().__init__()
        self._live: Live | None = None
        self._words = ""
        self._levels = (SILENT_DB, SILENT_DB, 0.0)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        self.close()
        try:
            with Live(
                Spinner("dots", escape(text)), console=self.console, transient=True, refresh_per_second=8
            ):
                yield
        except BaseException:
            self.console.print(f"[red]✗[/] {escape(text)}")
            raise
        self.console.print(f"[green]✓[/] {escape(text)}")

    def transcript(self, transcript: Transcript) -> None:
        self._words = "" if transcript.final else self._words + transcript.text
        if transcript.final:
            super().transcript(transcript)
        self._draw()

    def levels(self, caller_db: float, agent_db: float, seconds: float) -> None:
        self._levels = (caller_db, agent_db, seconds)
        self._draw()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def heading(self, text: str) -> None:
        self.close()
        super().heading(text)

    def result(self, text: str, *, good: bool, **facts: object) -> None:
        self.close()
        super().result(text, good=good, **facts)

    def error(self, text: str, code: int) -> None:
        self.close()
        super().error(text, code)

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(console=self.console, transient=True, auto_refresh=False)
            self._live.start()
        caller, agent, seconds = self._levels
        line = Text.assemble(
            f"  {int(seconds // 60)}:{seconds % 60:04.1f}  caller ",
            (_bar(caller), "cyan"),
            "  agent ",
            (_bar(agent), "green"),
            ("  " + self._words[-60:], "dim italic"),
        )
        line.truncate(max(20, self.console.width - 1))
        self._live.update(line, refresh=True)


def _bar(db: float) -> str:
    cells = round(max(0.0, min(1.0, (db + 60) / 60)) * BAR_CELLS)
    return "█" * cells + "·" * (BAR_CELLS - cells)


def make_output(*, as_json: bool) -> Output:
    """Return the output that fits stdout and the user's wish."""
    if as_json:
        return JsonOutput()
    return TerminalOutput() if sys.stdout.isatty() else PlainOutput()


def facts_of(values: Mapping[str, Any]) -> str:
    """Facts on one line."""
    return "  ".join(f"{name} {value}" for name, value in values.items())
