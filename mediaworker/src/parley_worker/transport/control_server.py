"""`WorkerControlService`: the operator's side door, behind mutual TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import grpc
from grpc import aio
from parley.control.v1 import control_pb2 as pb
from parley.control.v1 import control_pb2_grpc

from parley_worker.codec import command_pb, control_pb
from parley_worker.codec.events_pb import timestamp
from parley_worker.core.admission import ENDED_COUNT, Admission, Fence, Place, Refusal, RefusalReason
from parley_worker.core.events import CommandReceived, ConfigChanged, MovedAway
from parley_worker.core.lost import LostSession
from parley_worker.core.model import EndReason, LimitsConfig, SessionConfig, SessionKey, SessionReport
from parley_worker.core.saved import HandOver
from parley_worker.telemetry.process_metrics import ProcessMetrics

MAX_PATIENCE = 300.0
# Admits in one request, and reports in one message of a watch.
MAX_TOGETHER = 64

SERVICE = pb.DESCRIPTOR.services_by_name["WorkerControlService"].full_name


class WatcherPort(Protocol):
    """One watch in progress."""

    @property
    def overflowed(self) -> bool: ...

    async def next(self, timeout: float, most: int = 1) -> Sequence[SessionReport]: ...


class ShardsPort(Protocol):
    def shard_of(self, uid: str) -> int: ...

    def endpoint(self, shard: int) -> control_pb.Endpoint: ...


class WatchedPort(Protocol):
    """What both kinds of control service need of the sessions."""

    @property
    def admission(self) -> Admission: ...

    @property
    def shards(self) -> ShardsPort: ...

    def check(self, fence: Fence, *, instance_optional: bool = False) -> Refusal | None: ...

    def check_attempt(self, key: SessionKey) -> Refusal | None: ...

    def reports(self) -> list[SessionReport]: ...

    def watch(self) -> Any: ...

    def unwatch(self, watcher: Any) -> None: ...


class RegistryPort(WatchedPort, Protocol):
    """Sessions of this very process."""

    def admit(self, config: SessionConfig, fence: Fence) -> Place | Refusal: ...

    def terminate(self, key: SessionKey, reason: EndReason, message: str) -> bool: ...

    def command(self, key: SessionKey, instruction: CommandReceived | ConfigChanged) -> bool: ...

    async def migrate(self, key: SessionKey, patience: float) -> HandOver | str | None: ...

    def moved(self, key: SessionKey, to: MovedAway) -> bool: ...

    def reports(self) -> list[SessionReport]: ...


class DrainPort(Protocol):
    @property
    def deadline_unix(self) -> float | None: ...

    def begin(self, timeout: float, *, exactly: bool = False) -> float: ...


class SinkPort(Protocol):
    @property
    def degraded(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this worker is; `started` in Unix seconds."""

    name: str
    pod_uid: str
    version: str
    instance: str
    revision: str = ""
    started: float | None = None


class OnlyOperator(aio.ServerInterceptor):
    """Turns away clients whose certificate does not carry the operator's name.

    That the certificate was signed by the control CA is the handshake's work.
    """

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        if handler.request_streaming:
            return _wrap(grpc.stream_stream_rpc_method_handler, handler, handler.stream_stream, self._guard)
        if handler.response_streaming:
            return _wrap(grpc.unary_stream_rpc_method_handler, handler, handler.unary_stream, self._guard)
        return _wrap_unary(handler, self._guard)

    async def _guard(self, context: Any) -> None:
        auth = context.auth_context()
        names = [*auth.get("x509_common_name", ()), *auth.get("x509_subject_alternative_name", ())]
        if self._name not in names:
            shown = ", ".join(name.decode(errors="replace") for name in names) or "nobody"
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                f"the client's certificate names {shown}; only {self._name.decode()} may call",
            )


def _wrap(make: Any, handler: Any, behavior: Any, guard: Any) -> Any:
    async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
        await guard(context)
        async for response in behavior(request, context):
            yield response

    return make(guarded, handler.request_deserializer, handler.response_serializer)


def _wrap_unary(handler: Any, guard: Any) -> Any:
    async def guarded(request: Any, context: Any) -> Any:
        await guard(context)
        return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(
        guarded, handler.request_deserializer, handler.response_serializer
    )


class ControlBase(control_pb2_grpc.WorkerControlServiceServicer):
    """What does not depend on where sessions run: the checks of every call, Drain and Watch.

    Admit answers a wrong request with `Refused`, the other calls with INVALID_ARGUMENT; a stale sender gets
    FAILED_PRECONDITION.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        registry: WatchedPort,
        drain: DrainPort,
        sink: SinkPort,
        metrics: ProcessMetrics,
        limits: LimitsConfig,
        heartbeat: float = 2.0,
        memory: Callable[[], int] = lambda: 0,
    ) -> None:
        self._identity = identity
        self._watched, self._drain, self._sink = registry, drain, sink
        self._metrics, self._limits = metrics, limits
        self._heartbeat = heartbeat
        self._moved_on: dict[tuple[str, int], None] = {}
        self._memory = memory

    async def _place(
        self, request: pb.AdmitRequest, config: SessionConfig, fence: Fence
    ) -> pb.Admitted | Refusal:
        """Take the session or say why not; whoever refuses counts the refusal."""
        raise NotImplementedError

    async def Admit(self, request: pb.AdmitRequest, context: Any) -> pb.AdmitResponse:
        return await self._admit(request)

    async def AdmitMany(self, request: pb.AdmitManyRequest, context: Any) -> pb.AdmitManyResponse:
        if not 1 <= len(request.admits) <= MAX_TOGETHER:
            text = f"admits has {len(request.admits)} entries: give 1 to {MAX_TOGETHER}"
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, text)
        answers = await asyncio.gather(*map(self._admit, request.admits))
        return pb.AdmitManyResponse(answers=answers)

    async def _admit(self, request: pb.AdmitRequest) -> pb.AdmitResponse:
        fence = control_pb.fence(request.fence)
        stale = self._watched.check(fence)
        verdict: pb.Admitted | Refusal
        try:
            config = control_pb.session_config(request, self._limits)
        except control_pb.InvalidRequest as error:
            verdict = stale or Refusal(RefusalReason.INVALID, str(error))
            self._metrics.refused(verdict.reason)
        else:
            verdict = await self._place(request, config, fence)
        answer = pb.AdmitResponse(worker_instance_id=self._identity.instance)
        if isinstance(verdict, Refusal):
            answer.refused.CopyFrom(control_pb.refused(verdict))
        else:
            answer.admitted.CopyFrom(verdict)
        return answer

    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainResponse:
        await self._fence(request.fence, context)
        timeout = control_pb.seconds(request.timeout)
        if not 0 <= timeout <= control_pb.MAX_SECONDS:
            await abort(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                f"timeout is {timeout:g} s: give 0 to {control_pb.MAX_SECONDS:g} seconds",
            )
        deadline = self._drain.begin(timeout, exactly=request.exactly)
        return pb.DrainResponse(
            worker_instance_id=self._identity.instance,
            sessions=self._watched.admission.sessions,
            deadline_time=timestamp(deadline),
        )

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:
        await self._fence(request.fence, context, instance_optional=True)
        watcher = self._watched.watch()
        try:
            yield self._message(1, snapshot=self._snapshot())
            sequence = 1
            most = MAX_TOGETHER if request.together else 1
            while not watcher.overflowed:
                changes = await watcher.next(self._heartbeat, most)
                sequence += 1
                if not changes:
                    yield self._message(sequence, worker=self._worker())
                elif len(changes) == 1:
                    yield self._message(sequence, session=self._session(changes[0]))
                else:
                    reports = pb.SessionReports(reports=map(self._session, changes))
                    yield self._message(sequence, sessions=reports)
            await abort(
                context,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "the watcher is too slow: watch again from a snapshot",
            )
        finally:
            self._watched.unwatch(watcher)

    def _message(self, sequence: int, **report: Any) -> pb.WatchResponse:
        return pb.WatchResponse(worker_instance_id=self._identity.instance, sequence=sequence, **report)

    def _snapshot(self) -> pb.Snapshot:
        return pb.Snapshot(
            worker=self._worker(), sessions=[self._session(report) for report in self._watched.reports()]
        )

    def _session(self, report: SessionReport) -> pb.SessionReport:
        endpoint = self._watched.shards.endpoint(report.shard)
        return control_pb.session_report(report, endpoint, self._sink.degraded)

    def _worker(self) -> pb.WorkerReport:
        admission = self._watched.admission
        return control_pb.worker_report(
            name=self._identity.name,
            pod_uid=self._identity.pod_uid,
            version=self._identity.version,
            state=admission.state,
            capacity=admission.capacity,
            sessions=admission.sessions,
            journal_degraded=self._sink.degraded,
            telephony=self._watched.shards.endpoint(0).telephony,
            revision=self._identity.revision,
            started=self._identity.started,
            sessions_total=admission.total,
            memory=self._memory(),
            drain_deadline=self._drain.deadline_unix,
        )

    async def _ending(self, request: pb.TerminateRequest, context: Any) -> tuple[SessionKey, EndReason]:
        """What a Terminate asks for, after every check."""
        key = await self._key(request, context)
        try:
            return key, control_pb.end_reason(request.reason)
        except control_pb.InvalidRequest as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _last_words(self, request: pb.RecordEndRequest, context: Any) -> LostSession:
        """Which session is over and how, after every check."""
        await self._key(request, context)
        try:
            return control_pb.last_word(request)
        except control_pb.InvalidRequest as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _instruction(
        self, request: pb.CommandRequest, context: Any
    ) -> tuple[SessionKey, CommandReceived | ConfigChanged]:
        """What a Command asks for, after every check."""
        key = await self._key(request, context)
        try:
            return key, command_pb.instruction(request, self._limits)
        except control_pb.InvalidRequest as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def _moving(self, request: pb.MigrateRequest, context: Any) -> tuple[SessionKey, float]:
        """Which session is to hold still and for how many seconds a moment is waited for, after every
        check."""
        key = await self._key(request, context)
        patience = control_pb.seconds(request.patience)
        if not 0 <= patience <= MAX_PATIENCE:
            text = f"patience is {patience:g} s: give 0 to {MAX_PATIENCE:g} seconds"
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, text)
        return key, patience

    async def _moved(self, request: pb.MovedRequest, context: Any) -> tuple[SessionKey, MovedAway]:
        """Which session has moved and where to, after every check."""
        key = await self._key(request, context)
        try:
            return key, control_pb.moved(request)
        except control_pb.InvalidRequest as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _told(self, key: SessionKey, found: bool) -> pb.MovedResponse:
        """Answers a Moved; one that is repeated, because its answer was lost, is answered the same."""
        place = (key.uid, key.attempt)
        if found:
            self._moved_on[place] = None
            while len(self._moved_on) > ENDED_COUNT:
                del self._moved_on[next(iter(self._moved_on))]
        return pb.MovedResponse(
            worker_instance_id=self._identity.instance, found=found or place in self._moved_on
        )

    async def _fence(self, fence: pb.Fence, context: Any, *, instance_optional: bool = False) -> None:
        refusal = self._watched.check(control_pb.fence(fence), instance_optional=instance_optional)
        if refusal:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"{refusal.reason}: {refusal.message}")

    async def _key(self, request: Any, context: Any) -> SessionKey:
        await self._fence(request.fence, context)
        try:
            key = control_pb.session_key(request.session)
        except control_pb.InvalidRequest as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        refusal = self._watched.check_attempt(key)
        if refusal:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, f"{refusal.reason}: {refusal.message}")
        return key


class ControlService(ControlBase):
    """Turns requests into calls of the registry of this process."""

    def __init__(self, *, registry: RegistryPort, **others: Any) -> None:
        super().__init__(registry=registry, **others)
        self._registry = registry

    async def _place(
        self, request: pb.AdmitRequest, config: SessionConfig, fence: Fence
    ) -> pb.Admitted | Refusal:
        verdict = self._registry.admit(config, fence)
        if isinstance(verdict, Refusal):
            return verdict
        shard = self._registry.shards.shard_of(config.key.uid)
        endpoint = self._registry.shards.endpoint(shard)
        return pb.Admitted(
            shard=shard,
            endpoint=endpoint.address,
            tls_server_name=endpoint.tls_server_name,
            telephony_endpoint=endpoint.telephony,
        )

    async def RecordEnd(self, request: pb.RecordEndRequest, context: Any) -> pb.RecordEndResponse:
        """A worker of one process is lost with its sessions: it has no second writer beside them."""
        await self._last_words(request, context)
        return pb.RecordEndResponse(worker_instance_id=self._identity.instance, taken=False)

    async def Terminate(self, request: pb.TerminateRequest, context: Any) -> pb.TerminateResponse:
        key, reason = await self._ending(request, context)
        found = self._registry.terminate(key, reason, request.message)
        return pb.TerminateResponse(worker_instance_id=self._identity.instance, found=found)

    async def Command(self, request: pb.CommandRequest, context: Any) -> pb.CommandResponse:
        key, instruction = await self._instruction(request, context)
        found = self._registry.command(key, instruction)
        return pb.CommandResponse(worker_instance_id=self._identity.instance, found=found)

    async def Migrate(self, request: pb.MigrateRequest, context: Any) -> pb.MigrateResponse:
        key, patience = await self._moving(request, context)
        given = await self._registry.migrate(key, patience)
        answer = pb.MigrateResponse(worker_instance_id=self._identity.instance, found=given is not None)
        if isinstance(given, HandOver):
            report = next(r for r in self._registry.reports() if r.key == key)
            answer.ready = True
            answer.hand_over.state_json = given.write()
            answer.journal.CopyFrom(control_pb.journal_position(report.journal_last))
        elif given is not None:
            answer.message = given
        return answer

    async def Moved(self, request: pb.MovedRequest, context: Any) -> pb.MovedResponse:
        key, to = await self._moved(request, context)
        return self._told(key, self._registry.moved(key, to))


async def abort(context: Any, code: grpc.StatusCode, message: str) -> NoReturn:
    await context.abort(code, message)
    raise AssertionError("abort returned")
