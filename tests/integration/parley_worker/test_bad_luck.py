"""One test for each row of the table of bad luck in proto/README.md."""

from __future__ import annotations

import asyncio
import base64
import json
import socket as sockets
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from media_calls import KEY, Worker, calling, start, worker
from parley.media.v1 import media_pb2 as pb
from parley_worker.codec import control_pb
from parley_worker.core.agent import RecoveryConfig
from parley_worker.core.model import EndReason, SessionConfig, SessionReport, SessionState
from parley_worker.runtime.deps import RunnerSettings
from pki import TestAuthority
from provider_script import Socket, scripted

QUICK = RunnerSettings(connect_timeout=1.0, close_timeout=0.6)
R = EndReason


async def over(host: Worker, config: SessionConfig, timeout: float = 20) -> SessionReport:
    """The report of a session that is over and of which nothing is left."""
    report = await host.state(config, SessionState.ENDED, timeout)
    await host.nothing_left()
    assert host.facts(config)[-1] == "ended"
    assert KEY not in report.end_message
    assert all(KEY not in repr(dict(r.fields)) for r in host.records)
    return report


async def quiet(socket: Socket) -> None:
    await socket.greet()


async def test_nobody_attaches() -> None:
    async with scripted(quiet) as script, worker() as host:
        config = host.admit(script.url, limits={"attach_timeout": 0.3})
        report = await over(host, config)
        assert report.end_reason is R.ATTACH_TIMEOUT
        assert report.started_at is None


async def test_caller_does_not_come_back() -> None:
    async with scripted(quiet) as script, worker() as host:
        config = host.admit(script.url, limits={"reattach_timeout": 0.3})
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
        assert (await over(host, config)).end_reason is R.REATTACH_TIMEOUT


@pytest.mark.parametrize(
    ("limits", "reason"),
    [({"idle_timeout": 0.3}, R.IDLE_TIMEOUT), ({"max_duration": 2.0}, R.MAX_DURATION)],
)
async def test_limits_of_an_attached_session(limits: dict[str, float], reason: EndReason) -> None:
    async with scripted(quiet) as script, worker() as host:
        config = host.admit(script.url, limits=limits)
        async with calling(host, start(config)) as caller:
            assert (await caller.expect("ended")).reason == reason
            assert await caller.ended() is None
        await over(host, config)


async def test_provider_cannot_be_resolved() -> None:
    async with worker(runner=QUICK) as host:
        config = host.admit("ws://nowhere.invalid/v1/realtime")
        assert (await over(host, config)).end_reason is R.PROVIDER_UNAVAILABLE


async def test_provider_port_closed() -> None:
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with worker(runner=QUICK) as host:
        config = host.admit(f"ws://127.0.0.1:{port}/v1/realtime")
        assert (await over(host, config)).end_reason is R.PROVIDER_UNAVAILABLE


@pytest.mark.parametrize("trusted", [False, True])
async def test_provider_certificate(tmp_path: Path, trusted: bool) -> None:
    authority = TestAuthority()
    folder = authority.issue("provider").write(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    async with scripted(quiet, tls) as script, worker() as host:
        ca = authority.pem.decode() if trusted else ""
        config = host.admit(script.url, provider={"ca_pem": ca})
        if trusted:
            await host.state(config, SessionState.READY)
        else:
            report = await over(host, config)
            assert report.end_reason is R.PROVIDER_UNAVAILABLE
            assert "certificate" in report.end_message.lower()


async def test_provider_certificates_that_are_none() -> None:
    async with worker() as host:
        config = host.admit("wss://127.0.0.1:1/v1/realtime", provider={"ca_pem": "nonsense"})
        report = await over(host, config)
        assert (report.end_reason, "ca_pem" in report.end_message) == (R.INVALID_SPEC, True)


def closing(code: int, error: str, message: str = "no") -> Callable[[Socket], Awaitable[None]]:
    async def behaviour(socket: Socket) -> None:
        body = {"type": "invalid_request_error", "code": error, "message": message}
        await socket.send("error", error=body)
        await socket.connection.close(code, f"invalid_request_error.{error}")

    return behaviour


@pytest.mark.parametrize(
    ("code", "error", "reason"),
    [
        (3000, "invalid_api_key", R.PROVIDER_AUTH_FAILED),
        (4000, "invalid_model", R.PROVIDER_MODEL_REFUSED),
        (4000, "missing_model", R.PROVIDER_MODEL_REFUSED),
        (4000, "beta_api_shape_disabled", R.PROVIDER_PROTOCOL_ERROR),
    ],
)
async def test_provider_refuses(code: int, error: str, reason: EndReason) -> None:
    behaviour = closing(code, error, f"Incorrect API key provided: {KEY}.")
    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        assert (await over(host, config)).end_reason is reason
        gone = [r for r in host.of(config, "event") if r.type == "provider_disconnected"]
        assert [r.fields["close_code"] for r in gone] == [code]


async def test_provider_closes_in_the_middle_of_a_call() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(960)
        await socket.connection.close(3000, "invalid_request_error.invalid_api_key")

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await caller.speak(bytes(960))
            assert (await caller.expect("ended")).reason == R.PROVIDER_AUTH_FAILED
            assert await caller.ended() is None
        await over(host, config)


async def test_provider_socket_is_cut_in_the_middle_of_a_call() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(960)
        socket.connection.transport.abort()

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url, recovery=RecoveryConfig(restore=False))
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await caller.speak(bytes(960))
            assert (await caller.expect("ended")).reason == R.PROVIDER_UNAVAILABLE
        await over(host, config)


async def test_provider_refuses_the_session_but_stays_open() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.send("session.created", session={})
        await socket.expect("session.update")
        body = {"type": "invalid_request_error", "code": "invalid_value", "message": "no such voice"}
        await socket.send("error", error=body)

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        report = await over(host, config)
        assert report.end_reason is R.INVALID_SPEC
        assert "no such voice" in report.end_message


@pytest.mark.parametrize("greets", [False, True])
async def test_provider_accepts_and_stays_silent(greets: bool) -> None:
    async def behaviour(socket: Socket) -> None:
        if greets:
            await socket.send("session.created", session={})

    async with scripted(behaviour) as script, worker(runner=QUICK) as host:
        config = host.admit(script.url)
        assert (await over(host, config)).end_reason is R.PROVIDER_UNAVAILABLE


@pytest.mark.parametrize(
    "frame",
    [
        "{broken",
        '"text"',
        '{"no": "type"}',
        json.dumps({"type": "response.output_audio.delta", "response_id": "r", "delta": "%%%"}),
        json.dumps({"type": "response.output_audio.delta", "response_id": "r", "delta": "AAAA"}),
    ],
)
async def test_provider_sends_what_is_no_protocol(frame: str) -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(960)
        await socket.connection.send(frame)

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await caller.speak(bytes(960))
            assert (await caller.expect("ended")).reason == R.PROVIDER_PROTOCOL_ERROR
            assert await caller.ended() is None
        await over(host, config)


async def test_events_of_odd_shapes_harm_nothing() -> None:
    odd: list[dict[str, Any]] = [
        {"type": "response.created"},
        {"type": "response.created", "response": 7},
        {"type": "response.done", "response": {"usage": {"input_tokens": "many"}}},
        {"type": "input_audio_buffer.speech_started", "audio_start_ms": "soon"},
        {"type": "response.output_item.done", "item": {"type": "function_call"}},
        {"type": "conversation.item.done", "item": None},
        {"type": "error"},
        {"type": "a.new.event", "field": [1, {"deep": None}]},
    ]

    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        for event in odd:
            await socket.send(**{"type_": event["type"], **{k: v for k, v in event.items() if k != "type"}})
        await socket.say(bytes(4800), "r1", "i1")

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("mark")
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended")).reason == R.CALLER_HANGUP
        await over(host, config)


async def test_provider_floods() -> None:
    minute = bytes(48000 * 60)

    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.send("response.created", response={"id": "r1"})
        ids = {"response_id": "r1", "item_id": "i1", "output_index": 0, "content_index": 0}
        delta = base64.b64encode(minute[:480_000]).decode()
        for _ in range(40):
            await socket.send("response.output_audio.delta", **ids, delta=delta)
        await socket.expect("response.cancel")
        await socket.finish("r1", "i1", "cancelled")
        await socket.say(bytes(4800), "r2", "i2")

    bounds = RunnerSettings(output_bytes=2_000_000)
    async with scripted(behaviour) as script, worker(runner=bounds) as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            clear = await caller.expect("clear")
            assert clear.reason == pb.CLEAR_REASON_OVERFLOW
            await caller.expect_event("response.done")
            mark = await caller.expect("mark")
            assert mark.item_id == "i2"
            truncate = await (await script.socket()).expect("conversation.item.truncate")
            assert truncate["item_id"] == "i1"
            assert len((await script.socket()).of("response.cancel")) == 1
        runner = host.app.registry._runners[(config.key.uid, 1)]
        assert runner._media._output.bytes == 0


async def test_terminate_while_the_provider_is_being_connected() -> None:
    async def behaviour(socket: Socket) -> None:
        await asyncio.sleep(0)

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            runner = host.app.registry._runners[(config.key.uid, 1)]
            async with asyncio.timeout(10):
                while not runner._left_connecting._waiters:  # noqa: ASYNC110 - asyncio tells nobody
                    await asyncio.sleep(0.01)
            host.app.registry.terminate(config.key, R.TERMINATED, "deleted")
            error = await caller.ended()
            assert error is not None
            assert error.code().name == "FAILED_PRECONDITION"
        assert (await over(host, config)).end_reason is R.TERMINATED


async def test_drain_while_the_provider_is_being_connected() -> None:
    async def mute(socket: Socket) -> None:
        await asyncio.Event().wait()

    async with scripted(mute) as script, worker() as host:
        config = host.admit(script.url)
        await script.socket()
        host.app.drain.begin(0)
        assert (await over(host, config)).end_reason is R.DRAIN_DEADLINE
        assert host.facts(config) == ["admitted", "drain_announced", "ended"]
        async with asyncio.timeout(20):
            await host.app.drain.done.wait()


async def test_provider_sends_text_and_numbers_that_no_message_can_carry() -> None:
    async def behaviour(socket: Socket) -> None:
        await socket.greet()
        await socket.expect_audio(960)
        await socket.connection.send(
            '{"type": "response.output_text.delta", "item_id": "\\ud83d", "delta": "half a pair \\ud83d"}'
        )
        usage = {"input_tokens": 10**30}
        await socket.send("response.done", response={"id": "r1", "status": "\ud83d", "usage": usage})

    async with scripted(behaviour) as script, worker() as host:
        config = host.admit(script.url)
        async with calling(host, start(config)) as caller:
            await caller.expect("started")
            await caller.speak(bytes(960))
            await caller.expect_event("response.done")
            assert "half a pair ?" in (await caller.expect_event("response.output_text.delta")).event_json
            await caller.send(hangup=pb.Hangup())
            assert (await caller.expect("ended")).reason == R.CALLER_HANGUP
        report = await over(host, config)
        assert control_pb.session_report(report, control_pb.Endpoint("")).usage.input_tokens == 2**31 - 1


async def test_url_that_cannot_work() -> None:
    async with worker() as host:
        config = host.admit("ftp://example.com/")
        assert (await over(host, config)).end_reason is R.INVALID_SPEC


async def test_session_that_cannot_be_json() -> None:
    async with scripted(quiet) as script, worker() as host:
        config = host.admit(script.url, session={"type": "realtime", "x": float("nan")})
        report = await over(host, config)
        assert report.end_reason is R.INVALID_SPEC
