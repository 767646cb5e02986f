"""What every run shares: options, scenario, a folder for its state, and systems made from them."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final

import yaml

from parley_client.bench import machine, results
from parley_client.bench.certificates import ServerFiles, make_server_files
from parley_client.bench.given import Given
from parley_client.bench.loadgen import find_loadgen
from parley_client.bench.measure import Note
from parley_client.bench.scenario import Pinning, Scenario, read_scenario
from parley_client.bench.systems import SYSTEMS, Place, System, Variant, pinned
from parley_client.errors import UsageError

TRANSPORTS: Final = ("converse", "conversemany", "twilio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line says. Attributes are its options."""

    scenario: Path | None = None
    slo: Path | None = None
    quick: bool = False
    out: Path = Path("build/bench")
    loadgen: Path | None = None
    systems: tuple[str, ...] = SYSTEMS
    transports: tuple[str, ...] = ("converse",)
    tls: tuple[bool, ...] = (True,)
    capacity: int = 0
    keep: bool = False
    given: Given = field(default_factory=Given)

    def check(self) -> None:
        """Raises UsageError for a system or a transport that is not known."""
        for option, words, known in (
            ("--systems", self.systems, SYSTEMS),
            ("--transport", self.transports, TRANSPORTS),
        ):
            for word in words:
                if word not in known:
                    raise UsageError(f"{option}: {word!r} is not known: give some of {', '.join(known)}")
        self.given.check()


@dataclass(slots=True)
class Bench:
    """A run under way; made by `opened`."""

    name: str
    options: Options
    scenario: Scenario
    folder: Path
    certificates: ServerFiles
    loadgen: Path
    note: Note
    began: datetime.datetime
    clock: float
    command: Sequence[str]
    _systems: int = 0

    def system(self, variant: Variant, **own: Any) -> System:
        """A system that is not started yet; `own` goes to a worker that the bench starts."""
        from parley_client.bench import peers, workers

        self._systems += 1
        given = self.options.given
        place = Place(
            scenario=self.scenario,
            folder=self.folder / f"{self._systems:02d}-{variant.label.replace(' ', '-')}",
            loadgen=self.loadgen,
            certificates=self.certificates,
            provider_listen=given.provider_listen,
            provider_url=given.provider_url,
        )
        match variant.system:
            case "floor":
                return peers.Floor(variant, place)
            case "pipecat":
                return peers.Pipecat(variant, place)
            case "livekit":
                return peers.LiveKit(variant, place)
        if given.session:
            from parley_client.bench.cluster import ClusterSystem

            return ClusterSystem(variant, place, given)
        if given.control:
            return workers.GivenWorker(
                variant,
                place,
                control=given.control,
                tls=given.tls,
                tls_name=given.tls_name,
                media_ca=given.media_ca,
                admin=given.admin,
            )
        return workers.OwnWorker(variant, place, **own)

    def variant(self) -> Variant:
        """The one way in which a run with a single system runs it."""
        return Variant("parley", self.options.transports[0], self.options.tls[0])

    def finish(self, **parts: Any) -> Path:
        """Write the result; its path."""
        seconds = time.monotonic() - self.clock
        head = results.envelope(self.name, self.command, self.scenario, self.began, seconds)
        return results.write(self.options.out, {**head, **parts})

    def capacity(self) -> int:
        """Sessions that a worker carries: as given, or as the last density run found.

        Raises:
            UsageError: neither is there.
        """
        if self.options.capacity:
            return self.options.capacity
        path = self.options.out / "density.json"
        variant = self.variant()
        if path.exists():
            rows = results.read(path)["rows"]
            key = ("system", "transport", "tls")
            wanted = (variant.system, variant.transport, variant.tls)
            found = [row for row in rows if tuple(row[k] for k in key) == wanted]
            # What passes the SLO is what a user would admit; the knee where nothing passes.
            sessions = [row["sessions_per_core_at_slo"] or row["sessions_per_core"] for row in found]
            if sessions and sessions[0]:
                cpus = len(self.scenario.pinning.worker) or 1
                return int(sessions[0] * cpus)
        raise UsageError(
            f"the capacity of {variant.label} is not known: give --capacity N, or run `parley bench density`"
            f" first ({path} holds no such row)"
        )


def load_scenario(options: Options) -> Scenario:
    """The built-in scenario with the user's files on top.

    Raises:
        UsageError: a file cannot be read, or names what is not known.
    """
    layers = [("full.yaml", _built_in("full.yaml"))]
    if options.quick:
        layers.append(("quick.yaml", _built_in("quick.yaml")))
    if options.scenario:
        layers.append((str(options.scenario), _yaml(options.scenario)))
    if options.slo:
        layers.append((str(options.slo), {"slo": _yaml(options.slo)}))
    scenario = read_scenario(*layers)
    if options.given.control or options.given.session:
        scenario = replace(scenario, pinning=replace(scenario.pinning, worker=(), others=()))
    return scenario


@contextmanager
def opened(name: str, options: Options, note: Note, *, load: bool = True) -> Iterator[Bench]:
    """A run; its folder is removed at the end unless --keep. `load`: whether it needs the load program."""
    options.check()
    scenario = load_scenario(options)
    if machine.is_bbr(machine.congestion_control()):
        note(machine.BBR)
    loadgen = find_loadgen(options.loadgen) if load else Path()
    began = datetime.datetime.now(datetime.UTC)
    before = _step_aside(scenario.pinning)
    folder = Path(tempfile.mkdtemp(prefix="parley-bench-"))
    try:
        certificates = make_server_files(folder / "tls", began)
        yield Bench(
            name=name,
            options=options,
            scenario=scenario,
            folder=folder,
            certificates=certificates,
            loadgen=loadgen,
            note=note,
            began=began,
            clock=time.monotonic(),
            command=["bench", *sys.argv[2:]] if len(sys.argv) > 2 else ["bench", name],
        )
    finally:
        os.sched_setaffinity(0, before)
        if options.keep:
            note(f"state and logs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _step_aside(pins: Pinning) -> set[int]:
    """Keep this program off the worker's CPUs; the CPUs that it had. Children that are pinned choose anew.

    Raises:
        UsageError: this machine has no such CPU.
    """
    had = os.sched_getaffinity(0)
    pinned((), pins.worker)
    pinned((), pins.others)
    if pins.others:
        os.sched_setaffinity(0, pins.others)
    return had


def _built_in(name: str) -> Any:
    return yaml.safe_load(resources.files("parley_client.bench").joinpath("scenarios", name).read_text())


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {error}") from error
