"""A system under test, Parley's or a peer's: its worker is started, calls come and go, windows are taken."""

from __future__ import annotations

import asyncio
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from parley_client.bench import proc
from parley_client.bench.certificates import ServerFiles
from parley_client.bench.loadgen import CallFailed, LinePeer, Loadgen
from parley_client.bench.scenario import Scenario
from parley_client.bench.windows import Traffic
from parley_client.embedded.processes import Child, ChildSpec
from parley_client.errors import UsageError

SYSTEMS: Final = ("parley", "floor", "pipecat", "livekit")
AUDIO_ONLY: Final = "audio"
IDLE_S: Final = 1.5
HANG_UPS: Final = 64


@dataclass(frozen=True, slots=True)
class Variant:
    """A system in one way of running it.

    Attributes:
        transport: converse (a stream a call), conversemany (one for all), twilio, webrtc.
        tls: on both sides, callers' and provider's.
        flavour: of the floor: picows or websockets; of Parley: `audio` for callers that ask for no
            conversation events, as those of the floor get none.
    """

    system: str
    transport: str
    tls: bool
    flavour: str = ""

    @property
    def label(self) -> str:
        parts = (self.system, self.flavour, self.transport, "tls" if self.tls else "plain")
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Told:
    """What a worker says of itself, None where it does not: tasks of its event loops, and how often it saw
    audio run dry since it began."""

    tasks: int | None = None
    underruns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a system is run.

    Attributes:
        folder: for logs and data of this run.
        loadgen: the load program.
        certificates: for both sides' TLS.
        provider_listen, provider_url: of the load program's provider half; the URL is what workers are told,
            empty for the one that it listens on.
    """

    scenario: Scenario
    folder: Path
    loadgen: Path
    certificates: ServerFiles
    provider_listen: str = "127.0.0.1:0"
    provider_url: str = ""


def pinned(argv: Sequence[str], cpus: Sequence[int]) -> list[str]:
    """The command on these CPUs alone; unchanged without CPUs.

    Raises:
        UsageError: this machine has no such CPU, or no taskset.
    """
    if not cpus:
        return list(argv)
    have = os.cpu_count() or 1
    if max(cpus) >= have:
        raise UsageError(
            f"pinning: CPU {max(cpus)} is asked for and this machine has {have}: give pinning.worker and"
            " pinning.others in a scenario file, or empty lists to pin nothing"
        )
    if shutil.which("taskset") is None:
        raise UsageError("pinning needs the program taskset (util-linux): install it, or pin nothing")
    return ["taskset", "-c", ",".join(map(str, cpus)), *argv]


class System(ABC):
    """Use as `async with system:`; inside, `grow_to` has calls talk and `window` measures them."""

    stretch = 1.0
    """Windows are so many times as long as the scenario says: for systems of few calls."""

    def __init__(self, variant: Variant, place: Place) -> None:
        self.variant, self.place = variant, place
        self.scenario = place.scenario
        self.base_mib: float | None = None
        """Memory of the worker's tree before the first call."""
        self.base: proc.Tree | None = None
        self._stack = AsyncExitStack()
        self._sids: list[int] = []
        self._last_sid = 0
        self._windows = 0

    @property
    def cpus(self) -> int:
        """CPUs that the worker may use."""
        return len(self.scenario.pinning.worker) or os.cpu_count() or 1

    @property
    def sids(self) -> tuple[int, ...]:
        """Calls that talk, oldest first."""
        return tuple(self._sids)

    @property
    @abstractmethod
    def callers(self) -> LinePeer:
        """Who plays the callers."""

    @abstractmethod
    async def start(self) -> None:
        """Bring up all that the system needs; what is entered on `self._stack` is taken down at the end."""

    @abstractmethod
    async def command(self, sid: int) -> dict[str, Any]:
        """Give a call its place; the load program's command for it.

        Raises:
            CallFailed: the system has none.
        """

    @abstractmethod
    def worker_pids(self) -> Sequence[int]:
        """Roots of the worker's process tree; empty when it is elsewhere."""

    def helper_pids(self) -> Sequence[int]:
        """Roots of services that the system needs beside its worker."""
        return ()

    def versions(self) -> dict[str, str]:
        return {}

    async def told(self) -> Told:
        """What the worker says of itself."""
        return Told()

    async def cpu_s(self) -> float | None:
        """CPU seconds of the worker so far; None where it cannot be known."""
        pids = self.worker_pids()
        return proc.read_cpu(pids) if pids else None

    async def __aenter__(self) -> Self:
        self.place.folder.mkdir(parents=True, exist_ok=True)
        try:
            await self.start()
            await asyncio.sleep(IDLE_S)
            if pids := self.worker_pids():
                self.base = proc.read_tree(pids)
                self.base_mib = self.base.memory_mib
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def begin_call(self) -> int:
        """One call more; returns its number when audio flows. Raises CallFailed."""
        self._last_sid += 1
        sid = self._last_sid
        await self.callers.call(sid, await self.command(sid))
        self._sids.append(sid)
        return sid

    async def end_call(self, sid: int) -> dict[str, Any]:
        """Hang up; returns the `ended` event."""
        self._sids.remove(sid)
        return await self.callers.stop_call(sid)

    async def grow_to(self, sessions: int) -> None:
        """Have so many calls talk; new ones begin at the scenario's rate.

        Raises:
            CallFailed: the first call that failed; those that talk go on.
        """
        while len(self._sids) > sessions:
            surplus = self._sids[max(sessions, len(self._sids) - HANG_UPS) :]
            await asyncio.gather(*(self.end_call(sid) for sid in surplus))
        opening: list[asyncio.Task[int]] = []
        try:
            await self._open(sessions - len(self._sids), opening)
        finally:
            for task in opening:
                task.cancel()
            results = await asyncio.gather(*opening, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _open(self, count: int, opening: list[asyncio.Task[int]]) -> None:
        """Begin so many calls at the scenario's rate, none after one that failed, and wait for each."""
        loop = asyncio.get_running_loop()
        began, spacing = loop.time(), 1.0 / self.scenario.workload.calls_per_s
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number * spacing - loop.time()))
            opening.append(asyncio.create_task(self.begin_call()))
            if any(task.done() and task.exception() for task in opening):
                break
        if opening:
            await asyncio.wait(opening)

    async def window(self, seconds: float) -> Traffic:
        """What callers and provider see in so many seconds from now on."""
        self._windows += 1
        return Traffic.read(await self.callers.window(f"w{self._windows}", seconds))

    def failures(self) -> list[CallFailed]:
        """Calls that ended by themselves since the last time this was asked."""
        failed, self.callers.failed = self.callers.failed, []
        for failure in failed:
            if failure.sid in self._sids:
                self._sids.remove(failure.sid)
        return failed

    # For subclasses

    async def child(self, spec: ChildSpec) -> Child:
        child = await Child.start(spec, self.place.folder)
        self._stack.push_async_callback(child.stop)
        return child

    async def load_program(self, prefix: Sequence[str] = (), *arguments: str) -> Loadgen:
        """Start the load program on the CPUs that are not the worker's."""
        load = self.scenario.workload
        argv = [str(self.place.loadgen), "-provider", self.place.provider_listen]
        argv += ["-cycle", f"{load.cycle_s:g}", "-audio-s", f"{load.answer_s:g}"]
        argv += ["-chunk-ms", str(load.chunk_ms), "-speed", f"{load.speed:g}", *arguments]
        pins = self.scenario.pinning
        if cpus := (*pins.worker, *pins.others):
            argv += ["-witness", ",".join(map(str, cpus))]
        if self.variant.tls:
            files = self.place.certificates
            argv += ["-provider-cert", str(files.certificate), "-provider-key", str(files.key)]
        command = [*prefix, *pinned(argv, self.scenario.pinning.others)]
        program = await Loadgen.open(command, self.place.folder / "loadgen.log")
        self._stack.push_async_callback(program.close)
        return program

    def provider_url(self, load: Loadgen) -> str:
        """What the worker is told."""
        if self.place.provider_url:
            return self.place.provider_url
        return f"{'wss' if self.variant.tls else 'ws'}://{load.provider}/v1/realtime"

    def call_command(self, endpoint: str, **more: Any) -> dict[str, Any]:
        """The load program's command for a call to `endpoint`, with the bench's own certificates."""
        tls = self.variant.tls
        return {
            "transport": self.variant.transport,
            "endpoint": endpoint,
            "tls_ca": str(self.place.certificates.ca) if tls else "",
            "tls_name": self.place.certificates.name if tls else "",
            "format": self.scenario.workload.format,
            "stream": 0,
            "events": self.variant.flavour != AUDIO_ONLY,
            **more,
        }
