"""What sessions that arrive together do to those that speak: lateness of agents' frames, calm and in a storm.

    python tests/load/setup_storm.py [--tls] [--speaking N] [--arriving N] [--rate CONNECTS_A_SECOND]

One shard in this process, provider and callers in another. N sessions speak; then others arrive within a
second, connect, and their callers attach, silently. Prints one line of JSON for each phase, in milliseconds:
`late` of frames as the worker's own playout clock sees it, `timer` of a timer of 1 ms, `turn` the CPU time
that the loop's thread spent between two of its ticks, which no other process can lengthen. A busy machine
shows in the calm phase: compare the phases of one run only.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import multiprocessing
import ssl
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
import uvloop
from parley.media.v1 import media_pb2 as pb
from parley.media.v1 import media_pb2_grpc
from websockets.asyncio.server import ServerConnection, serve

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

PCM24 = pb.AudioFormat(encoding=pb.AUDIO_ENCODING_PCM16, sample_rate_hz=24000)
LIMITS = {"max_duration": 3600, "idle_timeout": 3600, "attach_timeout": 60}


async def provide(socket: ServerConnection) -> None:
    """Greet; on the path /talk speak for 3 of every 4 seconds, 150 ms deltas at 2.5 times real time."""

    async def send(kind: str, **fields: Any) -> None:
        await socket.send(json.dumps({"type": kind, "event_id": "e", **fields}))

    async def talk() -> None:
        number = 0
        while True:
            number += 1
            ids = {
                "response_id": f"r{number}",
                "item_id": f"i{number}",
                "output_index": 0,
                "content_index": 0,
            }
            await send("response.created", response={"id": f"r{number}", "status": "in_progress"})
            for _ in range(20):
                delta = base64.b64encode(bytes(7200)).decode()
                await send("response.output_audio.delta", **ids, delta=delta)
                await asyncio.sleep(0.06)
            await send("response.output_audio.done", **ids)
            await send("response.done", response={"id": f"r{number}", "status": "completed", "usage": {}})
            await asyncio.sleep(2.8)

    await send("session.created", session={"model": "m"})
    talking = None
    async for text in socket:
        if talking is None and '"session.update"' in str(text)[:80]:
            await send("session.updated", session={"type": "realtime"})
            assert socket.request is not None
            talking = asyncio.create_task(talk() if "talk" in socket.request.path else asyncio.sleep(0))
    if talking is not None:
        talking.cancel()


async def call(address: str, uid: str, credentials: grpc.ChannelCredentials | None, speaks: bool) -> None:
    channel = (
        grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    )
    stream = media_pb2_grpc.MediaServiceStub(channel).Converse()
    start = pb.Start(ticket=f"ticket-{uid}", input_format=PCM24, output_format=PCM24)
    await stream.write(pb.ConverseRequest(start=start))

    async def speak() -> None:
        due = time.monotonic()
        for number in range(1, 1_000_000):
            frame = pb.AudioFrame(payload=bytes(960), sequence=number)
            await stream.write(pb.ConverseRequest(audio=frame))
            due += 0.02
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    await stream.read()
    speaking = asyncio.create_task(speak()) if speaks else None
    while await stream.read() is not grpc.aio.EOF:
        pass
    if speaking is not None:
        speaking.cancel()


def others(folder: Path | None, ca: bytes, pipe: Connection) -> None:
    """The process of the provider and the callers; it is told `(address, uid, speaks)` for each caller."""

    async def main() -> None:
        tls = None
        if folder is not None:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        credentials = grpc.ssl_channel_credentials(ca) if folder is not None else None
        tasks = []

        def told() -> None:
            address, uid, speaks = pipe.recv()
            tasks.append(asyncio.create_task(call(address, uid, credentials, speaks)))

        async with serve(provide, "127.0.0.1", 0, ssl=tls, compression=None, ping_interval=None) as server:
            pipe.send(next(iter(server.sockets)).getsockname()[1])
            asyncio.get_running_loop().add_reader(pipe.fileno(), told)
            await asyncio.Event().wait()

    uvloop.run(main())


class Watch:
    """Lateness of frames and of a timer, CPU, and the time they were taken in."""

    def __init__(self) -> None:
        self.frames: list[float] = []
        self.timer: list[float] = []
        self.turns: list[float] = []
        self.begun, self.cpu = time.perf_counter(), time.process_time()

    async def tick(self) -> None:
        while True:
            before, spent = time.perf_counter(), time.thread_time()
            await asyncio.sleep(0.001)
            self.timer.append(time.perf_counter() - before - 0.001)
            self.turns.append(time.thread_time() - spent)

    def restart(self) -> None:
        self.frames.clear()
        self.timer.clear()
        self.turns.clear()
        self.begun, self.cpu = time.perf_counter(), time.process_time()

    def row(self, phase: str, **more: Any) -> str:
        def at(values: list[float], share: float) -> float:
            return round(sorted(values)[min(len(values) - 1, int(len(values) * share))] * 1000, 2)

        seconds = time.perf_counter() - self.begun
        row = {"phase": phase, "seconds": round(seconds, 2)}
        row |= {"cpu_s_per_s": round((time.process_time() - self.cpu) / seconds, 3)}
        for name, values in (("late", self.frames), ("timer", self.timer), ("turn", self.turns)):
            shares = (("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0))
            row[name] = {word: at(values, share) for word, share in shares}  # type: ignore[assignment]
        return json.dumps(row | more)


async def measure(options: argparse.Namespace, folder: Path | None, ca: bytes, pipe: Connection) -> None:
    from media_calls import worker
    from parley_worker.core.model import SessionConfig, SessionState
    from parley_worker.runtime.garbage import settle
    from parley_worker.telemetry.metrics import Metrics

    watch, told = Watch(), Metrics.frame_lateness

    def late(metrics: Metrics, seconds: float) -> None:
        watch.frames.append(seconds)
        told(metrics, seconds)

    Metrics.frame_lateness = late  # type: ignore[method-assign]
    port = pipe.recv()
    scheme = "wss" if folder is not None else "ws"
    settings: dict[str, Any] = {"capacity": 2000, "setup_connect_rate": options.rate, "media_tls_dir": folder}
    async with worker(**settings) as host:
        address = host.app.media_address.replace("127.0.0.1", "localhost")

        def arrive(speaks: bool) -> SessionConfig:
            url = f"{scheme}://127.0.0.1:{port}/{'talk' if speaks else 'still'}/realtime"
            config = host.admit(url, limits=LIMITS, provider={"ca_pem": ca.decode()})
            pipe.send((address, config.key.uid, speaks))
            return config

        async def attached(configs: list[SessionConfig]) -> None:
            for config in configs:
                await host.state(config, SessionState.ACTIVE, timeout=90)

        ticking = asyncio.create_task(watch.tick())
        await attached([arrive(True) for _ in range(options.speaking)])
        settle()
        await asyncio.sleep(2)
        watch.restart()
        await asyncio.sleep(8)
        print(watch.row("calm"), flush=True)
        watch.restart()
        began = time.perf_counter()
        arriving = []
        for number in range(options.arriving):
            arriving.append(arrive(False))
            await asyncio.sleep(max(0.0, began + (number + 1) / options.arriving - time.perf_counter()))
        await attached(arriving)
        ready = time.perf_counter() - began
        await asyncio.sleep(max(0.0, 5 - ready))
        print(watch.row("storm", all_attached_after=round(ready, 2)), flush=True)
        metrics = host.app.metrics.render().decode()
        print([line for line in metrics.splitlines() if line.startswith("parley_worker_underruns_total")])
        ticking.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--speaking", type=int, default=10)
    parser.add_argument("--arriving", type=int, default=100)
    parser.add_argument("--rate", type=float, default=30.0)
    options = parser.parse_args()
    from pki import TestAuthority

    authority = TestAuthority()
    with tempfile.TemporaryDirectory() as temporary:
        folder = authority.issue("localhost").write(Path(temporary)) if options.tls else None
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=others, args=(folder, authority.pem, theirs), daemon=True)
        process.start()
        try:
            uvloop.run(measure(options, folder, authority.pem, ours))
        finally:
            process.terminate()
            process.join()


if __name__ == "__main__":
    main()
