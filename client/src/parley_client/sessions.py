"""Sessions made, seen and ended through Parley's session service, without access to the cluster's API.

async with SessionsClient("parley-sessions.parley.svc:8443", token=token, ca_pem=ca) as sessions:
    made = await sessions.create("phones", {"agentRef": {"name": "receptionist"}})
    async with connect(made.target()) as call:
        ...
"""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from parley.sessions.v1 import sessions_pb2 as pb
from parley.sessions.v1 import sessions_pb2_grpc

from .backoff import Backoff
from .errors import (
    ConnectError,
    InvalidRequest,
    ParleyError,
    ServiceError,
    SessionNotFound,
    SessionNotReady,
    TlsError,
    UsageError,
)
from .leg import is_tls_trouble
from .resolving import Endpoint
from .target import Target, is_loopback

REASON_KEY: Final = "parley-reason"
FIELD_KEY: Final = "parley-field"
PHASES: Final = {
    number: name.removeprefix("PHASE_").title() if number else "" for name, number in pb.Phase.items()
}
_NUMBERS: Final = {word: number for number, word in PHASES.items() if word}
# Beyond the wait for the session, for the way there and back.
MARGIN: Final = 10.0
_OPTIONS: Final = (
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 8 * 1024 * 1024),
)
TokenSource = Callable[[], str]


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session as the service tells of it; empty strings where it says nothing yet.

    Attributes:
        phase: Pending, Ready, Active, Recovering, Completed, Failed or Cancelled.
        position: its place in the queue, 1 is next; 0 while that is not known, or it does not wait.
        message: what is wrong or waited for.
        created, started, ended: unix seconds, 0 when not yet.
    """

    namespace: str
    name: str
    uid: str
    phase: str
    worker: str = ""
    endpoint: str = ""
    tls_server_name: str = ""
    telephony_endpoint: str = ""
    attempt: int = 0
    position: int = 0
    end_reason: str = ""
    message: str = ""
    created: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreatedSession:
    """What `create` gives.

    Attributes:
        session: as it is.
        endpoint: where to attach; None while it has no place.
        ticket: to attach with; never printed.
        ca_pem: CA of the worker's certificate; empty without TLS.
        repeated: the session was there already, made by the same request.
    """

    session: SessionView
    endpoint: Endpoint | None = None
    ticket: str = field(default="", repr=False)
    ca_pem: str = field(default="", repr=False)
    repeated: bool = False

    def target(self, *, insecure: bool = False) -> Target:
        """Return what `connect` needs.

        Raises:
            SessionNotReady: the session has no place yet, or is over; the message says why.
        """
        seen = self.session
        if self.endpoint is None:
            where = f"VoiceSession {seen.namespace}/{seen.name}"
            words = f"{where} is {seen.phase}" + (f", {seen.end_reason}" if seen.end_reason else "")
            if seen.position:
                words += f", number {seen.position} in the queue"
            raise SessionNotReady(f"{words}: {seen.message}" if seen.message else words, phase=seen.phase)
        return Target(
            address=self.endpoint.address,
            ticket=self.ticket,
            tls=bool(self.endpoint.tls_server_name or self.ca_pem),
            tls_server_name=self.endpoint.tls_server_name,
            ca_pem=self.ca_pem,
            namespace=seen.namespace,
            session=seen.name,
            session_uid=seen.uid,
            worker=seen.worker,
            insecure=insecure,
        )


@dataclass(frozen=True, slots=True)
class SessionChange:
    """Of a watch: a session as it is, or as it was last when `gone`; None marks the end of the snapshot."""

    session: SessionView | None
    gone: bool = False


class _Line:
    """A channel that is closed when nobody speaks on it and it was given up."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub: Any = sessions_pb2_grpc.SessionServiceStub(channel)
        self.users = 0
        self.given_up = False

    async def leave(self) -> None:
        self.users -= 1
        if self.given_up and not self.users:
            await self.channel.close()


class SessionsClient:
    """Speaks to the session service. Use as an async context manager.

    Calls are repeated while the service cannot be reached or its leader changes, until their time is over:
    every create carries a `request_id`, so that a repetition never makes a second session.

    Args:
        address: `host:port`.
        token: a Kubernetes token, or a function that gives the one of the moment. Not needed to resolve by
        ticket.
        token_file: a file to read it from before each call, such as that of a service account.
        ca_pem: certificates to trust; empty for the system's.
        tls_server_name: name to verify; empty for the address's host.
        insecure: True to speak plain text outside loopback.
        timeout: seconds for a call, beside what it waits for.

    Raises:
        UsageError: the address is no `host:port`, or plain text is asked for outside loopback.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | TokenSource = "",
        token_file: Path | str | None = None,
        ca_pem: str = "",
        tls_server_name: str = "",
        insecure: bool = False,
        timeout: float = MARGIN,
    ) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise UsageError(f"address {address!r}: give host:port, such as parley-sessions.parley.svc:8443")
        self._address = address
        self._tls = bool(ca_pem or tls_server_name) or not (insecure or is_loopback(host))
        self._ca = ca_pem
        self._name = tls_server_name
        self._token = _source(token, token_file)
        self._timeout = timeout
        self._backoff = Backoff()
        self._line: _Line | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End what is under way."""
        line, self._line = self._line, None
        if line is not None:
            await line.channel.close()

    # -- calls

    async def create(
        self,
        namespace: str,
        spec: Mapping[str, Any],
        *,
        name: str = "",
        request_id: str = "",
        labels: Mapping[str, str] | None = None,
        wait: float = 10.0,
        ready: bool = False,
    ) -> CreatedSession:
        """Make a session and wait until it has a place.

        Args:
            namespace: of the VoiceSession.
            spec: of the VoiceSession.
            name: of the VoiceSession; one is made when empty.
            request_id: the same one gives the same session again; a new one is made when empty.
            labels: of the VoiceSession.
            wait: seconds to wait at most, 0 to 60.
            ready: wait for the provider too.

        Raises:
            InvalidRequest: the spec or an argument cannot be used; `field` names which.
            ServiceError: the service refuses: no right to do this, a quota, too much at once.
            ConnectError: the service cannot be reached.
        """
        request = pb.CreateSessionRequest(
            namespace=namespace,
            name=name,
            request_id=request_id or str(uuid.uuid4()),
            spec_json=json.dumps(spec),
            labels=dict(labels or {}),
            wait=_duration(wait),
            wait_for=pb.WAIT_FOR_READY if ready else pb.WAIT_FOR_PLACE,
        )
        answer = await self._call("CreateSession", request, wait)
        where = endpoint_of(answer.connection) if answer.HasField("connection") else None
        return CreatedSession(
            session_view(answer.session), where, answer.ticket, answer.connection.ca_pem, answer.repeated
        )

    async def get(self, namespace: str, name: str) -> SessionView:
        """Read one session.

        Raises:
            SessionNotFound: there is none.
            ServiceError, ConnectError: as `create`.
        """
        answer = await self._call("GetSession", pb.GetSessionRequest(namespace=namespace, name=name))
        return session_view(answer.session)

    async def list(
        self,
        namespace: str = "",
        *,
        labels: Mapping[str, str] | None = None,
        phases: Sequence[str] = (),
        page_size: int = 500,
    ) -> AsyncIterator[SessionView]:
        """Read all sessions of a namespace, or of all, page by page. Raises as `create`."""
        unknown = [word for word in phases if word not in _NUMBERS]
        if unknown:
            raise UsageError(f"phase {unknown[0]!r}: use {', '.join(_NUMBERS)}")
        request = pb.ListSessionsRequest(
            namespace=namespace,
            page_size=page_size,
            labels=dict(labels or {}),
            phases=[_NUMBERS[word] for word in phases],
        )
        while True:
            answer = await self._call("ListSessions", request)
            for message in answer.sessions:
                yield session_view(message)
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def end(self, namespace: str, name: str, uid: str = "") -> bool:
        """End a session; return False when there is none, or another one than `uid`. Raises as `create`."""
        request = pb.EndSessionRequest(namespace=namespace, name=name, uid=uid)
        return bool((await self._call("EndSession", request)).found)

    async def watch(
        self, namespace: str = "", *, name: str = "", labels: Mapping[str, str] | None = None
    ) -> AsyncIterator[SessionChange]:
        """Give the sessions that are there, a change without a session, then every change, without end.

        When the service is lost the watch begins anew: what is there comes again, and a deletion meanwhile is
        told by absence from what comes before the next change without a session.

        Raises:
            ServiceError: the service refuses.
            ConnectError: it cannot be reached within `timeout` seconds.
        """
        request = pb.WatchSessionsRequest(namespace=namespace, name=name, labels=dict(labels or {}))
        loop = asyncio.get_running_loop()
        deadline, attempt = loop.time() + self._timeout, 0
        while True:
            try:
                async with aclosing(self._watch_once(request)) as changes:
                    async for change in changes:
                        deadline, attempt = loop.time() + self._timeout, 0
                        yield change
                        deadline = loop.time() + self._timeout
            except _Again as again:
                attempt += 1
                await self._pause(again, attempt, deadline)

    async def _watch_once(self, request: pb.WatchSessionsRequest) -> AsyncGenerator[SessionChange, None]:
        line = self._current()
        line.users += 1
        try:
            async for message in line.stub.WatchSessions(request, metadata=self._metadata()):
                kind = message.WhichOneof("entry")
                if kind == "synced":
                    yield SessionChange(None)
                elif kind in ("session", "deleted"):
                    yield SessionChange(session_view(getattr(message, kind)), kind == "deleted")
        except grpc.aio.AioRpcError as error:
            raise self._judge(error, line) from error
        finally:
            await line.leave()
        raise _Again(ConnectError(f"{self._address} ended the watch"))

    async def resolve(self, uid: str, ticket: str, *, after_attempt: int = 0, wait: float = 0.0) -> Endpoint:
        """Tell where a session is, by its ticket; this client is a `Resolver`.

        Without a ticket the Kubernetes token decides.

        Raises:
            SessionNotFound: there is no such session, or the ticket is not its own.
            SessionNotReady: it is over, or has no place yet.
            ServiceError: asked too often.
            ConnectError: the service cannot be reached.
        """
        request = pb.ResolveSessionRequest(
            session_uid=uid, ticket=ticket, after_attempt=after_attempt, wait=_duration(wait)
        )
        answer = await self._call("ResolveSession", request, wait, with_token=not ticket)
        if not answer.HasField("connection"):
            phase = PHASES.get(answer.phase, "")
            raise SessionNotReady(f"session {uid} is over: {phase}, {answer.end_reason}", phase=phase)
        return endpoint_of(answer.connection)

    # -- how

    async def _call(self, method: str, request: Any, wait: float = 0.0, *, with_token: bool = True) -> Any:
        loop = asyncio.get_running_loop()
        deadline, attempt = loop.time() + wait + self._timeout, 0
        while True:
            line = self._current()
            line.users += 1
            try:
                left = max(0.05, deadline - loop.time())
                return await getattr(line.stub, method)(
                    request, timeout=left, metadata=self._metadata() if with_token else None
                )
            except grpc.aio.AioRpcError as error:
                judged = self._judge(error, line)
                if not isinstance(judged, _Again):
                    raise judged from error
            finally:
                await line.leave()
            attempt += 1
            await self._pause(judged, attempt, deadline)

    async def _pause(self, again: _Again, attempt: int, deadline: float) -> None:
        delay = self._backoff.delay(attempt, random.random)
        if asyncio.get_running_loop().time() + delay >= deadline:
            raise again.error
        await asyncio.sleep(delay)

    def _current(self) -> _Line:
        if self._line is None:
            options: list[tuple[str, str | int]] = list(_OPTIONS)
            if not self._tls:
                self._line = _Line(grpc.aio.insecure_channel(self._address, options=options))
            else:
                if self._name:
                    options.append(("grpc.ssl_target_name_override", self._name))
                trusted = grpc.ssl_channel_credentials(self._ca.encode() if self._ca else None)
                self._line = _Line(grpc.aio.secure_channel(self._address, trusted, options=options))
        return self._line

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._token()
        return (("authorization", f"Bearer {token}"),) if token else ()

    def _judge(self, error: grpc.aio.AioRpcError, line: _Line) -> ParleyError | _Again:
        """What to raise, or that it is worth another try, on another connection where that may help."""
        code, words = error.code(), error.details() or "no details given"
        found = {str(key): str(value) for key, value in error.trailing_metadata() or ()}
        reason, at = found.get(REASON_KEY, ""), found.get(FIELD_KEY, "")
        if code is grpc.StatusCode.UNAVAILABLE and reason != "no-place-yet":
            line.given_up = True
            if self._line is line:
                self._line = None
            if not reason and self._tls and is_tls_trouble(words):
                return TlsError(f"{self._address}: the connection was refused: {words}")
            return _Again(ConnectError(f"{self._address}: {words}"))
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return ConnectError(f"{self._address} did not answer in time")
        if reason in ("session-unknown", "ticket-unknown"):
            return SessionNotFound(words)
        if reason == "no-place-yet":
            return SessionNotReady(words)
        kind = InvalidRequest if code is grpc.StatusCode.INVALID_ARGUMENT else ServiceError
        return kind(code.name, words, reason=reason, field=at)


class _Again(Exception):
    """Worth another try; `error` is what is raised when there is no time for one."""

    def __init__(self, error: ConnectError) -> None:
        super().__init__(str(error))
        self.error = error


def session_view(message: pb.Session) -> SessionView:
    """Read a session."""
    return SessionView(
        namespace=message.namespace,
        name=message.name,
        uid=message.uid,
        phase=PHASES.get(message.phase, ""),
        worker=message.worker,
        endpoint=message.endpoint,
        tls_server_name=message.tls_server_name,
        telephony_endpoint=message.telephony_endpoint,
        attempt=message.attempt,
        position=message.queue.position,
        end_reason=message.end_reason,
        message=message.message or message.queue.message,
        created=float(message.create_time.seconds),
        started=float(message.start_time.seconds),
        ended=float(message.end_time.seconds),
        labels=dict(message.labels),
    )


def endpoint_of(message: pb.Connection) -> Endpoint:
    """Read where to attach."""
    return Endpoint(message.endpoint, message.tls_server_name, message.attempt)


def _source(token: str | TokenSource, file: Path | str | None) -> TokenSource:
    if file is not None:
        path = Path(file)

        def read() -> str:
            try:
                return path.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"token file {path}: cannot be read: {error}") from error

        return read
    return (lambda: token) if isinstance(token, str) else token


def _duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))
