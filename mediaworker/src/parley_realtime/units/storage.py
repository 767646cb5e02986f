"""Where recordings go: a folder, or an S3-compatible store. Bytes in order, and an end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")
PART_BYTES = 5 * 1024 * 1024
"""The least part that S3 takes, and what is held in memory for each recording."""
WRITE_SECONDS = 30.0
RESOLVE_SECONDS = 5.0
DEFAULT_REGION = "us-east-1"
_UNSAFE = re.compile(r"[^A-Za-z0-9._=-]")


class RecordingError(Exception):
    """A recording cannot be made or finished. `url` is where it was to be; no secret is in either."""

    def __init__(self, message: str, url: str = "") -> None:
        super().__init__(message)
        self.url = url


class Sink(Protocol):
    """One recording on its way. Every call raises RecordingError when it fails or takes too long."""

    @property
    def url(self) -> str:
        """Where the recording will be."""

    async def open(self) -> None: ...

    async def write(self, data: bytes, header: bytes) -> None:
        """Append; `header`, when given, is what the file should now begin with."""

    async def finish(self, header: bytes) -> None:
        """Make it whole."""

    async def abandon(self) -> None:
        """Leave what there is; a store shows nothing of it."""


def safe_name(*parts: str) -> str:
    """A relative path of these parts, with everything unusual replaced."""
    words = [_UNSAFE.sub("_", part)[:200] for part in parts if part]
    return "/".join("_" if not word.strip(".") else word for word in words)


class FolderSink:
    """A file `<name>.part` that becomes `<name>` at the end.

    After every write it is a file that plays up to there, whatever happens to the process.
    """

    def __init__(self, directory: Path, name: str, executor: Executor) -> None:
        """ValueError: the directory leads elsewhere than it says."""
        if ".." in directory.parts or not directory.is_absolute():
            raise ValueError(f"recording folder {str(directory)!r}: give an absolute path without '..'")
        self._path = directory / name
        self._part = self._path.with_name(self._path.name + ".part")
        self._root = directory
        self._executor = executor
        self._fd = -1

    @property
    def url(self) -> str:
        """See Sink."""
        return self._path.absolute().as_uri()

    async def open(self) -> None:
        """See Sink."""
        await self._run(self._open)

    def _open(self) -> None:
        # A folder below a mounted volume is made; one of the root file system would be lost with the pod.
        if not any(folder.is_dir() for folder in (self._root, *self._root.parents[:-1])):
            raise RecordingError(
                f"recording folder {str(self._root)!r} is not there: mount a volume at it", self.url
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            raise FileExistsError(17, "a recording of this name is there", str(self._path))
        self._fd = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    async def write(self, data: bytes, header: bytes) -> None:
        """See Sink."""
        await self._run(lambda: self._write(data, header))

    def _write(self, data: bytes, header: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        if header:
            os.pwrite(self._fd, header, 0)

    async def finish(self, header: bytes) -> None:
        """See Sink."""
        await self._run(lambda: self._finish(header))

    def _finish(self, header: bytes) -> None:
        self._write(b"", header)
        os.fsync(self._fd)
        self._close()
        self._part.rename(self._path)

    async def abandon(self) -> None:
        """See Sink: the `.part` file stays."""
        with contextlib.suppress(RecordingError):
            await self._run(self._close)

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except TimeoutError:
            raise RecordingError(f"the volume took longer than {WRITE_SECONDS:g} s", self.url) from None
        except OSError as exc:
            raise RecordingError(f"{exc.strerror or type(exc).__name__} ({exc.errno})", self.url) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Target:
    """`s3://bucket` or `s3://bucket/prefix` at `endpoint` (empty: AWS, whatever the environment says). Keys
    may be empty: then the environment's are used.

    allow_address: asked with each IP address that the endpoint's name leads to, before anything is sent.
    """

    url: str
    endpoint: str = ""
    region: str = ""
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    finish_seconds: float = 60.0
    allow_address: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        split = urlsplit(self.url)
        if split.scheme != "s3" or not split.hostname:
            raise ValueError(f"recording.s3.url {self.url!r}: give s3://bucket or s3://bucket/prefix")
        if self.endpoint and urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise ValueError("recording.s3.endpoint: give an http or https URL")

    @property
    def bucket(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def prefix(self) -> str:
        return urlsplit(self.url).path.strip("/")

    @property
    def service(self) -> str:
        """The URL of the store itself."""
        return self.endpoint or f"https://s3.{self.region or DEFAULT_REGION}.amazonaws.com"

    def hidden(self, text: str) -> str:
        """The text without keys."""
        for secret in (self.secret_key, self.access_key):
            text = text.replace(secret, "***") if secret else text
        return text


class S3Sink:
    """A multipart upload that goes on while the recording does.

    What is shorter than one part is put whole. An upload that is not finished shows nothing; stores remove
    its parts by a lifecycle rule (AbortIncompleteMultipartUpload).
    """

    def __init__(self, target: S3Target, name: str) -> None:
        self._target = target
        self._key = f"{target.prefix}/{name}" if target.prefix else name
        self._store: S3Store | None = None
        self._writer: Any = None
        self._held = bytearray()

    @property
    def url(self) -> str:
        """See Sink."""
        return f"s3://{self._target.bucket}/{self._key}"

    async def open(self) -> None:
        """See Sink. Nothing is sent to the store yet."""
        from obstore.store import S3Store

        target = self._target
        await self._judge()
        given: dict[str, Any] = {
            "region": target.region or DEFAULT_REGION,
            "endpoint": target.service,
            "virtual_hosted_style_request": False,
        }
        if target.access_key:
            given |= {"access_key_id": target.access_key, "secret_access_key": target.secret_key}
        try:
            self._store = S3Store(
                target.bucket,
                client_options={
                    "allow_http": target.endpoint.startswith("http:"),
                    "connect_timeout": timedelta(seconds=5),
                    "timeout": timedelta(seconds=WRITE_SECONDS),
                },
                retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=WRITE_SECONDS)},
                **given,
            )
        except Exception as exc:  # noqa: BLE001 - whatever the store's library raises may hold a key
            raise self._error(exc) from None

    async def _judge(self) -> None:
        """RecordingError when the store's name leads to an address that is not allowed, or to none."""
        allow, split = self._target.allow_address, urlsplit(self._target.service)
        if allow is None:
            return
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                found = await loop.getaddrinfo(split.hostname, split.port or 443, type=socket.SOCK_STREAM)
        except (OSError, TimeoutError, ValueError):
            raise RecordingError("the store's host is not found", self.url) from None
        if not all(allow(str(entry[4][0])) for entry in found):
            raise RecordingError("the store's host leads to an address that is refused", self.url)

    async def write(self, data: bytes, header: bytes) -> None:
        """See Sink. The header is not used: what went to the store cannot be changed."""
        self._held += data
        if len(self._held) >= PART_BYTES:
            await self._asked(self._send, WRITE_SECONDS)

    async def _send(self) -> None:
        import obstore

        if self._writer is None:
            assert self._store is not None
            self._writer = obstore.open_writer_async(
                self._store, self._key, buffer_size=PART_BYTES, max_concurrency=1
            )
        data = bytes(self._held)
        self._held.clear()
        await self._writer.write(data)

    async def finish(self, header: bytes) -> None:
        """See Sink."""
        await self._asked(lambda: self._finish(header), self._target.finish_seconds)

    async def _finish(self, header: bytes) -> None:
        import obstore

        if self._writer is not None:
            await self._send()
            await self._writer.close()
            return
        assert self._store is not None
        self._held[: len(header)] = header
        await obstore.put_async(self._store, self._key, bytes(self._held))

    async def abandon(self) -> None:
        """See Sink: the upload is never completed."""
        self._writer = None
        self._held.clear()

    async def _asked(self, work: Callable[[], Any], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await work()
        except TimeoutError:
            raise RecordingError(f"the store took longer than {seconds:g} s", self.url) from None
        except Exception as exc:  # noqa: BLE001 - whatever the store's library raises may hold a key
            raise self._error(exc) from None

    def _error(self, exc: Exception) -> RecordingError:
        """The store's words, bounded and without keys."""
        words = " ".join(str(exc).split())[:300]
        return RecordingError(
            self._target.hidden(f"the store refused: {type(exc).__name__}: {words}"), self.url
        )
