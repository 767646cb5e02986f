"""SessionService on grpc.aio, with health and reflection: every replica serves it, the leading one
answers."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any, NoReturn, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from parley.sessions.v1 import sessions_pb2 as pb
from parley.sessions.v1 import sessions_pb2_grpc

from parley_operator.domain.faults import Fault, FaultCode
from parley_operator.domain.requests import Caller, check_labels, check_namespace
from parley_operator.handlers.access import Gate
from parley_operator.handlers.session_desk import SessionDesk
from parley_operator.handlers.session_finding import SessionFinder
from parley_operator.handlers.session_views import SessionViews
from parley_operator.ports import Leadership

from . import session_codec as codec

log = logging.getLogger(__name__)
T = TypeVar("T")

SERVICE = pb.DESCRIPTOR.services_by_name["SessionService"].full_name
# A waiting call answers this much before its deadline.
MARGIN = 0.25
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.max_concurrent_streams", 4096),
    ("grpc.max_metadata_size", 32 << 10),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
]


@dataclass(frozen=True, slots=True)
class Desks:
    """What a leading replica answers with."""

    gate: Gate
    desk: SessionDesk
    views: SessionViews
    finder: SessionFinder


class SessionServer(sessions_pb2_grpc.SessionServiceServicer):
    """`serve` once; `lead` and `step_down` as the leadership comes and goes."""

    def __init__(self, leadership: Leadership, count: Callable[[str, str], None]) -> None:
        self._leadership = leadership
        self._count = count
        self._desks: Desks | None = None
        self._server: aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self.port = 0

    async def serve(self, address: str, credentials: grpc.ServerCredentials | None) -> None:
        """Listen; `port` is known then. Plain text only on loopback. Raises `OSError` or `ValueError`."""
        if credentials is None and not _loopback(address.rpartition(":")[0]):
            raise ValueError(f"{address}: the session service speaks plain text on loopback only")
        server = aio.server(options=OPTIONS)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            if credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is it in use?") from error
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
        await server.start()
        self._server, self.port = server, int(port)

    async def close(self, grace: float = 1.0) -> None:
        self._desks = None
        if self._server is not None:
            await self._server.stop(grace)

    async def lead(self, desks: Desks) -> None:
        """Answer from now on."""
        self._desks = desks
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)

    async def step_down(self) -> None:
        """Answer no more. Those who wait are told by the notices of the desks."""
        self._desks = None
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)

    # -- SessionService

    async def CreateSession(self, request: pb.CreateSessionRequest, context: Any) -> pb.CreateSessionResponse:
        """See sessions.proto."""

        async def work(desks: Desks) -> pb.CreateSessionResponse:
            wanted = codec.create_request(request)
            caller = await self._caller(desks, context)
            wanted = replace(wanted, wait=_within(context, wanted.wait))
            return codec.created(await desks.desk.create(caller, wanted))

        return await self._answer("CreateSession", context, work)

    async def GetSession(self, request: pb.GetSessionRequest, context: Any) -> pb.GetSessionResponse:
        """See sessions.proto."""

        async def work(desks: Desks) -> pb.GetSessionResponse:
            namespace, name = codec.named(request.namespace, request.name)
            body = await desks.views.get(await self._caller(desks, context), namespace, name)
            return pb.GetSessionResponse(session=codec.session(body))

        return await self._answer("GetSession", context, work)

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Any) -> pb.ListSessionsResponse:
        """See sessions.proto."""

        async def work(desks: Desks) -> pb.ListSessionsResponse:
            check_namespace(request.namespace, may_be_empty=True)
            labels = dict(request.labels)
            check_labels(labels, own=False)
            found, more = await desks.views.list(
                await self._caller(desks, context),
                request.namespace,
                size=request.page_size,
                token=request.page_token,
                labels=labels,
                phases=codec.phases(request),
            )
            return pb.ListSessionsResponse(sessions=map(codec.session, found), next_page_token=more)

        return await self._answer("ListSessions", context, work)

    async def EndSession(self, request: pb.EndSessionRequest, context: Any) -> pb.EndSessionResponse:
        """See sessions.proto."""

        async def work(desks: Desks) -> pb.EndSessionResponse:
            namespace, name = codec.named(request.namespace, request.name)
            caller = await self._caller(desks, context)
            return pb.EndSessionResponse(found=await desks.desk.end(caller, namespace, name, request.uid))

        return await self._answer("EndSession", context, work)

    async def WatchSessions(
        self, request: pb.WatchSessionsRequest, context: Any
    ) -> AsyncIterator[pb.WatchSessionsResponse]:
        """See sessions.proto."""
        try:
            desks = self._leading()
            entries = desks.views.watch(lambda: self._caller(desks, context), codec.watcher(request))
            self._count("WatchSessions", "OK")
            async with aclosing(entries):
                async for entry in entries:
                    yield codec.entry(entry)
        except Fault as fault:
            await self._refuse("WatchSessions", context, fault)

    async def ResolveSession(
        self, request: pb.ResolveSessionRequest, context: Any
    ) -> pb.ResolveSessionResponse:
        """See sessions.proto."""

        async def work(desks: Desks) -> pb.ResolveSessionResponse:
            wait = _within(context, codec.seconds(request.wait))
            uid, after = request.session_uid, request.after_attempt
            if request.ticket:
                found = await desks.finder.by_ticket(
                    uid, request.ticket, _peer(context), after=after, wait=wait
                )
            else:
                caller = await self._caller(desks, context)
                found = await desks.finder.by_token(uid, caller, after=after, wait=wait)
            return codec.resolved(*found)

        return await self._answer("ResolveSession", context, work)

    # -- what all of them do

    async def _answer(self, method: str, context: Any, work: Callable[[Desks], Awaitable[T]]) -> T:
        try:
            answer = await work(self._leading())
        except Fault as fault:
            await self._refuse(method, context, fault)
        except Exception:
            log.exception("%s: unexpected", method)
            words = "something unexpected happened in the operator; its log says what"
            await self._refuse(method, context, Fault(FaultCode.INTERNAL, "internal", words))
        self._count(method, "OK")
        return answer

    async def _refuse(self, method: str, context: Any, fault: Fault) -> NoReturn:
        code, words, metadata = codec.status_details(fault)
        self._count(method, code.name)
        await context.abort(code, words, metadata)
        raise AssertionError("abort raises")

    def _leading(self) -> Desks:
        desks = self._desks
        if desks is not None and self._leadership.leading:
            return desks
        holder, address = self._leadership.holder, self._leadership.address
        where = (
            f"; {holder or 'another one'} does{f', at {address}' if address else ''}"
            if holder or address
            else ""
        )
        raise Fault(
            FaultCode.UNAVAILABLE, "not-leading", f"this replica does not lead{where}; try again there"
        )

    async def _caller(self, desks: Desks, context: Any) -> Caller:
        token = ""
        for key, value in context.invocation_metadata() or ():
            if key == "authorization" and isinstance(value, str):
                scheme, _, rest = value.partition(" ")
                token = rest.strip() if scheme.lower() == "bearer" else ""
        return await desks.gate.caller(token, _peer(context))


def _within(context: Any, wait: float) -> float:
    """The wait, cut so that the answer leaves before the call's deadline."""
    left = context.time_remaining()
    return wait if left is None else max(0.0, min(wait, left - MARGIN))


def _peer(context: Any) -> str:
    """The caller's address without its port."""
    peer = str(context.peer())
    return peer.rpartition(":")[0] or peer


def _loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


__all__ = ["SERVICE", "Desks", "SessionServer"]
