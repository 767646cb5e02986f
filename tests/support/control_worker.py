"""A worker's control service, real gRPC on loopback, whose sessions tests move by hand."""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from parley.control.v1 import control_pb2 as pb
from parley.control.v1 import control_pb2_grpc

_ENDED_KEPT = 1024


@dataclass
class ControlTls:
    ca: bytes
    certificate: bytes
    key: bytes


@dataclass
class ControlWorker(control_pb2_grpc.WorkerControlServiceServicer):
    """`capacity` places; `auto_ready` reports READY right after Admit. The fields that steer faults are
    plain."""

    name: str = "worker-1"
    capacity: int = 4
    auto_ready: bool = True
    tls: ControlTls | None = None
    instance_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = "127.0.0.1"
    port: int = 0
    state: int = pb.WORKER_STATE_READY
    # The next Admits are carried out, but their answers never come.
    swallow_answers: int = 0
    # The next Admits are lost on their way here.
    lose_requests: int = 0
    refuse_with: int = 0
    # As a worker of an earlier release: it knows neither AdmitMany nor reports that come together.
    only_alone: bool = False
    # How many sessions came with each AdmitMany.
    joined: list[int] = field(default_factory=list)
    admit_delay: float = 0.0
    telephony: str = ""
    endpoint: str = "127.0.0.1:7000"
    admits: list[pb.AdmitRequest] = field(default_factory=list)
    # Why updates of live sessions are refused; empty: they are taken.
    refuse_updates: str = ""
    commands: list[pb.CommandRequest] = field(default_factory=list)
    terminates: list[pb.TerminateRequest] = field(default_factory=list)
    drains: list[pb.DrainRequest] = field(default_factory=list)
    last_words: list[pb.RecordEndRequest] = field(default_factory=list)
    # All that live, and as many of those that are over as a real worker remembers.
    sessions: dict[str, pb.SessionReport] = field(default_factory=dict)
    peak: int = 0
    # What an Admit costs must not grow with the sessions that were: benches have thousands.
    _live: dict[str, None] = field(default_factory=dict)
    _over: deque[str] = field(default_factory=deque)

    async def start(self) -> str:
        self._watchers: set[asyncio.Queue[pb.WatchResponse]] = set()
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        control_pb2_grpc.add_WorkerControlServiceServicer_to_server(self, self._server)
        address = f"{self.host}:{self.port}"
        if self.tls is None:
            self.port = self._server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(self.tls.key, self.tls.certificate)], self.tls.ca, require_client_auth=True
            )
            self.port = self._server.add_secure_port(address, credentials)
        await self._server.start()
        return f"{self.host}:{self.port}"

    async def stop(self) -> None:
        await self._server.stop(0)

    async def crash(self) -> None:
        """As after SIGKILL and a restart: same address, other instance, nothing known."""
        await self.stop()
        for known in (self.sessions, self._live, self._over):
            known.clear()
        self.instance_id = uuid.uuid4().hex
        await self.start()

    @property
    def live(self) -> list[pb.SessionReport]:
        return [self.sessions[uid] for uid in self._live]

    def report(self, uid: str, state: int, reason: str = "", **fields: Any) -> None:
        report = self.sessions[uid]
        report.state = state  # type: ignore[assignment]
        if state == pb.SESSION_STATE_ENDED and uid in self._live:
            del self._live[uid]
            self._over.append(uid)
            if len(self._over) > _ENDED_KEPT:
                del self.sessions[self._over.popleft()]
        report.end_reason = reason
        for key, value in fields.items():
            if key == "usage":
                report.usage.CopyFrom(value)
            else:
                setattr(report, key, value)
        self._tell(pb.WatchResponse(session=report))

    def set_state(self, state: int) -> None:
        self.state = state
        self._tell(pb.WatchResponse(worker=self._worker()))

    def _worker(self) -> pb.WorkerReport:
        return pb.WorkerReport(
            worker=self.name,
            version="test",
            state=self.state,  # type: ignore[arg-type]
            capacity=self.capacity,
            sessions=len(self._live),
            telephony_endpoint=self.telephony,
        )

    def _tell(self, message: pb.WatchResponse) -> None:
        copy = pb.WatchResponse()
        copy.CopyFrom(message)
        for queue in self._watchers:
            queue.put_nowait(copy)

    # -- WorkerControlService

    async def Admit(self, request: pb.AdmitRequest, context: Any) -> pb.AdmitResponse:
        if self.lose_requests:
            self.lose_requests -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        self.admits.append(request)
        if self.admit_delay:
            await asyncio.sleep(self.admit_delay)
        answer = self._admit(request)
        if self.swallow_answers:
            self.swallow_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "answer lost")
        return answer

    async def AdmitMany(self, request: pb.AdmitManyRequest, context: Any) -> pb.AdmitManyResponse:
        if self.only_alone:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "an earlier release")
        self.joined.append(len(request.admits))
        answers = await asyncio.gather(*(self.Admit(each, context) for each in request.admits))
        return pb.AdmitManyResponse(answers=answers)

    def _admit(self, request: pb.AdmitRequest) -> pb.AdmitResponse:
        uid = request.session.session_uid
        reason = self.refuse_with
        if request.fence.worker_instance_id != self.instance_id:
            reason = pb.REFUSAL_REASON_WRONG_INSTANCE
        elif not reason and uid not in self.sessions and len(self._live) >= self.capacity:
            reason = pb.REFUSAL_REASON_FULL
        if reason:
            refused = pb.Refused(reason=reason, message="no")  # type: ignore[arg-type]
            return pb.AdmitResponse(worker_instance_id=self.instance_id, refused=refused)
        if uid not in self.sessions:
            self.sessions[uid] = pb.SessionReport(
                session=request.session,
                state=pb.SESSION_STATE_CONNECTING,
                client_id=f"client-{uid}",
                web_socket_id=f"ws-{uid}",
                endpoint=self.endpoint,
                telephony_endpoint=self.telephony,
                shard=0,
                origin=request.config.origin,
            )
            self._live[uid] = None
            self.peak = max(self.peak, len(self._live))
            self.report(uid, pb.SESSION_STATE_READY if self.auto_ready else pb.SESSION_STATE_CONNECTING)
        admitted = pb.Admitted(shard=0, endpoint=self.endpoint, telephony_endpoint=self.telephony)
        return pb.AdmitResponse(worker_instance_id=self.instance_id, admitted=admitted)

    async def Terminate(self, request: pb.TerminateRequest, context: Any) -> pb.TerminateResponse:
        self.terminates.append(request)
        uid = request.session.session_uid
        found = uid in self._live
        if found:
            self.report(uid, pb.SESSION_STATE_ENDED, request.reason)
        return pb.TerminateResponse(worker_instance_id=self.instance_id, found=found)

    async def RecordEnd(self, request: pb.RecordEndRequest, context: Any) -> pb.RecordEndResponse:
        self.last_words.append(request)
        return pb.RecordEndResponse(worker_instance_id=self.instance_id, taken=True)

    async def Command(self, request: pb.CommandRequest, context: Any) -> pb.CommandResponse:
        self.commands.append(request)
        uid = request.session.session_uid
        found = uid in self._live
        if found and request.HasField("reconfigure"):
            report = self.sessions[uid]
            report.origin.generation = request.reconfigure.generation
            self.report(uid, report.state, update_refused=self.refuse_updates)
        return pb.CommandResponse(worker_instance_id=self.instance_id, found=found)

    async def Drain(self, request: pb.DrainRequest, context: Any) -> pb.DrainResponse:
        self.drains.append(request)
        self.set_state(pb.WORKER_STATE_DRAINING)
        return pb.DrainResponse(worker_instance_id=self.instance_id, sessions=len(self._live))

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:
        queue: asyncio.Queue[pb.WatchResponse] = asyncio.Queue()
        self._watchers.add(queue)
        sequence = 1
        try:
            snapshot = pb.Snapshot(worker=self._worker(), sessions=self.sessions.values())
            message = pb.WatchResponse(snapshot=snapshot)
            while True:
                message.worker_instance_id = self.instance_id
                message.sequence = sequence
                sequence += 1
                yield message
                try:
                    async with asyncio.timeout(1):
                        message = await queue.get()
                except TimeoutError:
                    message = pb.WatchResponse(worker=self._worker())
                if request.together and not self.only_alone and message.HasField("session"):
                    message = _together(message, queue)
        finally:
            self._watchers.discard(queue)


def _together(first: pb.WatchResponse, queue: asyncio.Queue[pb.WatchResponse]) -> pb.WatchResponse:
    """The report with all that wait behind it, unless the worker itself is among them."""
    found = [first.session]
    while not queue.empty() and queue._queue[0].HasField("session"):  # type: ignore[attr-defined]
        found.append(queue.get_nowait().session)
    return first if len(found) == 1 else pb.WatchResponse(sessions=pb.SessionReports(reports=found))
