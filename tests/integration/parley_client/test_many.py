"""The SDK's gateway against a real worker: ordinary calls, all on one stream."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from media_calls import Worker, worker
from media_server_double import CuttableProxy, make_certificate
from parley_client import (
    AttachRefused,
    BufferedPlayer,
    Call,
    CallOptions,
    CallState,
    ConnectError,
    Ended,
    MediaGateway,
    Playout,
    Reconnecting,
    Target,
    TlsError,
    UsageError,
    resolve_address,
    write_wav,
)
from parley_client.backoff import Backoff
from parley_client.many_stream import ManyStream
from parley_worker.core.model import EndReason, SessionConfig, SessionState
from parley_worker.transport.many_server import ManyBounds
from provider_script import ScriptedProvider, Socket, scripted

FRAME = bytes(range(240)) * 4
QUICK = CallOptions(
    attach_timeout=3, resume_timeout=5, hangup_timeout=3, backoff=Backoff(first=0.05, highest=0.1, floor=0.01)
)


async def answering(socket: Socket) -> None:
    """Answers the first frame with a second of it."""
    await socket.greet()
    heard = await socket.expect_audio(960)
    await socket.say(heard[:960] * 50, "resp_1", "item_1")


@asynccontextmanager
async def stage(many: ManyBounds | None = None) -> AsyncIterator[tuple[Worker, ScriptedProvider]]:
    waits = {"many": many} if many else {}
    async with scripted(answering) as script, worker(waits=waits) as host:  # type: ignore[arg-type]
        yield host, script
        host.app.registry.terminate_all(EndReason.TERMINATED, "test over")
        await host.nothing_left()


async def session(host: Worker, script: ScriptedProvider) -> SessionConfig:
    config = host.admit(script.url)
    await host.state(config, SessionState.READY)
    return config


def target(host: Worker | str, config: SessionConfig) -> Target:
    address = host if isinstance(host, str) else host.app.media_address
    return resolve_address(address, f"ticket-{config.key.uid}")


def stream_of(gateway: MediaGateway) -> ManyStream:
    (stream,) = gateway._streams.values()
    return stream


async def hear(call: Call, frames: int) -> None:
    """Until so many frames came."""
    async with asyncio.timeout(10):
        async for _ in call:
            if call.stats.frames_received >= frames:
                return
    raise AssertionError(f"the call ended after {call.stats.frames_received} frames")


async def test_calls_share_a_stream_and_end_each_by_itself() -> None:
    async with stage() as (host, script), MediaGateway() as gateway:
        configs = [await session(host, script) for _ in range(5)]
        calls = [await gateway.attach(target(host, config), options=QUICK) for config in configs]
        stream = stream_of(gateway)
        for call in calls:
            await call.send_audio(FRAME)
        await asyncio.gather(*(hear(call, 10) for call in calls))
        ended = await calls[0].hang_up("bye")
        assert ended is not None
        assert ended.reason == EndReason.CALLER_HANGUP
        host.app.registry.terminate(configs[1].key, EndReason.TERMINATED, "enough")
        assert (await calls[1].wait_ended()).reason == EndReason.TERMINATED
        await calls[2].close()
        await host.state(configs[2], SessionState.DETACHED)
        await asyncio.gather(*(hear(call, 20) for call in calls[3:]))
        assert stream_of(gateway) is stream
        assert [call.stats.resumes for call in calls] == [0] * 5
        sixth = await session(host, script)
        async with gateway.call(target(host, sixth), options=QUICK) as again:
            assert again.started is not None
        assert isinstance(again.ended, Ended)
        assert max(stream._free, default=0) <= 5
        for call in calls:
            await call.close()


async def test_a_refusal_is_that_call_s() -> None:
    async with stage() as (host, script), MediaGateway() as gateway:
        call = await gateway.attach(target(host, await session(host, script)), options=QUICK)
        with pytest.raises(AttachRefused) as caught:
            await gateway.attach(resolve_address(host.app.media_address, "nobody's"), options=QUICK)
        assert (caught.value.status, caught.value.reason) == ("UNAUTHENTICATED", "ticket-unknown")
        assert "nobody's" not in str(caught.value)
        await call.send_audio(FRAME)
        await hear(call, 5)
        await call.hang_up()
        await call.close()


async def test_a_cut_stream_resumes_every_call_on_one_new_stream() -> None:
    async with (
        stage() as (host, script),
        CuttableProxy(host.app.media_address) as proxy,
        MediaGateway() as gateway,
    ):
        configs = [await session(host, script) for _ in range(5)]
        calls = [await gateway.attach(target(proxy.address, config), options=QUICK) for config in configs]
        first = stream_of(gateway)
        proxy.cut()
        for call in calls:
            async with asyncio.timeout(10):
                async for event in call:
                    if isinstance(event, Reconnecting):
                        break
                while call.state is not CallState.ATTACHED:  # noqa: ASYNC110 - the call tells its events only
                    await asyncio.sleep(0.01)
        assert first.over
        assert stream_of(gateway) is not first
        for call in calls:
            await call.send_audio(FRAME)
        await asyncio.gather(*(hear(call, 5) for call in calls))
        for call in calls:
            assert call.stats.resumes == 1
            assert await call.hang_up() is not None
            await call.close()


async def test_leaving_the_gateway_detaches_and_does_not_hang_up() -> None:
    async with stage() as (host, script):
        config = await session(host, script)
        async with MediaGateway() as gateway:
            call = await gateway.attach(target(host, config), options=QUICK)
        assert call.state is CallState.CLOSED
        await host.state(config, SessionState.DETACHED)
        with pytest.raises(UsageError, match="closed"):
            await gateway.attach(target(host, config), options=QUICK)
        (gone,) = [r for r in host.of(config, "event") if r.type == "leg_detached"]
        assert gone.fields["cause"] == "half-closed"


async def test_credit_keeps_a_burst_to_what_the_player_has_room_for() -> None:
    async with stage() as (host, script), MediaGateway() as gateway:
        player = BufferedPlayer()
        config = await session(host, script)
        call = await gateway.attach(
            target(host, config), playout=Playout.BURST, player=player, credit_ms=200, options=QUICK
        )
        await call.send_audio(FRAME)
        most = 0
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            while call.stats.bytes_received < 48000:
                assert player.line is not None
                most = max(most, player.line.queued_ms(loop.time()))
                await asyncio.sleep(0.005)
        assert 100 <= most <= 200 + 100 + 60
        await call.hang_up()
        await call.close()


async def test_credit_of_an_opus_call_is_in_packets() -> None:
    async with stage() as (host, script), MediaGateway() as gateway:
        player = BufferedPlayer()
        config = await session(host, script)
        call = await gateway.attach(
            target(host, config),
            input_format="opus@24000",
            playout=Playout.BURST,
            player=player,
            credit_ms=200,
            options=QUICK,
        )
        await call.send_audio(FRAME)
        most = 0
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            while call.stats.frames_received < 50:
                assert player.line is not None
                most = max(most, player.line.queued_ms(loop.time()))
                await asyncio.sleep(0.005)
        assert 100 <= most <= 500  # of a second, and packets are not all of one size
        await call.hang_up()
        await call.close()


async def test_a_stream_that_was_idle_is_opened_again() -> None:
    async with stage(ManyBounds(idle=0.2)) as (host, script), MediaGateway() as gateway:
        for _ in range(2):
            call = await gateway.attach(target(host, await session(host, script)), options=QUICK)
            stream = stream_of(gateway)
            await call.hang_up()
            await call.close()
            async with asyncio.timeout(5):
                while not stream.over:  # noqa: ASYNC110 - the stream tells nobody
                    await asyncio.sleep(0.02)


async def test_a_worker_that_is_not_there_or_is_not_trusted() -> None:
    async with MediaGateway() as gateway:
        once = CallOptions(attach_timeout=0.3, backoff=QUICK.backoff)
        with pytest.raises(ConnectError):
            await gateway.attach(Target("127.0.0.1:9", "t"), options=once)
        async with stage() as (host, script):
            config = await session(host, script)
            wrong = Target(
                host.app.media_address, "t", tls=True, ca_pem=make_certificate("x").certificate_pem
            )
            with pytest.raises((TlsError, ConnectError)):
                await gateway.attach(wrong, options=once)
            call = await gateway.attach(target(host, config), options=QUICK)
            await call.hang_up()
            await call.close()
        with pytest.raises(UsageError, match="credit_ms 7: 20 to 60000"):
            gateway.call(Target("127.0.0.1:9", "t"), credit_ms=7)


async def test_the_example_program(tmp_path: Path) -> None:
    async def ending(socket: Socket) -> None:
        await answering(socket)
        await socket.expect_audio(9600)

    write_wav(tmp_path / "q.wav", np.ones(4000, dtype=np.int16), 8000)
    program = Path(__file__).parents[3] / "examples" / "gateway.py"
    async with stage() as (host, script):
        script.behaviour = ending
        configs = [await session(host, script) for _ in range(2)]
        tickets = " ".join([*(f"ticket-{config.key.uid}" for config in configs), "nobody's"])
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *map(str, (program, tmp_path / "q.wav", host.app.media_address)),
            env={**os.environ, "PARLEY_TICKETS": tickets},
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(2):
            await (await script.socket(number)).expect_audio(24000)
        for config in configs:
            await asyncio.sleep(0.5)
            host.app.registry.terminate(config.key, EndReason.SCENARIO_COMPLETED, "said all")
        async with asyncio.timeout(20):
            out, _ = await process.communicate()
        lines = sorted(out.decode().splitlines())
        assert process.returncode == 1
        assert [line.split(";")[0] for line in lines[:2]] == [
            "line 1: over: ScenarioCompleted",
            "line 2: over: ScenarioCompleted",
        ]
        assert all(float(line.split()[-2]) > 0.2 for line in lines[:2])
        assert lines[2].startswith("line 3: error: UNAUTHENTICATED (ticket-unknown)")
