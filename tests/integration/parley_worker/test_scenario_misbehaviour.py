"""Scenarios that do everything wrong, in one worker, beside calls that go on as if nothing were."""

from __future__ import annotations

import asyncio
import os
import re
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from media_calls import KEY, Worker, calling, start, worker
from parley_local.config import LocalProviderConfig
from parley_local.server import serve
from parley_worker.core.agent import MediaAccess, ScenarioConfig, ScenarioLimits
from parley_worker.core.model import EndReason, SessionConfig, SessionState

LOCAL = LocalProviderConfig(port=0, audio_speed=8)
LIMITS = ScenarioLimits(handler_timeout=0.5, async_handler_timeout=1.0, memory_bytes=128 * 1024 * 1024)
HEAD = """import asyncio, ctypes, os, re, socket, subprocess, sys, threading, time
from parley_scenario import *
"""
STARTED = """
async def main(ctx):
    def started(event):
        {}
    def raw(*bodies):
        connection = ctx._link._write.__self__._socket
        connection.setblocking(True)
        connection.sendall(b"".join(len(body).to_bytes(4, "big") + body for body in bodies))
    ctx.add_event_listener(AppEvents.Started, started)
"""
REQUEST = '{{"t":"http","id":"x","method":"GET","url":"{0}","headers":{{}},"timeout":{1}}}'
LINE = "scenario.py:6: "

# What the handler does, and what the session's end says.
MISDEEDS = {
    "busy": ("while True: pass", LINE + "HandlerTimeout: held the scenario for more than 0.5 s"),
    "blocked": ("time.sleep(60)", LINE + "HandlerTimeout: held"),
    "stubborn": (
        "exec('while True:\\n  try:\\n    while True: pass\\n  except BaseException: pass')",
        "<string>:|" + LINE + "HandlerTimeout: held",
    ),
    "deep in C": ("sum(range(10**12))", LINE + "the scenario did not answer for 5.5 s"),
    "much memory": ("bytearray(1 << 30)", LINE + "MemoryError"),
    "more memory": ("kept = [bytes(1 << 22) for _ in range(1000)]", LINE + "MemoryError"),
    "crash": ("ctypes.string_at(1)", LINE + "the scenario's process was ended by signal 11"),
    "exit": ("os._exit(3)", "the scenario's process ended by itself with exit status 3"),
    "polite exit": ("sys.exit(1)", LINE + "SystemExit: 1"),
    "kill": ("os.kill(os.getppid(), 9)", LINE + "PermissionError: .*not permitted"),
    "fork": ("os.fork()", LINE + "PermissionError"),
    "program": ("subprocess.run(['true'])", LINE + "PermissionError"),
    "network": ("socket.create_connection(('127.0.0.1', 1))", LINE + "PermissionError"),
    "reading": ("open('/etc/hostname').read()", LINE + "PermissionError"),
    "writing": ("open('/tmp/parley-scenario', 'w').write('x')", LINE + "PermissionError"),
    "timers": ("[ctx.set_timeout(print, 9) for _ in range(101)]", LINE + "ScenarioMistake: 100 timers are"),
    "flood": (
        "[ctx.log.info(n) for n in range(5000)]",
        "the scenario asks for more than 200 things a second",
    ),
    "garbage": (
        "[os.write(fd, b'x' * 64) for fd in range(3, 9) if os.path.exists(f'/proc/self/fd/{fd}')]",
        "the scenario's process sent what is no command|.*OSError|.*BlockingIOError",
    ),
    "flood of what is not counted": (
        'raw(*[b\'{"t":"pong"}\'] * 20000)',
        "the scenario sends more than 1048576 bytes a second",
    ),
    "large frames": (
        "raw(*[b'{\"t\":\"x\",\"x\":[' + b'[],' * 600000 + b'1]}'] * 4)",
        # Sending may also outlast the time of a handler, which leaves half a frame.
        "the scenario sends more than|the scenario's process sent what is no command"
        "|.*HandlerTimeout|the scenario's process ended by itself",
    ),
    "too large a frame": (
        'raw(b\'{"t":"pong","x":"\' + b\'x\' * 2100000 + b\'"}\')',
        "the scenario's process sent what is no command: a frame announces",
    ),
    "no number": (
        f"raw({REQUEST.format('http://x/', 'NaN')!r}.encode())",
        "the scenario's process sent what is no command: a frame is not JSON",
    ),
    "endless time": (
        f"raw({REQUEST.format('http://x/', '1e999')!r}.encode())",
        "the scenario's process sent what is no command: a request has no headers or no timeout",
    ),
    "too long a time": (
        f"raw({REQUEST.format('http://x/', '1' + '0' * 400)!r}.encode())",
        "the scenario's process sent what is no command: a request has no headers or no timeout",
    ),
    "threads": (
        "threading.stack_size(65536); "
        "[threading.Thread(target=time.sleep, args=(30,), daemon=True).start() for _ in range(200)]",
        "the scenario runs more than 64 threads",
    ),
    "no function": (
        "ctx.client.add_event_listener(RealtimeAPIEvents.ResponseCreated, 5); ctx.client.response_create()",
        "ScenarioMistake: a handler of OpenAI.RealtimeAPI.ResponseCreated is a int: register a function",
    ),
    "unknown event": (
        "ctx.caller.add_event_listener('Call.Conected', print)",
        LINE + "UnknownEvent: the caller has no event 'Call.Conected': did you mean 'Call.Connected'",
    ),
    "unknown client event": ("ctx.client.send_event({'type': 'x'})", LINE + "InvalidEventError: type 'x'"),
    "missing field": ("ctx.client.conversation_item_create({})", LINE + "InvalidEventError"),
    "a task": ("asyncio.get_event_loop().create_task; ctx.spawn(asyncio.sleep('x'))", ".*TypeError"),
}
BEFORE_READY = {
    "syntax": ("async def main(ctx)\n  pass", "scenario.py:3: SyntaxError: expected ':'"),
    "at import": ("\n\nraise KeyError('k')", "scenario.py:5: KeyError: 'k'"),
    "no main": ("", "ScenarioMistake: scenario.py has no function 'main'"),
    "main is none": ("main = 5", "ScenarioMistake: scenario.py:main is a int"),
    "main hangs": (
        "async def main(ctx):\n  await asyncio.sleep(9)",
        ".*ScenarioMistake: .* did not end within 1 s",
    ),
}


def admit(host: Worker, url: str, code: str, **changes: Any) -> SessionConfig:
    scenario = ScenarioConfig(source=HEAD + code, limits=LIMITS)
    limits = {"attach_timeout": 60}
    return host.admit(url, provider={"model": "local"}, scenario=scenario, limits=limits, **changes)


async def outcome(host: Worker, config: SessionConfig) -> str:
    report = await host.state(config, SessionState.ENDED, timeout=40)
    return f"{report.end_reason}: {report.end_message}"


async def healthy(host: Worker, url: str) -> int:
    """A call with a line of some length; the frames that came. All of the line is heard."""
    code = """
    async def main(ctx):
        ctx.caller.add_event_listener(CallEvents.Connected, lambda event: ctx.spawn(talk(ctx)))
    async def talk(ctx):
        words = "one two three four five six seven eight nine ten " * 3
        ctx.terminate(" ".join([await ctx.say(words) for _ in range(2)]))
    """
    config = admit(host, url, textwrap.dedent(code))
    await host.state(config, SessionState.READY)
    async with calling(host, start(config)) as caller:
        ended = await caller.expect("ended", timeout=50)
        assert (ended.reason, ended.message) == (
            "ScenarioCompleted",
            "the scenario has ended: heard heard",
        )
        return len(caller.of("audio"))


def late_share(host: Worker) -> float:
    """How many of the frames sent so far were more than 50 ms late."""
    total = late = 0.0
    for family in host.app.metrics.registry.collect():
        for sample in family.samples:
            if "late" in sample.name and sample.name.endswith("_bucket"):
                if sample.labels["le"] == "+Inf":
                    total = sample.value
                elif float(sample.labels["le"]) <= 0.05:
                    late = max(late, sample.value)
    return 1 - late / total if total else 0.0


async def test_misdeeds_end_their_own_session_and_touch_no_other() -> None:
    async with serve(LOCAL) as local, worker(capacity=100) as host:
        well = [asyncio.create_task(healthy(host, local.url)) for _ in range(2)]
        await asyncio.sleep(1)
        bad = {name: admit(host, local.url, STARTED.format(code)) for name, (code, _) in MISDEEDS.items()}
        early = {name: admit(host, local.url, code) for name, (code, _) in BEFORE_READY.items()}
        ends = dict(zip(bad, await asyncio.gather(*(outcome(host, c) for c in bad.values())), strict=True))
        ends |= dict(
            zip(early, await asyncio.gather(*(outcome(host, c) for c in early.values())), strict=True)
        )
        expected = {name: said for name, (_, said) in (MISDEEDS | BEFORE_READY).items()}
        wrong = {n: ends[n] for n in ends if not re.match(f"ScenarioFailed: ({expected[n]})", ends[n])}
        assert wrong == {}
        for config in early.values():
            assert host.report(config).ready_at is None
        frames = await asyncio.gather(*well)
        assert min(frames) > 50
        assert late_share(host) < 0.05
        await host.nothing_left()


async def test_a_scenario_sees_nothing_of_the_worker() -> None:
    code = """
    async def main(ctx):
        ctx.log.info(sorted(os.environ))
        ctx.log.info([fd for fd in range(256) if os.path.exists(f"/proc/self/fd/{fd}")])
        ctx.log.info(sorted(ctx._link.__dict__))
        for path in ("/proc/%d/environ" % os.getppid(), "/proc/1/environ", "/etc/passwd"):
            try:
                open(path).read()
                ctx.log.error(path)
            except OSError as error:
                ctx.log.info(type(error).__name__)
        ctx.terminate()
    """
    os.environ["PARLEY_WORKER_TEST_CANARY"] = os.environ["AWS_SECRET_ACCESS_KEY"] = "sk-canary"
    try:
        async with serve(LOCAL) as local, worker() as host:
            config = admit(host, local.url, textwrap.dedent(code))
            assert await outcome(host, config) == "ScenarioCompleted: the scenario has ended"
            log = [str(r.fields["text"]) for r in host.of(config, "journal") if r.type == "scenario_log"]
            assert not re.search("PARLEY_WORKER|AWS|NATS", log[0])
            assert len(eval(log[1])) <= 8
            assert log[3:] == ["PermissionError"] * 3
            zygote = host.app.scenarios.processes.zygote_pid
            for secret in (b"sk-canary", KEY.encode()):
                assert secret not in environment(zygote)
    finally:
        del os.environ["PARLEY_WORKER_TEST_CANARY"], os.environ["AWS_SECRET_ACCESS_KEY"]


async def test_half_a_character_harms_nobody() -> None:
    code = """
    async def main(ctx):
        ctx.log.info("as Python says it: \\ud800.")
        body = b'{"t":"log","level":"info","text":"as JSON says it: \\\\ud800."}'
        connection = ctx._link._write.__self__._socket
        connection.sendall(len(body).to_bytes(4, "big") + body)
        ctx.terminate("\\udfff")
    """
    async with serve(LOCAL) as local, worker() as host:
        config = admit(host, local.url, textwrap.dedent(code))
        assert await outcome(host, config) == "ScenarioCompleted: the scenario has ended: ?"
        log = [str(r.fields["text"]) for r in host.of(config, "journal") if r.type == "scenario_log"]
        assert log == ["as Python says it: ?.", "as JSON says it: ?."]


async def test_answers_that_are_not_taken_do_not_pile_up() -> None:
    code = """
    async def main(ctx):
        asyncio.get_running_loop().sock_recv = lambda *given: asyncio.sleep(99)
        for _ in range(8):
            ctx._link.send("http", id="x", method="GET", url=ctx.parameters["url"], headers={}, timeout=5)
            await asyncio.sleep(0.1)
        await asyncio.sleep(9)
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        size = 2 * 1024 * 1024
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
        writer.write(b"x" * size)
        await writer.drain()
        writer.close()

    async with (
        serve(LOCAL) as local,
        await asyncio.start_server(answer, "127.0.0.1", 0) as server,
        worker() as host,
    ):
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        limits = replace(LIMITS, async_handler_timeout=10)
        scenario = ScenarioConfig(source=HEAD + textwrap.dedent(code), limits=limits, parameters={"url": url})
        access = MediaAccess(hosts=("127.0.0.1",))
        config = host.admit(local.url, provider={"model": "local"}, scenario=scenario, media_access=access)
        end = await outcome(host, config)
        assert end.startswith("ScenarioFailed: the scenario does not take what it asked for")
        await host.nothing_left()


async def test_many_scenarios_come_and_go_and_leave_nothing() -> None:
    code = "async def main(ctx):\n    ctx.add_event_listener(AppEvents.Started, lambda e: ctx.terminate('x'))"
    async with serve(LOCAL) as local, worker(capacity=100) as host:
        assert (await outcome(host, admit(host, local.url, code))).startswith("ScenarioCompleted")
        await host.nothing_left()
        files = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            configs = [admit(host, local.url, code) for _ in range(10)]
            for config in configs:
                assert await outcome(host, config) == "ScenarioCompleted: the scenario has ended: x"
            await host.nothing_left()
        processes = host.app.scenarios.processes
        assert processes._live == {}
        sample = host.app.metrics.registry.get_sample_value
        assert sample("parley_worker_scenarios") == 0
        assert sample("parley_worker_scenario_start_seconds_count") == 51
        assert children(processes.zygote_pid) == []
        assert len(os.listdir("/proc/self/fd")) <= files
        zygote = processes.zygote_pid
    assert ended(str(zygote))


def children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def ended(pid: str) -> bool:
    """Gone, or waiting to be buried by a parent that is not ours."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_the_loss_of_the_zygote_costs_its_scenarios_and_nothing_else() -> None:
    code = "async def main(ctx):\n    pass"
    async with serve(LOCAL) as local, worker() as host:
        lost = admit(host, local.url, code)
        await host.state(lost, SessionState.READY)
        (child,) = children(host.app.scenarios.processes.zygote_pid)
        os.kill(host.app.scenarios.processes.zygote_pid, 9)
        assert re.match("ScenarioFailed: the scenario's process was ended", await outcome(host, lost))
        again = admit(host, local.url, code)
        await host.state(again, SessionState.READY)
        assert ended(child)
        host.app.registry.terminate(again.key, EndReason.TERMINATED, "done")
        await host.nothing_left()


@pytest.mark.parametrize("entry", ["nowhere:main", "json:nothing", "json"])
async def test_an_entry_point_that_is_not_there_is_named_before_ready(entry: str) -> None:
    async with serve(LOCAL) as local, worker() as host:
        config = host.admit(
            local.url, provider={"model": "local"}, scenario=ScenarioConfig(entry_point=entry)
        )
        end = await outcome(host, config)
        assert end.startswith(f"ScenarioFailed: ScenarioMistake: entry point '{entry}'")
        assert host.report(config).ready_at is None
        await host.nothing_left()
