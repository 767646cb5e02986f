"""What a player plays: a file of a folder or of an http(s) URL, within bounds, decoded to mono PCM16.

Everything here but `fetch` blocks: it runs in threads.
"""

from __future__ import annotations

import asyncio
import io
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urljoin, urlsplit

import numpy as np
import soxr

from parley_realtime.audio import Samples

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

FORMATS = ("WAV", "WAVEX", "OGG", "MP3", "FLAC")
MAX_REDIRECTS = 3
MAX_CHANNELS = 8
BLOCK_SECONDS = 0.5
MIN_LOOP_SECONDS = 0.02


class PlayerError(Exception):
    """A player's source cannot be played. Of a URL only the host is named: the rest may hold a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerAccess:
    """What players may open; None allows all, an empty tuple nothing.

    hosts: `host`, `host:port` or `*.suffix`. directories: files must lie in one of them, links resolved.
    allow_address: asked with each IP address before it is connected to.
    """

    hosts: tuple[str, ...] | None = None
    directories: tuple[str, ...] | None = None
    allow_address: Callable[[str], bool] | None = None
    max_bytes: int = 32 * 1024 * 1024
    max_seconds: float = 3600.0
    load_seconds: float = 15.0


def is_url(source: str) -> bool:
    """True for what is fetched, False for a path."""
    return "://" in source


def checked_url(url: str, access: PlayerAccess) -> SplitResult:
    """The URL in parts; PlayerError when it may not be opened."""
    try:
        split = urlsplit(url)
        host, port = split.hostname or "", split.port
    except ValueError:
        raise PlayerError("the source is no URL") from None
    if split.scheme not in ("http", "https") or not host:
        raise PlayerError(f"source scheme {split.scheme!r}: give an http or https URL, or a path")
    port = port or (443 if split.scheme == "https" else 80)
    if access.hosts is not None and not any(_matches(host, port, rule) for rule in access.hosts):
        raise PlayerError(f"host {host!r} is not allowed: add it to the allowed hosts of media")
    return split


def _matches(host: str, port: int, rule: str) -> bool:
    name, _, wanted = rule.lower().partition(":")
    if wanted and wanted != str(port):
        return False
    return host.endswith(name[1:]) if name.startswith("*.") else host == name


def checked_path(source: str, access: PlayerAccess) -> Path:
    """The file; PlayerError when it may not be opened or is none."""
    path = Path(source).resolve()
    roots = access.directories
    if roots is not None and not any(path.is_relative_to(Path(root).resolve()) for root in roots):
        raise PlayerError(f"file {source!r} lies in no allowed directory of media")
    if not path.is_file():
        raise PlayerError(f"file {source!r} is not there")
    return path


async def fetch(url: str, access: PlayerAccess) -> bytes:
    """The body of an http(s) URL, within the bounds. PlayerError says what went wrong."""
    import aiohttp

    host = checked_url(url, access).hostname
    try:
        async with asyncio.timeout(access.load_seconds):
            connector = aiohttp.TCPConnector(resolver=_resolver(access), use_dns_cache=False, limit=1)
            async with aiohttp.ClientSession(
                connector=connector, auto_decompress=False, headers={"Accept-Encoding": "identity"}
            ) as session:
                for _ in range(MAX_REDIRECTS + 1):
                    split = checked_url(url, access)
                    host = split.hostname
                    _check_literal(host or "", access)
                    async with session.get(url, allow_redirects=False) as response:
                        if response.status in (301, 302, 303, 307, 308):
                            url = urljoin(url, response.headers.get("Location", ""))
                            continue
                        if response.status != 200:
                            raise PlayerError(f"host {host!r} answered {response.status}")
                        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                            raise PlayerError(f"host {host!r} sends the audio compressed: serve it as it is")
                        return await _body(response, access.max_bytes, host or "")
                raise PlayerError(f"host {host!r} redirects more than {MAX_REDIRECTS} times")
    except TimeoutError:
        raise PlayerError(f"host {host!r} took longer than {access.load_seconds:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        raise PlayerError(f"host {host!r} cannot be read: {type(exc).__name__}") from None


async def _body(response: Any, limit: int, host: str) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        data += chunk
        if len(data) > limit:
            raise PlayerError(f"host {host!r} sends more than {limit} bytes")
    return bytes(data)


def _check_literal(host: str, access: PlayerAccess) -> None:
    """Names are judged by what they lead to; an address stands for itself and is never resolved."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return
    if access.allow_address is not None and not access.allow_address(host):
        raise PlayerError(f"address {host} is not allowed")


def _resolver(access: PlayerAccess) -> Any:
    """A resolver that gives only addresses that may be connected to: what is judged is what is used."""
    from aiohttp.resolver import ThreadedResolver

    class Resolver(ThreadedResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            found = await super().resolve(host, port, family)
            allow = access.allow_address
            kept = [entry for entry in found if allow is None or allow(entry["host"])]
            if not kept:
                raise PlayerError(f"host {host!r} leads to an address that is not allowed")
            return kept

    return Resolver()


def _open(file: io.BytesIO | str) -> Any:
    """A sound file that is read on and on. RuntimeError, TypeError: it is none."""
    import soundfile

    class Sequential(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            """Else the library seeks after each read, to where it is: MP3 loses its bit reservoir by that."""
            return False

    return Sequential(file)


class Decoder:
    """A source as blocks of mono PCM16 at `rate`. Made and used in threads, one call at a time."""

    def __init__(
        self, data: bytes | Path, rate: int, access: PlayerAccess, loop: bool, volume: float
    ) -> None:
        self._loop, self._volume = loop, volume
        try:
            self._file = _open(io.BytesIO(data) if isinstance(data, bytes) else str(data))
        except (RuntimeError, TypeError):
            raise PlayerError("the source is no WAV, Ogg, MP3 or FLAC audio") from None
        try:
            self._check(access)
        except PlayerError:
            self._file.close()
            raise
        self._stream = soxr.ResampleStream(self._file.samplerate, rate, 1, dtype="int16", quality="HQ")
        self._left = int(access.max_seconds * self._file.samplerate)
        self._round = 0
        self._ended = False

    def _check(self, access: PlayerAccess) -> None:
        file = self._file
        if file.format not in FORMATS:
            raise PlayerError(f"format {file.format!r} is not played: use WAV, Ogg, MP3 or FLAC")
        if not 1 <= file.channels <= MAX_CHANNELS or not 4000 <= file.samplerate <= 192_000:
            raise PlayerError(f"{file.channels} channels at {file.samplerate} Hz are not played")
        if file.frames <= 0:
            raise PlayerError("the source holds no audio")

    def block(self) -> Samples | None:
        """The next samples, up to about half a second; None at the end. PlayerError: it is damaged."""
        if self._ended:
            return None
        try:
            frames = self._file.read(
                int(self._file.samplerate * BLOCK_SECONDS), dtype="float32", always_2d=True
            )
            frames = frames[: self._left]
            self._left -= len(frames)
            self._round += len(frames)
            if len(frames) == 0 and self._loop and self._left > 0:
                if self._round < self._file.samplerate * MIN_LOOP_SECONDS:
                    raise PlayerError("the source holds less than 20 ms of audio: it cannot be looped")
                self._round = 0
                self._file.seek(0)
                return np.zeros(0, np.int16)
        except RuntimeError:
            raise PlayerError("the source is damaged") from None
        if len(frames) == 0:
            self._ended = True
            self._file.close()
            tail: Samples = self._stream.resample_chunk(np.zeros(0, np.int16), last=True)
            return tail
        mono = np.nan_to_num(frames.mean(axis=1)) * (32767 * self._volume)
        samples: Samples = self._stream.resample_chunk(np.clip(mono, -32768, 32767).astype(np.int16))
        return samples

    def close(self) -> None:
        self._ended = True
        self._file.close()
