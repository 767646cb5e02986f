"""Parley's worker under test: one that the bench starts on loopback, or one that runs somewhere already."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final

from parley_client.bench import machine
from parley_client.bench.admitting import FORMATS, Admitting, Placed, ProviderPlan
from parley_client.bench.loadgen import CallFailed, Loadgen
from parley_client.bench.nats_child import start_nats
from parley_client.bench.systems import Place, System, Told, Variant, pinned
from parley_client.embedded.processes import Child, ChildSpec
from parley_client.errors import MissingProgram, ParleyError, UsageError

PREFIX: Final = "PARLEY_WORKER_"
COMPILED: Final = "PARLEY_BENCH_COMPILED"
"""Names a folder of compiled sources that the bench's own worker runs; else it runs what is installed."""
TRANSPORTS: Final = ("converse", "conversemany", "twilio")
_SAMPLE: Final = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^}]*\})? (\S+)", re.MULTILINE)


class ParleySystem(System):
    """What the bench's own worker and a given one have in common: sessions are placed by control."""

    def __init__(self, variant: Variant, place: Place) -> None:
        super().__init__(variant, place)
        self._load: Loadgen | None = None
        self._control: Admitting | None = None
        self._places: dict[int, Placed] = {}

    @property
    def callers(self) -> Loadgen:
        assert self._load is not None
        return self._load

    @property
    def control(self) -> Admitting:
        assert self._control is not None
        return self._control

    async def command(self, sid: int) -> dict[str, Any]:
        placed = self._places[sid] = await self.control.admit(sid, self._plan())
        telephony = self.variant.transport == "twilio"
        if telephony and not placed.telephony:
            raise ParleyError("the worker has no endpoint for telephony: set PARLEY_WORKER_TELEPHONY_ADDRESS")
        more = {"ticket": placed.ticket, "session_uid": placed.uid, "stream": placed.shard}
        if telephony:
            more["format"] = "ulaw8"
        endpoint = placed.telephony if telephony else placed.endpoint
        return self.call_command(endpoint, tls_name=placed.tls_server_name, **more) | self._trust(placed)

    def _trust(self, placed: Placed) -> dict[str, Any]:
        """How the load program verifies the worker."""
        return {}

    def _plan(self) -> ProviderPlan:
        audio = FORMATS["ulaw8" if self.variant.transport == "twilio" else self.scenario.workload.format]
        ca = self.place.certificates.ca.read_text() if self.variant.tls else ""
        return ProviderPlan(self.provider_url(self.callers), audio, ca)

    async def begin_call(self) -> int:
        try:
            return await super().begin_call()
        except CallFailed as failure:
            placed = self._places.pop(failure.sid, None)
            if placed is not None:
                await self.control.terminate(placed.uid)
            raise

    async def end_call(self, sid: int) -> dict[str, Any]:
        self._places.pop(sid, None)
        return await super().end_call(sid)

    async def _control_at(self, address: str, tls: Path | None = None, name: str = "") -> None:
        self._control = await Admitting.open(address, tls, name)
        self._stack.push_async_callback(self._control.close)


class OwnWorker(ParleySystem):
    """`python -m parley_worker` on loopback, with NATS beside it, as users have it."""

    def __init__(self, variant: Variant, place: Place, *, nats: bool = True, capacity: int = 0) -> None:
        super().__init__(variant, place)
        self._with_nats, self._capacity = nats, capacity
        self._worker: Child | None = None
        self._nats: Child | None = None
        self.nats_url = ""

    @property
    def admin(self) -> str:
        """host:port of its metrics."""
        assert self._worker is not None
        return str(self._worker.ready["admin"])

    async def start(self) -> None:
        if importlib.util.find_spec("parley_worker") is None:
            raise MissingProgram("the Python package parley_worker", "pip install 'parley[bench,worker]'")
        self._load = await self.load_program()
        if self._with_nats:
            self._nats, self.nats_url = await start_nats(self.place.folder, self.scenario.pinning.others)
            self._stack.push_async_callback(self._nats.stop)
        spec = ChildSpec(
            "media worker",
            pinned([sys.executable, "-m", "parley_worker"], self.scenario.pinning.worker),
            {**self._settings(), **compiled_path(os.environ), **self.scenario.worker_env},
            stop_timeout=15,
        )
        self._worker = await self.child(spec)
        if os.environ.get(COMPILED) and not self._worker.ready.get("compiled"):
            raise UsageError(
                f"{COMPILED}={os.environ[COMPILED]}: the worker runs nothing compiled from there"
            )
        await self._control_at(str(self._worker.ready["control"]))

    def _settings(self) -> dict[str, str]:
        chosen = {f"{word}_address": "127.0.0.1:0" for word in ("media", "control", "admin")}
        chosen |= {
            "name": "bench",
            "capacity": str(self._capacity or self.scenario.knee.ceiling + 200),
            "drain_timeout": "0",
            "log_format": "plain",
            "log_level": "warning",
            "nats_url": self.nats_url,
        }
        if self.variant.transport == "twilio":
            chosen["telephony_address"] = "127.0.0.1:0"
        if self.variant.tls:
            files = self.place.certificates
            chosen |= {"media_tls_dir": str(files.folder), "tls_server_name": files.name}
        chosen["shards"] = str(self.cpus) if self.scenario.pinning.worker else "auto"
        return {PREFIX + name.upper(): value for name, value in chosen.items() if value}

    def worker_pids(self) -> Sequence[int]:
        return [self._worker.pid] if self._worker else []

    def helper_pids(self) -> Sequence[int]:
        return [self._nats.pid] if self._nats else []

    def versions(self) -> dict[str, str]:
        ready = self._worker.ready if self._worker is not None else {}
        return {**machine.versions(), "compiled": str(ready.get("compiled", False)).lower()}

    async def told(self) -> Told:
        page = await scrape(self.admin)
        tasks = page.get("parley_worker_tasks")
        return Told(None if tasks is None else int(tasks), int(page.get("parley_worker_underruns_total", 0)))


class GivenWorker(ParleySystem):
    """A worker that runs already; its control address and, for CPU time and memory, its admin address."""

    def __init__(
        self,
        variant: Variant,
        place: Place,
        *,
        control: str,
        tls: Path | None = None,
        tls_name: str = "",
        media_ca: Path | None = None,
        admin: str = "",
    ) -> None:
        super().__init__(variant, place)
        self._address, self._tls, self._tls_name = control, tls, tls_name
        self._media_ca, self._admin = media_ca, admin

    async def start(self) -> None:
        self._load = await self.load_program()
        await self._control_at(self._address, self._tls, self._tls_name)

    def worker_pids(self) -> Sequence[int]:
        return []

    def _trust(self, placed: Placed) -> dict[str, Any]:
        if not placed.tls_server_name:
            return {"tls_ca": "", "tls_name": ""}
        ca = self._media_ca or (self._tls / "ca.crt" if self._tls else None)
        if ca is None:
            raise UsageError("the worker speaks TLS to callers: give its authority with --media-ca FILE")
        return {"tls_ca": str(ca), "tls_name": placed.tls_server_name}

    async def cpu_s(self) -> float | None:
        return (await scrape(self._admin)).get("process_cpu_seconds_total") if self._admin else None


def compiled_path(environ: Mapping[str, str]) -> dict[str, str]:
    """What a worker's environment has beside its settings: where the sources of COMPILED are."""
    paths = [environ.get(COMPILED, ""), environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))} if paths[0] else {}


async def scrape(address: str) -> dict[str, float]:
    """Metrics of an admin address, samples of one name added up.

    Raises:
        ParleyError: the page cannot be read.
    """
    host, _, port = address.rpartition(":")

    def get() -> str:
        connection = HTTPConnection(host.strip("[]"), int(port), timeout=5)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read(8 << 20).decode()
        finally:
            connection.close()

    try:
        text = await asyncio.to_thread(get)
    except (OSError, HTTPException, ValueError) as error:
        raise ParleyError(f"the worker's metrics at {address} cannot be read: {error}") from error
    return parse_metrics(text)


def parse_metrics(text: str) -> dict[str, float]:
    """Sums by name of a page in Prometheus' text format."""
    found: dict[str, float] = {}
    for name, value in _SAMPLE.findall(text):
        try:
            found[name] = found.get(name, 0.0) + float(value)
        except ValueError:
            continue
    return found
