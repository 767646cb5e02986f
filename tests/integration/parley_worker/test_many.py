"""Many sessions on one stream of a real worker: what befalls one of them, or the stream, befalls no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from many_calls import ManySide, gateway
from media_calls import PCM24, Caller, Worker, calling, over, start, trailer, worker
from parley.media.v1 import media_pb2 as pb
from parley_worker.core.model import EndReason, SessionConfig, SessionState
from parley_worker.transport.leg import LegBounds
from parley_worker.transport.many_server import ManyBounds
from provider_script import ScriptedProvider, Socket, scripted

FRAME = bytes(range(256)) * 3 + bytes(192)
SILENCE = bytes(960)


async def answering(socket: Socket) -> None:
    """Answers the first frame with 200 ms of it."""
    await socket.greet()
    heard = await socket.expect_audio(960)
    await socket.say(heard[:960] * 10, "resp_1", "item_1")


@dataclass
class Floor:
    host: Worker
    script: ScriptedProvider
    side: ManySide

    async def session(self, **changes: object) -> SessionConfig:
        config = self.host.admit(self.script.url, **changes)
        await self.host.state(config, SessionState.READY)
        return config

    async def call(self, handle: int, config: SessionConfig, **fields: object) -> Caller:
        """Attach under the handle."""
        caller = self.caller(handle)
        await caller.send(start=start(config, **fields))
        await caller.expect("started")
        return caller

    def caller(self, handle: int) -> Caller:
        return Caller(self.side.leg(handle))


@asynccontextmanager
async def floor(leg: LegBounds | None = None, many: ManyBounds | None = None) -> AsyncIterator[Floor]:
    """A worker, a provider that answers, and a gateway's stream; at the end no session is left."""
    waits = {"many": many} if many else {}
    async with scripted(answering) as script, worker(leg=leg, waits=waits, capacity=300) as host:  # type: ignore[arg-type]
        async with gateway(host.app.media_address) as side:
            yield Floor(host, script, side)
        host.app.registry.terminate_all(EndReason.TERMINATED, "test over")
        await host.nothing_left()


async def answered(caller: Caller) -> None:
    """Says a frame, and hears the answer to its end."""
    await caller.speak(FRAME)
    await caller.expect("mark")
    assert caller.audio() == FRAME * 10


async def test_one_wrong_ticket_among_many() -> None:
    async with floor() as f:
        configs = [await f.session() for _ in range(3)]
        callers = [await f.call(handle, config) for handle, config in enumerate(configs)]
        wrong = f.caller(9)
        await wrong.send(start=start(ticket="nobody's"))
        await wrong.speak(FRAME)
        error = await wrong.ended()
        assert error is not None
        assert (error.code(), trailer(error), trailer(error, "parley-field")) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "ticket-unknown",
            "start.ticket",
        )
        await asyncio.gather(*map(answered, callers))
        again = await f.call(9, await f.session())
        await answered(again)
        for caller in (*callers, again):
            await caller.close()


async def test_one_hangs_up_one_is_ended_and_the_others_talk() -> None:
    async with floor() as f:
        configs = [await f.session() for _ in range(3)]
        leaving, ended, staying = [await f.call(n + 1, config) for n, config in enumerate(configs)]
        await leaving.send(hangup=pb.Hangup(note="bye"))
        assert (await leaving.expect("ended")).reason == EndReason.CALLER_HANGUP
        assert await leaving.ended() is None
        f.host.app.registry.terminate(configs[1].key, EndReason.TERMINATED, "enough")
        assert (await ended.expect("ended")).reason == EndReason.TERMINATED
        assert await ended.ended() is None
        await answered(staying)
        assert not f.side.done.is_set()
        await staying.close()


async def test_one_reads_slowly_and_the_others_talk() -> None:
    async with floor(leg=LegBounds(messages=30)) as f:
        slow_config = await f.session()
        slow, good = await f.call(1, slow_config), await f.call(2, await f.session())
        await f.side.leg_of(1).say(credit=pb.Credit(audio_bytes=1920))
        await slow.speak(FRAME)
        socket = await f.script.socket(0)
        await slow.expect("audio", 2)
        await socket.say(SILENCE * 50, "resp_2", "item_2")
        await answered(good)
        error = await slow.ended()
        assert trailer(error) == "slow-reader"
        assert len(slow.of("audio")) == 2
        await f.host.state(slow_config, SessionState.DETACHED)
        (gone,) = [r for r in f.host.of(slow_config, "event") if r.type == "leg_detached"]
        assert gone.fields["cause"] == "slow-reader"
        await slow.close()
        await good.close()


async def test_credit_paces_a_burst() -> None:
    async with floor() as f:
        config = await f.session()
        caller = f.caller(1)
        await caller.send(start=start(config, playout_mode=pb.PLAYOUT_MODE_BURST))
        await f.side.leg_of(1).say(credit=pb.Credit(audio_bytes=1000))
        await caller.expect("started")
        await caller.speak(FRAME)
        await caller.expect("audio")
        await asyncio.sleep(0.2)
        first = len(caller.audio())
        assert 1000 <= first < 1000 + 4800
        assert not caller.of("mark")
        await f.side.leg_of(1).say(credit=pb.Credit(audio_bytes=100_000))
        await caller.expect("mark")
        assert caller.audio() == FRAME * 10
        await caller.close()


@pytest.mark.parametrize("back_over", ["Converse", "ConverseMany"])
async def test_a_cut_stream_holds_all_and_either_rpc_brings_them_back(back_over: str) -> None:
    async with floor() as f:
        configs = [await f.session() for _ in range(5)]
        callers = [await f.call(n, config) for n, config in enumerate(configs)]
        tokens = [(await caller.expect("started")).resume_token for caller in callers]
        f.side.stream.cancel()
        for config in configs:
            await f.host.state(config, SessionState.DETACHED)
        for caller in callers:
            await caller.close()
        with over(back_over):
            for token in tokens:
                async with calling(f.host, start(resume_token=token)) as back:
                    await answered(back)
                    await back.send(hangup=pb.Hangup())
                    await back.expect("ended")


async def test_all_come_back_at_once_on_one_new_stream() -> None:
    async with floor() as f:
        configs = [await f.session() for _ in range(20)]
        callers = [await f.call(n, config) for n, config in enumerate(configs)]
        tokens = [(await caller.expect("started")).resume_token for caller in callers]
        f.side.stream.cancel()
        for config in configs:
            await f.host.state(config, SessionState.DETACHED)
        async with gateway(f.host.app.media_address) as side:
            back = [Caller(side.leg(n + 100)) for n in range(20)]
            first = start(input_format=PCM24, output_format=PCM24)
            entries = []
            for n, token in enumerate(tokens):
                first.resume_token = token
                entries.append(pb.CallerEntry(handle=n + 100, message=pb.ConverseRequest(start=first)))
            await side.write(entries)
            await asyncio.gather(*(caller.expect("started") for caller in back))
            await asyncio.gather(*map(answered, back))
            await side.stream.done_writing()
            for caller in back:
                assert trailer(await caller.ended()) == "half-closed"
            async with asyncio.timeout(5):
                await side.done.wait()
            assert side.status is None
            for caller in (*callers, *back):
                await caller.close()


async def test_the_newer_attach_wins_whichever_rpc_it_comes_by() -> None:
    async with floor() as f:
        config = await f.session()
        many = await f.call(1, config)
        token = (await many.expect("started")).resume_token
        async with calling(f.host, start(resume_token=token)) as single:
            token = (await single.expect("started")).resume_token
            error = await many.ended()
            assert error is not None
            assert (error.code(), trailer(error)) == (grpc.StatusCode.ABORTED, "replaced")
            back = f.caller(1)
            await back.send(start=start(resume_token=token))
            await back.expect("started")
            assert trailer(await single.ended()) == "replaced"
            await answered(back)
        await many.close()
        await back.close()


async def test_garbage_under_one_handle_leaves_the_others_alone() -> None:
    async with floor() as f:
        good = await f.call(1, await f.session())
        unknown, twice = f.caller(77), await f.call(2, await f.session())
        await unknown.speak(FRAME)
        await unknown.speak(FRAME)
        await twice.send(start=start(ticket="x"))
        assert trailer(await unknown.ended()) == "start-missing"
        assert trailer(await twice.ended()) == "start-repeated"
        await answered(good)
        for caller in (good, unknown, twice):
            await caller.close()


async def test_two_hundred_sessions_talk_in_few_messages() -> None:
    count = 200
    async with floor() as f:
        configs = [f.host.admit(f.script.url) for _ in range(count)]
        for config in configs:
            await f.host.state(config, SessionState.READY)
        callers = [f.caller(n) for n in range(count)]
        entries = [
            pb.CallerEntry(handle=n, message=pb.ConverseRequest(start=start(config)))
            for n, config in enumerate(configs)
        ]
        await f.side.write(entries)
        await asyncio.gather(*(caller.expect("started") for caller in callers))
        before = f.side.responses
        spoken = [pb.CallerEntry(handle=n, audio=FRAME, sequence=1) for n in range(count)]
        await f.side.write(spoken)
        await asyncio.gather(*(caller.expect("mark") for caller in callers))
        assert all(caller.audio() == FRAME * 10 for caller in callers)
        frames = sum(len(caller.of("audio")) for caller in callers)
        assert frames == count * 10
        assert f.side.responses - before < frames / 5
        assert max(f.side.sizes) <= 256 * 1024
        for caller in callers:
            await caller.close()
