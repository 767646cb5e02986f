"""Sound files in every format that players play, and an HTTP server with good and bad ones."""

from __future__ import annotations

import asyncio
import gzip
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt
import soundfile
from aiohttp import web

FORMATS = {"wav": ("WAV", "PCM_16"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS")} | {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "flac": ("FLAC", "PCM_16"),
}
TONE_HZ = 440


def sound_file(kind: str, seconds: float = 1.0, rate: int = 48_000, channels: int = 2) -> bytes:
    """A sine of 440 Hz at a third of full scale."""
    container, subtype = FORMATS[kind]
    tone = np.sin(np.arange(int(rate * seconds)) * 2 * np.pi * TONE_HZ / rate) / 3
    out = io.BytesIO()
    soundfile.write(out, np.stack([tone] * channels, axis=1), rate, format=container, subtype=subtype)
    return out.getvalue()


def share_of_tone(samples: npt.NDArray[np.int16], rate: int) -> float:
    """Which part of the power is at 440 Hz, 0 to 1; ends left out."""
    inner = samples[rate // 10 : -rate // 10].astype(float)
    angle = np.arange(len(inner)) * 2 * np.pi * TONE_HZ / rate
    basis = np.stack((np.sin(angle), np.cos(angle)))
    fitted = np.linalg.lstsq(basis.T, inner, rcond=None)[0] @ basis
    return float((fitted**2).sum() / (inner**2).sum())


@asynccontextmanager
async def sound_server() -> AsyncIterator[str]:
    """Its URL: `/tone.<kind>`, `/slow`, `/huge`, `/broken.wav`, `/text`, `/gone`, `/loop`, `/away`,
    `/packed`."""

    async def tone(request: web.Request) -> web.Response:
        return web.Response(body=sound_file(request.match_info["kind"]))

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"RIFF")
            await asyncio.sleep(0.1)

    async def huge(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(1000):
            await response.write(bytes(65536))
        return response

    async def broken(request: web.Request) -> web.Response:
        return web.Response(body=sound_file("wav")[:30])

    async def text(request: web.Request) -> web.Response:
        return web.Response(text="<html>no sound here</html>")

    async def packed(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"})

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data")

    async def loop(request: web.Request) -> web.Response:
        raise web.HTTPFound("/loop")

    async def found(request: web.Request) -> web.Response:
        raise web.HTTPFound("/tone.mp3")

    app = web.Application()
    app.router.add_get("/tone.{kind}", tone)
    routes = {"slow": slow, "huge": huge, "broken.wav": broken, "text": text, "away": away, "packed": packed}
    for name, handler in {**routes, "loop": loop, "found": found}.items():
        app.router.add_get(f"/{name}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
