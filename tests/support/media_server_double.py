"""A MediaService on loopback that a test scripts: it records what the client says and answers as told."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc as pb_grpc

Script = Callable[["DoubleLeg"], Awaitable[None]]
Context = grpc.aio.ServicerContext[pb.ConverseRequest, pb.ConverseResponse]


@dataclass
class DoubleLeg:
    """One stream of the client, as a script sees it."""

    number: int
    start: pb.Start
    context: Context
    requests: asyncio.Queue[pb.ConverseRequest | None] = field(default_factory=asyncio.Queue)
    audio_frames: list[pb.AudioFrame] = field(default_factory=list)

    async def send(self, **message: object) -> None:
        await self.context.write(pb.ConverseResponse(**message))  # type: ignore[arg-type]

    async def started(self) -> None:
        await self.send(
            started=pb.Started(
                session_uid="uid-1",
                attempt=1,
                resume_token=f"resume-{self.number}",
                input_format=self.start.input_format,
                output_format=self.start.output_format,
                playout_mode=self.start.playout_mode,
                worker_instance_id="double",
            )
        )

    async def event(self, sequence: int, type: str, body: str = "{}") -> None:
        await self.send(event=pb.ConversationEvent(sequence=sequence, attempt=1, type=type, event_json=body))

    async def agent_audio(
        self, payload: bytes, *, epoch: int = 1, position_ms: int = 0, item: str = "i1"
    ) -> None:
        audio = pb.AgentAudio(payload=payload, item_id=item, epoch=epoch, sequence=1, position_ms=position_ms)
        await self.send(audio=audio)

    async def ended(self, reason: str = "CallerHangup", message: str = "") -> None:
        await self.send(ended=pb.Ended(reason=reason, message=message))

    async def expect(self, kind: str, timeout: float = 5) -> pb.ConverseRequest:
        """Return the next request of that kind; others are passed over, audio is kept in `audio_frames`."""
        async with asyncio.timeout(timeout):
            while True:
                request = await self.requests.get()
                if request is None:
                    raise AssertionError(f"the client left before it sent {kind}")
                if request.WhichOneof("message") == kind:
                    return request

    async def until_left(self, timeout: float = 30) -> None:
        """Wait until the client has left, by either of its two signs: the end of requests, or a cancel."""
        async with asyncio.timeout(timeout):
            while await self.requests.get() is not None:
                pass

    async def refuse(self, code: grpc.StatusCode, reason: str, details: str) -> None:
        await self.context.abort(code, details, trailing_metadata=(("parley-reason", reason),))

    async def until_hangup(self) -> None:
        await self.expect("hangup", timeout=30)
        await self.ended()


class MediaServerDouble(pb_grpc.MediaServiceServicer):
    """Runs `scripts[n]` for the n-th stream; the last one serves all later streams."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.legs: list[DoubleLeg] = []
        self.address = ""
        self.failures: list[BaseException] = []

    async def Converse(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.ConverseRequest], context: Context
    ) -> None:
        first = await anext(aiter(request_iterator))
        leg = DoubleLeg(len(self.legs) + 1, first.start, context)
        self.legs.append(leg)
        reader = asyncio.create_task(self._read(request_iterator, leg))
        try:
            await self.scripts[min(leg.number, len(self.scripts)) - 1](leg)
        except AssertionError as error:
            self.failures.append(error)
            raise
        finally:
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self, requests: AsyncIterator[pb.ConverseRequest], leg: DoubleLeg) -> None:
        try:
            async for request in requests:
                if request.WhichOneof("message") == "audio":
                    leg.audio_frames.append(request.audio)
                leg.requests.put_nowait(request)
        finally:
            leg.requests.put_nowait(None)


@asynccontextmanager
async def media_server(
    *scripts: Script, credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> AsyncIterator[MediaServerDouble]:
    """Serve scripts on a loopback port; a script's failed assertion fails the test."""
    server = grpc.aio.server()
    double = MediaServerDouble(*scripts)
    pb_grpc.add_MediaServiceServicer_to_server(double, server)
    where = f"127.0.0.1:{port}"
    bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
    double.address = f"127.0.0.1:{bound}"
    await server.start()
    try:
        yield double
    finally:
        await server.stop(0)
        for failure in double.failures:
            raise failure


class CuttableProxy:
    """A TCP proxy in front of a server: `cut` resets every connection, `refuse` stops taking new ones."""

    def __init__(self, upstream: str) -> None:
        host, _, port = upstream.rpartition(":")
        self._upstream = (host, int(port))
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.refuse = False
        self.address = ""

    async def __aenter__(self) -> CuttableProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.refuse:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_connection(*self._upstream)
        self._writers |= {writer, up_writer}
        try:
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))
        finally:
            for side in (writer, up_writer):
                self._writers.discard(side)
                side.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except (ConnectionError, OSError):
            pass
        writer.transport.abort()


@dataclass(frozen=True)
class ServerCertificate:
    """A self-signed certificate for one name."""

    certificate_pem: str
    key_pem: str

    @property
    def credentials(self) -> grpc.ServerCredentials:
        return grpc.ssl_server_credentials([(self.key_pem.encode(), self.certificate_pem.encode())])


def make_certificate(name: str) -> ServerCertificate:
    """Make a certificate that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return ServerCertificate(
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )
