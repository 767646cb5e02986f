"""Sessions that wait for their turn, and what is done in threads for them."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from unittest import mock

import pytest
from parley_worker.core import events as ev
from parley_worker.core.model import EndReason, SessionState
from parley_worker.core.turnstile import Turnstile
from parley_worker.runtime.setting_up import Gate
from parley_worker.transport import resolver as names
from parley_worker.transport import tls
from parley_worker.transport.resolver import Resolver
from session_driver import Driver


async def test_whoever_is_cancelled_leaves_its_place_to_the_next() -> None:
    gate = Gate(Turnstile(10_000.0, 1, 1))
    entered: list[str] = []
    end = asyncio.Event()

    async def session(name: str) -> None:
        async with gate.turn("g"):
            entered.append(name)
            await end.wait()

    tasks = {name: asyncio.create_task(session(name)) for name in ("a", "b", "c", "d")}
    await asyncio.sleep(0)
    assert (entered, gate.waiting) == (["a"], 3)
    tasks["b"].cancel()
    await asyncio.sleep(0)
    tasks["a"].cancel()
    await asyncio.sleep(0.01)
    assert entered == ["a", "c"]
    tasks["d"].cancel()
    tasks["c"].cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    assert gate.waiting == 0
    async with gate.turn("g"):
        entered.append("last")
    assert entered[-1] == "last"


async def test_one_that_is_cancelled_in_the_moment_of_its_turn_takes_no_place() -> None:
    gate = Gate(Turnstile(10_000.0, 1, 1))
    end = asyncio.Event()

    async def session() -> None:
        async with gate.turn():
            await end.wait()

    first, second = asyncio.create_task(session()), asyncio.create_task(session())
    await asyncio.sleep(0)
    end.set()
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    async with asyncio.timeout(5), gate.turn():
        pass


def test_waiting_for_a_turn_does_not_count_as_the_providers_time() -> None:
    driver = Driver()
    driver.feed(ev.ConnectHeld())
    driver.until(driver.now + 25)
    assert driver.session.state is SessionState.CONNECTING
    driver.feed(ev.ConnectBegan())
    driver.until(driver.now + 9)
    assert driver.session.state is SessionState.CONNECTING
    driver.until(driver.now + 2)
    assert driver.session.report.end_reason is EndReason.PROVIDER_UNAVAILABLE


def test_a_turn_that_does_not_come_is_want_of_capacity() -> None:
    driver = Driver()
    driver.feed(ev.ConnectHeld())
    driver.until(driver.now + 31)
    assert driver.session.report.end_reason is EndReason.NO_CAPACITY
    assert "others" in driver.session.report.end_message


class Servers:
    """Name servers that answer when told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = threading.Event()

    def find(self, host: str, *more: object) -> names.Found:
        self.asked.append(host)
        assert self.answer.wait(10)
        if host == "nowhere":
            raise OSError("no such name")
        return [(2, 1, 6, "", ("127.0.0.1", 443))]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    found = Servers()
    monkeypatch.setattr(names.socket, "getaddrinfo", found.find)
    return found


async def test_a_name_is_asked_for_once_by_all_who_want_it(servers: Servers) -> None:
    resolver = Resolver()
    asking = [asyncio.create_task(resolver.lookup("host", 443)) for _ in range(50)]
    await asyncio.sleep(0)
    asking[0].cancel()
    servers.answer.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(each, list) and len(each) == 1 for each in found[1:])
    await resolver.lookup("host", 443)
    (answer,) = await resolver.resolve("host", 443)
    assert answer["host"] == "127.0.0.1"
    assert len(servers.asked) == 2


async def test_a_name_that_is_none_is_asked_for_again(servers: Servers) -> None:
    servers.answer.set()
    resolver = Resolver()
    for _ in range(2):
        with pytest.raises(OSError, match="no such name"):
            await resolver.lookup("nowhere", 443)
    assert servers.asked == ["nowhere"] * 2


async def test_names_that_nobody_answers_for_are_bounded(servers: Servers) -> None:
    resolver = Resolver()
    asking = [asyncio.create_task(resolver.lookup(f"h{n}", 1)) for n in range(names.MAX_PENDING)]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="are being resolved"):
        await resolver.lookup("one more", 1)
    assert await asyncio.to_thread(lambda: "other threads are free") == "other threads are free"
    assert len(servers.asked) <= names.THREADS
    servers.answer.set()
    await asyncio.gather(*asking)


async def test_certificates_are_read_in_a_thread_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    real: Callable[[], ssl.SSLContext] = ssl.create_default_context

    def make() -> ssl.SSLContext:
        threads.append(threading.current_thread().name)
        return real()

    monkeypatch.setattr(tls.ssl, "create_default_context", make)
    with mock.patch.dict(tls._trusted, clear=True):
        await asyncio.gather(*(tls.prepare("") for _ in range(20)))
        assert len(threads) == 1
        assert threads[0].startswith("tls")
        assert tls.trusting("") is tls.trusting("")
        assert len(threads) == 1
        with pytest.raises(ValueError, match="PEM"):
            await tls.prepare("nonsense")
        assert "nonsense" not in tls._trusted
