"""The operator's side of a worker's control service: a place for each call, with a ticket of its own."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import grpc
import grpc.aio
from parley.control.v1 import control_pb2 as pb
from parley.control.v1 import control_pb2_grpc

from parley_client.bench.loadgen import CallFailed
from parley_client.errors import ConnectError, UsageError

PATIENCE_S: Final = 20.0
FORMATS: Final = {"pcm24": "pcm16", "ulaw8": "g711_ulaw"}


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a call attaches, and with what."""

    endpoint: str
    tls_server_name: str
    telephony: str
    shard: int
    uid: str
    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProviderPlan:
    """What a session is told of its provider."""

    url: str
    audio: str = "pcm16"
    ca_pem: str = field(default="", repr=False)
    api_key: str = field(default="sk-bench", repr=False)


class Admitting:
    """A control client; made by `open`, ended by `close`."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        self._channel = channel
        self._stub: Any = control_pb2_grpc.WorkerControlServiceStub(channel)
        self._address = address
        self._run = secrets.token_hex(4)
        self.instance = ""
        self.capacity = 0

    @classmethod
    async def open(cls, address: str, tls: Path | None = None, tls_name: str = "") -> Self:
        """Connect and learn which instance answers.

        Args:
            address: host:port of the control service.
            tls: folder with ca.crt, tls.crt and tls.key; None for plain text.
            tls_name: name in the worker's certificate.

        Raises:
            UsageError: the folder lacks a file.
            ConnectError: nobody answers, or refuses.
        """
        if tls is None:
            channel = grpc.aio.insecure_channel(address)
        else:
            options = [("grpc.ssl_target_name_override", tls_name)] if tls_name else []
            channel = grpc.aio.secure_channel(address, _credentials(tls), options)
        client = cls(channel, address)
        try:
            await client._greet()
        except BaseException:
            await channel.close()
            raise
        return client

    async def admit(self, sid: int, provider: ProviderPlan) -> Placed:
        """A place for call `sid`.

        Raises:
            CallFailed: the worker refuses; status is its reason.
        """
        ticket = secrets.token_urlsafe(24)
        uid = f"bench-{self._run}-{sid}"
        session = {"type": "realtime", "instructions": f"You are a helpful phone agent. sid={sid}"}
        request = pb.AdmitRequest(
            session=pb.SessionRef(namespace="bench", name=f"call-{sid}", session_uid=uid, attempt=1),
            fence=pb.Fence(leader_epoch=1, worker_instance_id=self.instance),
            config=pb.SessionConfig(
                provider=pb.Provider(
                    url=provider.url,
                    api_version="ga",
                    model="gpt-realtime",
                    api_key=provider.api_key,
                    ca_pem=provider.ca_pem,
                ),
                session_json=json.dumps(session),
                provider_audio=provider.audio,
                access=pb.Access(ticket_sha256=hashlib.sha256(ticket.encode()).digest()),
            ),
        )
        try:
            answer = await self._stub.Admit(request, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            raise CallFailed(sid, error.code().name, error.details() or "") from None
        if answer.WhichOneof("result") != "admitted":
            refused = answer.refused
            word = pb.RefusalReason.Name(refused.reason).removeprefix("REFUSAL_REASON_")
            raise CallFailed(sid, word, refused.message)
        admitted = answer.admitted
        return Placed(
            admitted.endpoint,
            admitted.tls_server_name,
            admitted.telephony_endpoint,
            admitted.shard,
            uid,
            ticket,
        )

    async def terminate(self, uid: str) -> None:
        """End a session that nobody attached to."""
        request = pb.TerminateRequest(
            session=pb.SessionRef(namespace="bench", name="bench", session_uid=uid, attempt=1),
            fence=pb.Fence(leader_epoch=1, worker_instance_id=self.instance),
        )
        try:
            await self._stub.Terminate(request, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError:
            pass  # The attach timeout ends it.

    async def close(self) -> None:
        await self._channel.close()

    async def _greet(self) -> None:
        watch = self._stub.Watch(pb.WatchRequest(fence=pb.Fence(leader_epoch=1)), timeout=PATIENCE_S)
        try:
            async for message in watch:
                self.instance = message.worker_instance_id
                self.capacity = message.snapshot.worker.capacity
                break
        except grpc.aio.AioRpcError as error:
            raise ConnectError(
                f"the worker's control service at {self._address}: {error.code().name}: {error.details()}"
            ) from None
        finally:
            watch.cancel()


def _credentials(folder: Path) -> grpc.ChannelCredentials:
    files = {}
    for name in ("ca.crt", "tls.key", "tls.crt"):
        try:
            files[name] = (folder / name).read_bytes()
        except OSError as error:
            raise UsageError(f"--worker-tls {folder}: {name}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(files["ca.crt"], files["tls.key"], files["tls.crt"])
