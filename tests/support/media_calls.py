"""A worker in this process, sessions admitted to it, and callers over real gRPC."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest import mock

import grpc
from many_calls import gateway
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc
from parley_worker.app import WorkerApp
from parley_worker.config import Address, Settings
from parley_worker.core.admission import Fence, Place
from parley_worker.core.model import (
    AccessConfig,
    LimitsConfig,
    ProviderConfig,
    Secret,
    SessionConfig,
    SessionKey,
    SessionReport,
    SessionState,
)
from parley_worker.core.records import EventRecord
from parley_worker.runtime.deps import RunnerDeps, RunnerSettings
from parley_worker.transport import grpc_base
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.media_server import MediaSettings

KEY = "sk-a-secret-key"
LIMITS = LimitsConfig(max_duration=60, idle_timeout=30, attach_timeout=20, reattach_timeout=20)
PCM24 = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=24000)
PCM8 = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=8000)
ULAW = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_G711_ULAW, sample_rate_hz=8000)

_numbers = itertools.count(1)


@dataclass
class Worker:
    """A running worker, every record it made, and its sessions."""

    app: WorkerApp
    records: list[EventRecord] = field(default_factory=list)

    def admit(self, url: str, **changes: Any) -> SessionConfig:
        """Admit a session whose ticket is `ticket-<uid>`."""
        uid = f"uid-{next(_numbers)}"
        provider = ProviderConfig(url=url, api_version="ga", model="m", api_key=Secret(KEY))
        provider = replace(provider, **changes.pop("provider", {}))
        config = SessionConfig(
            key=SessionKey("default", f"call-{uid}", uid, 1),
            provider=provider,
            session={"type": "realtime", "instructions": "be kind"},
            greet=False,
            limits=replace(LIMITS, **changes.pop("limits", {})),
            access=AccessConfig(hashlib.sha256(f"ticket-{uid}".encode()).digest()),
        )
        config = replace(config, **changes)
        verdict = self.app.registry.admit(config, Fence(1, self.app.instance))
        assert isinstance(verdict, Place), verdict
        return config

    def report(self, config: SessionConfig) -> SessionReport:
        return next(r for r in self.app.registry.reports() if r.key == config.key)

    async def until(
        self, config: SessionConfig, test: Callable[[SessionReport], bool], timeout: float = 25
    ) -> SessionReport:
        """The session's report once `test` holds."""
        watcher = self.app.registry.watch()
        try:
            async with asyncio.timeout(timeout):
                while not test(report := self.report(config)):
                    await watcher.next(0.2)
                return report
        finally:
            self.app.registry.unwatch(watcher)

    async def state(self, config: SessionConfig, state: SessionState, timeout: float = 25) -> SessionReport:
        return await self.until(config, lambda report: report.state is state, timeout)

    def of(self, config: SessionConfig, kind: str) -> list[EventRecord]:
        return [r for r in self.records if r.key == config.key and r.kind == kind]

    def facts(self, config: SessionConfig) -> list[str]:
        """Types of the session's events, in order; asserts that they are gapless and that the last is `ended`
        where the session is over."""
        for kind in ("event", "journal"):
            sequences = [r.sequence for r in self.of(config, kind)]
            assert sequences == list(range(1, len(sequences) + 1))
        return [r.type for r in self.of(config, "event")]

    async def nothing_left(self) -> None:
        """No session, leg or playout is left in the worker."""
        assert await self.app.registry.wait_empty(25)
        assert not self.app.registry._runners
        assert not self.app.registry._by_ticket
        assert not self.app.registry._by_resume


class Keeping:
    """Keeps every record, in place of NATS."""

    def __init__(self, records: list[EventRecord]) -> None:
        self._records = records

    def publish(self, record: EventRecord) -> None:
        self._records.append(record)

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self, timeout: float) -> None:
        """Nothing is buffered."""


@asynccontextmanager
async def worker(
    runner: RunnerSettings | None = None,
    options: Sequence[tuple[str, int]] = (),
    leg: LegBounds | None = None,
    waits: Mapping[str, float] | None = None,
    **changes: Any,
) -> AsyncIterator[Worker]:
    """A worker on loopback with port 0 everywhere. `options` are gRPC options that win over its own."""
    local = Address("127.0.0.1", 0)
    settings = Settings(media_address=local, control_address=local, admin_address=local, **changes)
    records: list[EventRecord] = []

    def given(**deps: Any) -> RunnerDeps:
        return RunnerDeps(**{**deps, **({"settings": runner} if runner is not None else {})})

    media = partial(MediaSettings, leg=leg or LegBounds(), **dict(waits or {}))
    server_options = tuple({**dict(grpc_base.OPTIONS), **dict(options)}.items())
    with (
        mock.patch("parley_worker.app._bus", return_value=Keeping(records)),
        mock.patch("parley_worker.app.RunnerDeps", given),
        mock.patch("parley_worker.transport.media_server.MediaSettings", media),
        mock.patch("parley_worker.transport.grpc_base.OPTIONS", server_options),
    ):
        app = WorkerApp(settings)
        async with app:
            yield Worker(app, records)


class Caller:
    """One stream, read in the background. Responses are kept by kind."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.messages: list[pb.ConverseResponse] = []
        self.status: grpc.aio.AioRpcError | None = None
        self.done = asyncio.Event()
        self._news = asyncio.Condition()
        self._sequence = 0
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while (message := await self.stream.read()) is not grpc.aio.EOF:
                async with self._news:
                    self.messages.append(message)
                    self._news.notify_all()
        except grpc.aio.AioRpcError as exc:
            self.status = exc
        except asyncio.CancelledError:
            if not self.stream.cancelled():
                raise
        finally:
            self.done.set()
            async with self._news:
                self._news.notify_all()

    def of(self, kind: str) -> list[Any]:
        return [getattr(m, kind) for m in self.messages if m.WhichOneof("message") == kind]

    async def expect(self, kind: str, count: int = 1, timeout: float = 25) -> Any:
        """The `count`-th response of that kind, waiting for it."""
        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: len(self.of(kind)) >= count or self.done.is_set())
        found = self.of(kind)
        assert len(found) >= count, f"no {kind} came; status {self.status}"
        return found[count - 1]

    async def expect_event(self, type_: str, timeout: float = 25) -> Any:
        """The first conversation event of that type."""

        def found() -> list[Any]:
            return [e for e in self.of("event") if e.type == type_]

        async with asyncio.timeout(timeout), self._news:
            await self._news.wait_for(lambda: bool(found()) or self.done.is_set())
        return found()[0]

    async def ended(self, timeout: float = 25) -> grpc.aio.AioRpcError | None:
        """Wait for the end of the stream; its error, or None for OK."""
        async with asyncio.timeout(timeout):
            await self.done.wait()
        return self.status

    async def send(self, **fields: Any) -> None:
        await self.stream.write(pb.ConverseRequest(**fields))

    async def speak(self, payload: bytes, sequence: int | None = None) -> None:
        self._sequence = self._sequence + 1 if sequence is None else sequence
        await self.send(audio=pb.AudioFrame(payload=payload, sequence=self._sequence))

    def audio(self) -> bytes:
        return b"".join(frame.payload for frame in self.of("audio"))

    async def close(self) -> None:
        self.stream.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)


def trailer(error: grpc.aio.AioRpcError | None, key: str = "parley-reason") -> str:
    assert error is not None
    return str(dict(error.trailing_metadata()).get(key, ""))


def start(config: SessionConfig | None = None, **fields: Any) -> pb.Start:
    """A Start with the session's ticket and PCM16 at 24 kHz both ways."""
    fields.setdefault("input_format", PCM24)
    fields.setdefault("output_format", PCM24)
    if config is not None and not {"ticket", "resume_token"} & set(fields):
        fields["ticket"] = f"ticket-{config.key.uid}"
    return pb.Start(**fields)


@asynccontextmanager
async def calling(target: Worker | str, first: pb.Start | pb.ConverseRequest | None) -> AsyncIterator[Caller]:
    """A stream to the worker that begins with `first`; of the kind that `over` says."""
    address = target if isinstance(target, str) else target.app.media_address
    async with _stream(address) as stream:
        caller = Caller(stream)
        if isinstance(first, pb.Start):
            await caller.send(start=first)
        elif first is not None:
            await caller.stream.write(first)
        try:
            yield caller
        finally:
            await caller.close()


RPCS = ("Converse", "ConverseMany")
_rpc = RPCS[0]


@contextmanager
def over(rpc: str) -> Iterator[None]:
    """Within, `calling` uses that RPC, with one leg on each stream."""
    with mock.patch(f"{__name__}._rpc", rpc):
        yield


@asynccontextmanager
async def _stream(address: str) -> AsyncIterator[Any]:
    if _rpc == "ConverseMany":
        async with gateway(address, alone=True) as side:
            yield side.leg(1)
        return
    async with grpc.aio.insecure_channel(address) as channel:
        yield media_pb2_grpc.MediaServiceStub(channel).Converse()
