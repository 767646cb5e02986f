"""A worker of several processes: spread admissions, lost and hung shards, one page of metrics, one drain."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from media_calls import Caller, calling, start
from nats_server import find_program
from parley.control.v1 import control_pb2 as pb
from parley_worker.core.model import EndReason
from provider_script import Socket, scripted
from shards import Sharded, alive, children, eventually, exists, idle, kill, sharded

FRAME = bytes(960)


async def test_sessions_are_spread_and_attach_at_the_endpoint_of_their_shard() -> None:
    async with scripted(idle) as script, sharded(2, capacity="3") as worker:
        first, second, third = [await worker.admit(script.url, f"u{n}") for n in range(3)]
        assert [first.shard, second.shard, third.shard] == [0, 1, 0]
        listed = [shard["endpoint"] for shard in worker.worker.ready["shards"]]
        assert [first.endpoint, second.endpoint] == listed
        assert first.endpoint != second.endpoint
        again = (await worker.operator.admit(worker.operator.request(script.url, "u1"))).admitted
        assert again == second
        refused = (await worker.operator.admit(worker.operator.request(script.url, "u3"))).refused
        assert refused.reason == pb.REFUSAL_REASON_FULL
        for uid, admitted in (("u0", first), ("u1", second)):
            async with calling(admitted.endpoint, start(session_uid=uid)) as caller:
                await caller.expect("started")
        async with calling(second.endpoint, start(session_uid="u0")) as stranger:
            error = await stranger.ended()
            assert error is not None
        report = worker.watch.of("u1")[-1]
        assert (report.shard, report.endpoint) == (1, second.endpoint)


async def test_control_reaches_the_shard_of_the_session() -> None:
    async with scripted(idle) as script, sharded(2, shard_timeout="30") as worker:
        for uid in ("a", "b"):
            await worker.admit(script.url, uid)
        stub, fence = worker.operator.stub, worker.operator.fence()
        ref = worker.operator.request(script.url, "b").session
        await worker.watch.until(lambda: worker.watch.of("b")[-1].state == pb.SESSION_STATE_READY)
        assert (await stub.Command(pb.CommandRequest(session=ref, fence=fence, clear=True))).found
        with pytest.raises(grpc.aio.AioRpcError) as wrong:
            await stub.Terminate(pb.TerminateRequest(session=ref, fence=fence, reason="Bored"))
        assert wrong.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        ended = await stub.Terminate(pb.TerminateRequest(session=ref, fence=fence, message="enough"))
        assert ended.found
        assert ended.worker_instance_id == worker.worker.instance
        assert (await worker.watch.end_of("b")).end_reason == EndReason.TERMINATED
        assert not (await stub.Terminate(pb.TerminateRequest(session=ref, fence=fence))).found
        await worker.watch.until(lambda: worker.watch.workers[-1].sessions == 1)


async def test_a_newer_attempt_takes_over_from_a_shard_to_another() -> None:
    async with scripted(idle) as script, sharded(2, shard_timeout="30") as worker:
        first = await worker.admit(script.url, "u")
        await worker.admit(script.url, "other")
        second = await worker.admit(script.url, "u", attempt=2)
        assert second.shard == first.shard
        await worker.watch.until(lambda: worker.watch.workers[-1].sessions == 2)
        assert worker.watch.ended("u") is None, "it goes on: that is no end"
        late = (await worker.operator.admit(worker.operator.request(script.url, "u"))).refused
        assert late.reason == pb.REFUSAL_REASON_STALE_ATTEMPT


async def speak(caller: Caller, frames: int) -> None:
    for _ in range(frames):
        await caller.speak(FRAME)
        await asyncio.sleep(0.02)


async def longest_stall(size: Callable[[], int], seconds: float) -> float:
    """The longest time in which a size did not grow, as seen every 20 ms."""
    loop = asyncio.get_running_loop()
    before, since, longest = size(), loop.time(), 0.0
    until = since + seconds
    while (now := loop.time()) < until:
        if (found := size()) != before:
            before, since = found, now
        longest = max(longest, now - since)
        await asyncio.sleep(0.02)
    return longest


async def test_a_killed_shard_takes_its_own_sessions_only_and_comes_back() -> None:
    talking: list[Socket] = []

    async def talks(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(len(FRAME))
        talking.append(socket)
        await socket.say(FRAME * 150, "resp_1", "item_1", finish=False)
        await asyncio.Event().wait()

    async with scripted(talks) as script, sharded(2, log_format="plain") as worker:
        lost, kept = [await worker.admit(script.url, uid) for uid in ("lost", "kept")]
        async with (
            calling(lost.endpoint, start(session_uid="lost")) as gone,
            calling(kept.endpoint, start(session_uid="kept")) as stays,
        ):
            await gone.expect("started")
            await stays.expect("started")
            speaking = asyncio.create_task(speak(stays, 150))
            await stays.expect("audio")
            provider = talking[0]
            stalls = asyncio.gather(
                longest_stall(lambda: len(provider.audio), 2), longest_stall(lambda: len(stays.audio()), 2)
            )
            kill(worker.pids[lost.shard])
            report = await worker.watch.end_of("lost", timeout=2)
            assert report.end_reason == EndReason.SHARD_LOST
            assert report.end_message == "shard 0 of the worker was killed by SIGKILL"
            assert report.HasField("end_time")
            assert report.HasField("start_time")
            assert await gone.ended(5) is not None
            assert max(await stalls) < 1
            await speaking
            assert len(await provider.expect_audio(150 * len(FRAME))) == 150 * len(FRAME)
            await worker.came_back()
            # The dead shard's place is free, also for the session that it lost.
            back = await worker.admit(script.url, "lost", attempt=2)
            assert back.shard == lost.shard
            async with calling(back.endpoint, start(session_uid="lost")) as caller:
                await caller.expect("started")
            assert worker.watch.ended("kept") is None
        _, page = await worker.get("/metrics")
        assert 'parley_worker_shard_losses_total{cause="signal",shard="0"} 1.0' in page
        assert 'parley_worker_sessions_ended_total{reason="ShardLost"} 1.0' in page
        assert 'parley_worker_shard_up{shard="0"} 1.0' in page
        worker.worker.process.send_signal(signal.SIGTERM)
        await worker.watch.until(lambda: worker.watch.workers[-1].state == pb.WORKER_STATE_DRAINING)
        worker.worker.process.send_signal(signal.SIGTERM)
        assert await worker.worker.wait() == 0
    assert b"shard 0 was killed by SIGKILL" in worker.worker.log


async def test_a_hung_shard_is_found_out_and_replaced() -> None:
    async with scripted(idle) as script, sharded(2, shard_timeout="1") as worker:
        admitted = [await worker.admit(script.url, uid) for uid in ("a", "b")]
        hung = worker.pids[admitted[0].shard]
        kill(hung, signal.SIGSTOP)
        # It has as few sessions as the other one: what waits for its answer is carried there.
        late = await worker.admit(script.url, "c")
        assert late.shard == 1
        report = await worker.watch.end_of("a")
        assert report.end_reason == EndReason.SHARD_LOST
        assert report.end_message == "shard 0 of the worker gave no sign of life and was killed"
        assert not alive(hung)
        await worker.came_back()
        assert worker.watch.ended("b") is None
        _, page = await worker.get("/metrics")
        assert 'parley_worker_shard_losses_total{cause="silent",shard="0"} 1.0' in page


async def test_a_supervisor_that_was_stopped_itself_blames_no_shard() -> None:
    async with scripted(idle) as script, sharded(2, shard_timeout="1") as worker:
        await worker.admit(script.url, "a")
        kill(worker.worker.process.pid, signal.SIGSTOP)
        await asyncio.sleep(3)
        kill(worker.worker.process.pid, signal.SIGCONT)
        await asyncio.sleep(1)
        assert all(alive(pid) for pid in worker.pids)
        assert worker.watch.ended("a") is None


async def lag(pid: int, seconds: float) -> None:
    """Hold a process up for most of the time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while loop.time() < until:
        kill(pid, signal.SIGSTOP)
        await asyncio.sleep(0.25)
        kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.03)


async def test_a_lagging_shard_is_left_out_until_it_keeps_up_again() -> None:
    async with scripted(idle) as script, sharded(2, capacity="40", max_lag="0.1") as worker:
        lagging = asyncio.create_task(lag(worker.pids[0], 12))
        shards = []
        for n in range(40):
            shards.append((await worker.admit(script.url, f"u{n}")).shard)
            # The one with fewer sessions is the lagging one: it would be chosen.
            if shards[-3:] == [1, 1, 1] and shards.count(0) < shards.count(1) - 2:
                break
            await asyncio.sleep(0.2)
        assert shards[-3:] == [1, 1, 1]
        await lagging
        async with asyncio.timeout(20):
            while (await worker.admit(script.url, f"v{len(shards)}")).shard != 0:
                shards.append(1)
                await asyncio.sleep(0.3)


async def test_when_every_shard_lags_the_worker_is_overloaded() -> None:
    async with scripted(idle) as script, sharded(1, capacity="100", max_lag="0.1") as worker:
        lagging = asyncio.create_task(lag(worker.pids[0], 8))
        answer, n = pb.AdmitResponse(), 0
        async with asyncio.timeout(10):
            while not answer.HasField("refused"):
                answer = await worker.operator.admit(worker.operator.request(script.url, f"u{n}"))
                n += 1
                await asyncio.sleep(0.2)
        assert answer.refused.reason == pb.REFUSAL_REASON_OVERLOADED
        assert "the event loop lags" in answer.refused.message
        await lagging


async def test_a_supervisor_that_dies_takes_its_shards_with_it() -> None:
    async with sharded(2) as worker:
        kill(worker.worker.process.pid)
        await worker.worker.wait()
        await eventually(lambda: not any(alive(pid) for pid in worker.pids), 5)


async def test_all_shards_are_on_one_page_of_metrics(tmp_path: Path) -> None:
    async with scripted(idle) as script, sharded(2) as worker:
        for uid in ("a", "b", "c"):
            await worker.admit(script.url, uid)
        await worker.watch.until(lambda: worker.watch.workers[-1].sessions == 3)
        await worker.watch.until(
            lambda: all(worker.watch.of(u)[-1].state == pb.SESSION_STATE_READY for u in ("a", "b", "c"))
        )
        status, page = await worker.get("/metrics")
        assert status == 200
        lines = page.splitlines()
        helps = [line.split()[2] for line in lines if line.startswith("# HELP ")]
        assert len(helps) == len(set(helps))
        assert 'parley_worker_sessions{shard="0",state="ready"} 2.0' in lines
        assert 'parley_worker_sessions{shard="1",state="ready"} 1.0' in lines
        assert "parley_worker_admissions_total 3.0" in lines
        assert "parley_worker_capacity_sessions 8.0" in lines
        series = [line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")]
        assert len(series) == len(set(series))
        for once in ("build_info", "draining", "admissions_total"):
            assert len([s for s in series if s.startswith(f"parley_worker_{once}")]) == 1
        for shard in ("supervisor", "0", "1"):
            assert f'process_resident_memory_bytes{{shard="{shard}"}}' in series
        if promtool := find_program("promtool"):
            check = await asyncio.create_subprocess_exec(
                *(promtool, "check", "metrics"), stdin=-1, stdout=-1, stderr=asyncio.subprocess.STDOUT
            )
            out, _ = await check.communicate(page.encode())
            assert (check.returncode, out.decode()) == (0, "")


async def test_metrics_do_not_wait_for_a_shard_that_is_silent() -> None:
    async with sharded(2, shard_timeout="30") as worker:
        kill(worker.pids[0], signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        status, page = await worker.get("/metrics")
        assert asyncio.get_running_loop().time() - began < 4
        assert status == 200
        assert 'parley_worker_legs{shard="1"} 0.0' in page
        assert 'parley_worker_legs{shard="0"}' not in page
        kill(worker.pids[0], signal.SIGCONT)


async def health(endpoint: str) -> int:
    async with grpc.aio.insecure_channel(endpoint) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return int(answer.status)


async def test_sigterm_drains_every_shard_until_the_deadline() -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    async with scripted(idle) as script, sharded(2, drain_timeout="2") as worker:
        admitted = [await worker.admit(script.url, uid) for uid in ("a", "b")]
        assert [await health(a.endpoint) for a in admitted] == [serving, serving]
        assert await worker.get("/readyz") == (200, "ready\n")
        async with (
            calling(admitted[0].endpoint, start(session_uid="a")) as one,
            calling(admitted[1].endpoint, start(session_uid="b")) as two,
        ):
            for caller in (one, two):
                await caller.expect("started")
            worker.worker.process.send_signal(signal.SIGTERM)
            for caller in (one, two):
                await caller.expect("draining")
            assert await worker.get("/readyz") == (503, "draining\n")
            assert await health(admitted[0].endpoint) != serving
            refused = (await worker.operator.admit(worker.operator.request(script.url, "c"))).refused
            assert refused.reason == pb.REFUSAL_REASON_DRAINING
            for caller in (one, two):
                assert (await caller.expect("ended")).reason == EndReason.DRAIN_DEADLINE
                assert await caller.ended() is None
            assert (await worker.watch.end_of("b")).end_reason == EndReason.DRAIN_DEADLINE
        assert await worker.worker.wait() == 0
        assert not any(alive(pid) for pid in worker.pids)


async def test_sigterm_leaves_sessions_what_the_machine_gives() -> None:
    """A machine of the spot market kills 10 s after SIGTERM, whatever a pool would like."""
    limits = {"drain_timeout": "600", "termination_grace": "10", "flush_timeout": "0.5"}
    async with scripted(idle) as script, sharded(2, revision="r1", **limits) as worker:
        [admitted] = [await worker.admit(script.url, "a")]
        async with calling(admitted.endpoint, start(session_uid="a")) as caller:
            await caller.expect("started")
            begun = time.time()
            worker.worker.process.send_signal(signal.SIGTERM)
            told = (await caller.expect("draining")).deadline_time.ToMilliseconds() / 1000
            assert 0 < told - begun < 3
            await worker.watch.until(lambda: worker.watch.workers[-1].HasField("drain_deadline_time"))
            report = worker.watch.workers[-1]
            assert abs(report.drain_deadline_time.ToMilliseconds() / 1000 - told) < 0.5
            assert (report.revision, report.sessions_total) == ("r1", 1)
            assert report.memory_bytes > 50 << 20, "that of both shards is counted"
            assert 0 < begun - report.start_time.ToMilliseconds() / 1000 < 120
            assert (await caller.expect("ended")).reason == EndReason.DRAIN_DEADLINE
        assert await worker.worker.wait() == 0


async def test_the_operator_may_say_that_there_is_less_time() -> None:
    async with scripted(idle) as script, sharded(2, drain_timeout="600") as worker:
        [admitted] = [await worker.admit(script.url, "a")]
        async with calling(admitted.endpoint, start(session_uid="a")) as caller:
            await caller.expect("started")
            worker.worker.process.send_signal(signal.SIGTERM)
            await caller.expect("draining")
            timeout = Duration(seconds=1)
            fence = worker.operator.fence()
            await worker.operator.stub.Drain(pb.DrainRequest(fence=fence, timeout=timeout))
            held = await worker.operator.stub.Drain(
                pb.DrainRequest(fence=fence, timeout=timeout, exactly=True)
            )
            assert held.deadline_time.ToMilliseconds() / 1000 < time.time() + 2
            assert (await caller.expect("ended")).reason == EndReason.DRAIN_DEADLINE
        assert await worker.worker.wait() == 0


async def test_a_drained_worker_leaves_as_soon_as_its_calls_are_over() -> None:
    async with scripted(idle) as script, sharded(2, drain_timeout="600", shard_timeout="30") as worker:
        await worker.admit(script.url, "a")
        worker.worker.process.send_signal(signal.SIGTERM)
        await worker.watch.until(lambda: worker.watch.workers[-1].state == pb.WORKER_STATE_DRAINING)
        ref = worker.operator.request(script.url, "a").session
        terminate = pb.TerminateRequest(session=ref, fence=worker.operator.fence())
        assert (await worker.operator.stub.Terminate(terminate)).found
        assert await worker.worker.wait() == 0


def shown(worker: Sharded) -> bytes:
    """Arguments of the worker's processes, and where it can be read their environment."""
    pids = [worker.worker.process.pid, *worker.children()]
    found = b""
    for pid in pids:
        found += (Path("/proc") / str(pid) / "cmdline").read_bytes()
        try:
            found += (Path("/proc") / str(pid) / "environ").read_bytes()
        except PermissionError:
            # Hidden from everybody but root: what the processes are started with is below in any case.
            pass
    return found


async def test_keys_are_in_no_argument_environment_or_log() -> None:
    secrets = {"twilio_auth_token": "a-token-of-twilio", "telephony_address": "127.0.0.1:0"}
    async with scripted(idle) as script, sharded(2, log_level="debug", **secrets) as worker:
        for uid in ("a", "b"):
            await worker.admit(script.url, uid)
        text = shown(worker)
        assert b"parley_worker.shard" in text
        assert b"sk-a-secret-key" not in text
        for pid in worker.pids:
            line = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
            assert line[1:3] == [b"-m", b"parley_worker.shard"]
            assert line[3].isdigit()
        kill(worker.pids[0])
        await worker.watch.end_of("a")
        _, page = await worker.get("/metrics")
        assert "sk-a-secret-key" not in page
    assert b"sk-a-secret-key" not in worker.worker.log
    assert b"a-token-of-twilio" not in worker.worker.log


async def test_scenarios_of_a_lost_shard_are_gone_and_buried() -> None:
    async with scripted(idle) as script, sharded(2) as worker:
        scenario = pb.Scenario(source="def main(context):\n    pass\n")
        await worker.admit(script.url, "a", scenario=scenario)
        await worker.watch.until(lambda: worker.watch.of("a")[-1].state == pb.SESSION_STATE_READY)
        shard = worker.pids[0]
        await eventually(lambda: any(children(zygote) for zygote in children(shard)), 15)
        (zygote,) = children(shard)
        below = [zygote, *children(zygote)]
        kill(worker.pids[0])
        assert (await worker.watch.end_of("a")).end_reason == EndReason.SHARD_LOST
        await worker.came_back()
        await eventually(lambda: not any(exists(pid) for pid in below), 10)
        assert len(worker.children()) == 2


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
async def test_shards_can_be_bound_to_a_core_each_and_their_scenarios_are_not() -> None:
    async with scripted(idle) as script, sharded(2, pin_shards="true") as worker:
        bound = [os.sched_getaffinity(pid) for pid in worker.pids]
        assert [len(cores) for cores in bound] == [1, 1]
        assert bound[0] != bound[1]
        await worker.admit(script.url, "a", scenario=pb.Scenario(source="def main(context):\n    pass\n"))
        await eventually(lambda: bool(children(worker.pids[0])), 15)
        (zygote,) = children(worker.pids[0])
        await eventually(lambda: os.sched_getaffinity(zygote) == os.sched_getaffinity(0), 5)


def threads(pid: int) -> list[tuple[str, Path]]:
    """A process's threads with their names; its first thread's is `first`."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [("first" if t.name == str(pid) else (t / "comm").read_text().strip(), t) for t in tasks]


def of_threads(pid: int, read: Callable[[int], int]) -> dict[str, set[int]]:
    """What is read of a process's threads by their numbers, by their names."""
    found: dict[str, set[int]] = {}
    for name, thread in threads(pid):
        found.setdefault(name, set()).add(read(int(thread.name)))
    return found


def policies(pid: int) -> dict[str, set[int]]:
    return of_threads(pid, os.sched_getscheduler)


def nices(pid: int) -> dict[str, set[int]]:
    return of_threads(pid, partial(os.getpriority, os.PRIO_PROCESS))


async def test_threads_of_grpc_do_not_interrupt_the_event_loop_of_their_shard() -> None:
    async with scripted(idle) as script, sharded(1) as worker:
        await worker.admit(script.url, "a")
        found = policies(worker.pids[0])
        assert found["first"] == {os.SCHED_OTHER}
        assert found["event_engine"] == {os.SCHED_BATCH}
    async with sharded(1, batch_threads="false") as worker:
        assert set().union(*policies(worker.pids[0]).values()) == {os.SCHED_OTHER}


async def test_the_supervisor_gives_way_to_its_shards_also_to_one_that_was_started_again() -> None:
    async with sharded(1) as worker:
        await worker.get("/metrics")
        found = nices(worker.worker.process.pid)
        assert (found["first"], found["event_engine"]) == ({16}, {16})
        assert set().union(*nices(worker.pids[0]).values()) == {0}
        kill(worker.pids[0])
        await worker.came_back()
        (shard,) = worker.children()
        assert shard != worker.pids[0]
        assert set().union(*nices(shard).values()) == {0}
    async with sharded(1, supervisor_nice="0") as worker:
        assert set().union(*nices(worker.worker.process.pid).values()) == {0}


@asynccontextmanager
async def busy_beside(pid: int) -> AsyncIterator[None]:
    """A core that has nothing left: a process's threads and one that computes without end are alone on it."""
    core = {min(os.sched_getaffinity(0))}
    for _, thread in threads(pid):
        os.sched_setaffinity(int(thread.name), core)
    spinner = await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass")
    os.sched_setaffinity(spinner.pid, core)
    try:
        yield
    finally:
        spinner.kill()
        await spinner.wait()


async def test_a_supervisor_that_gives_way_still_answers_on_a_core_that_is_full() -> None:
    async with scripted(idle) as script, sharded(1) as worker, busy_beside(worker.worker.process.pid):
        await worker.admit(script.url, "a")
        assert (await worker.get("/healthz"))[0] == 200
        heard = len(worker.watch.workers)
        await worker.watch.until(lambda: len(worker.watch.workers) >= heard + 3)
        status, page = await worker.get("/metrics")
        assert status == 200
        assert "parley_worker_shard_losses_total{" not in page


def turns_of(pid: int, name: str) -> int:
    """How often threads of that name had the processor."""
    named = [thread for found, thread in threads(pid) if found == name]
    return sum(int((thread / "schedstat").read_text().split()[2]) for thread in named)


async def test_sockets_are_not_left_to_the_threads_of_grpcs_pool() -> None:
    frames = 300
    async with scripted(idle) as script, sharded(1) as worker:
        admitted = await worker.admit(script.url, "a")
        async with calling(admitted.endpoint, start(session_uid="a")) as caller:
            await caller.expect("started")
            before = turns_of(worker.pids[0], "event_engine")
            for _ in range(frames):
                await caller.speak(FRAME)
                await asyncio.sleep(0.005)
            # Timers are theirs still, some 50 a second.
            assert turns_of(worker.pids[0], "event_engine") - before < frames * 0.8


async def test_a_shard_that_cannot_start_ends_the_worker_with_its_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError) as failure:
            async with sharded(2, media_address=f"127.0.0.1:{port - 1}"):
                pass
    assert f"cannot start: shard 1 did not start: cannot listen on 127.0.0.1:{port}" in str(failure.value)
