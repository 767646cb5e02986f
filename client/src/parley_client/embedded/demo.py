"""`parley demo`: one session, a spoken question, a spoken answer, and the proof that it was understood."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final, Protocol

from parley_client.conversation import ConversationOptions, Listener, Outcome, hold
from parley_client.errors import ConnectError, ParleyError, SessionNotFound
from parley_client.formats import PCM16_24K, AudioFormat
from parley_client.session_events import SessionEvent, read_events, read_scenario_log
from parley_client.target import Target

from .manifests import Manifests, is_recorded, parse_manifests, read_manifests
from .metrics import highlights
from .speech import digits_in, question_for, random_code, recognise, speak
from .stack import EmbeddedStack, Step

EVENTS_TIMEOUT: Final = 5.0
RECORDING_TIMEOUT: Final = 10.0
LOG_SECONDS: Final = 0.3
EXAMPLE: Final = "receptionist.yaml"


class Presenter(Listener, Protocol):
    """What embedded mode shows; `cli.console.Output` is one."""

    @property
    def step(self) -> Step: ...

    def heading(self, text: str) -> None: ...

    def note(self, text: str, **facts: object) -> None: ...

    def session_event(self, event: SessionEvent) -> None: ...


@dataclass(slots=True)
class RunResult:
    """What came of a session in embedded mode."""

    outcome: Outcome
    events: list[SessionEvent] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What came of the demo."""

    run: RunResult
    code: str
    heard: str
    digits: str

    @property
    def passed(self) -> bool:
        """True when the six digits came back in the answer's audio."""
        return self.code in self.digits


def find_example() -> Manifests:
    """Return the example session: the package's copy, or the checkout's `examples/`."""
    packaged = resources.files("parley_client") / "examples" / EXAMPLE
    if packaged.is_file():
        return parse_manifests(packaged.read_text(), f"examples/{EXAMPLE}")
    for parent in Path(__file__).resolve().parents:
        candidate = parent / "examples" / EXAMPLE
        if candidate.is_file():
            return read_manifests(candidate)
    raise ParleyError(f"examples/{EXAMPLE} is neither in the installed package nor in a checkout around it")


async def run_session(
    stack: EmbeddedStack,
    manifests: Manifests,
    question: Path,
    answer: Path,
    presenter: Presenter,
    options: ConversationOptions | None = None,
) -> RunResult:
    """Run one session of the stack: the WAV in, the answer recorded, events and metrics at the end."""
    target = await stack.guard(stack.open_session(manifests))
    announce(stack, presenter)

    async def talk() -> RunResult:
        presenter.heading("The conversation")
        async with scenario_log_shown(stack, target, presenter):
            result = RunResult(await hold(target, question, answer, presenter, options))
        presenter.heading("Events of the session, from NATS")
        result.events = await _collect(stack, target, presenter, is_recorded(manifests))
        presenter.heading("Some of the worker's metrics")
        result.metrics = highlights(await stack.scrape())
        for name, value in result.metrics.items():
            presenter.note(f"{name} {value:g}", metric=name, value=value)
        return result

    return await stack.guard(talk())


def announce(stack: EmbeddedStack, presenter: Presenter) -> None:
    """Say where the session's surroundings are."""
    presenter.note(f"NATS at {stack.nats_url}: events, and tools on parley.tools.<name>", nats=stack.nats_url)
    if stack.telephony_endpoint:
        presenter.note(f"telephony streams at {stack.telephony_endpoint}", telephony=stack.telephony_endpoint)
    if stack.recordings:
        presenter.note(f"recordings in {stack.recordings}", recordings=str(stack.recordings))


@asynccontextmanager
async def scenario_log_shown(
    stack: EmbeddedStack, target: Target, presenter: Presenter
) -> AsyncIterator[None]:
    """Show what the session's scenario logs while it does; the last lines have a moment to come."""

    async def show() -> None:
        with suppress(ConnectError, SessionNotFound):
            async for level, text in read_scenario_log(stack.nats_url, target.namespace, target.session_uid):
                presenter.note(f"scenario {level}: {text}", scenario_log=level)

    showing = asyncio.create_task(show(), name="scenario log")
    try:
        yield
        await asyncio.sleep(LOG_SECONDS)
    finally:
        while not showing.done():
            # A cancellation that comes while nats-py connects is lost: it takes the next one.
            showing.cancel()
            await asyncio.wait([showing], timeout=0.1)


async def run_demo(
    stack: EmbeddedStack,
    folder: Path,
    presenter: Presenter,
    *,
    format: AudioFormat = PCM16_24K,
    code: str | None = None,
) -> DemoResult:
    """Ask the example's agent to say a random code; recognise it in the caller's own recording."""
    code = code or random_code()
    question, answer = folder / "question.wav", folder / "answer.wav"
    text = question_for(code)
    with presenter.step(f"synthesise the question: {text!r}"):
        await speak(text, question)
    options = ConversationOptions(format=format)
    result = await run_session(stack, find_example(), question, answer, presenter, options)
    with presenter.step("recognise the answer in the recording"):
        heard = await recognise(answer)
    return DemoResult(result, code, heard, digits_in(heard))


async def _collect(
    stack: EmbeddedStack, target: Target, presenter: Presenter, recorded: bool
) -> list[SessionEvent]:
    """Read the session's events; the last one may still be on its way."""
    found: list[SessionEvent] = []
    reader = read_events(
        stack.nats_url,
        target.namespace,
        target.session_uid,
        idle_timeout=RECORDING_TIMEOUT if recorded else EVENTS_TIMEOUT,
        recorded=RECORDING_TIMEOUT if recorded else 0.0,
    )
    async for event in reader:
        presenter.session_event(event)
        found.append(event)
    return found
