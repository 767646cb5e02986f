"""KubeStore against an API server that misbehaves: what is repeated, what is told, what is never told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from parley_operator.kube.login import Login
from parley_operator.kube.store import KubeStore
from parley_operator.ports import Conflict, Refused, StoreError

SECRET_BODY = {
    "kind": "Secret",
    "metadata": {"namespace": "n", "name": "s"},
    "data": {"ticket": "dmVyeS1zZWNyZXQ="},
}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Gives the answers of `plan` one after the other, the last one for ever."""

    def __init__(self) -> None:
        self.plan: list[int | Answer] = [200]
        self.requests: list[tuple[str, str, str]] = []
        self.body: Any = {"metadata": {"name": "a", "namespace": "n", "uid": "u"}}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "")
        self.requests.append((request.method, request.raw_path, token))
        step = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        if not isinstance(step, int):
            return await step(request)
        headers = {"Retry-After": "0"} if step == 429 else {}
        body = self.body if step < 300 else {"kind": "Status", "message": f"no: {step}"}
        return web.json_response(body, status=step, headers=headers)


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def store(server: tuple[Server, str]) -> AsyncIterator[KubeStore]:
    async with KubeStore(Login(server[1], static_token="t"), timeout=5.0) as made:
        yield made


@pytest.mark.parametrize("trouble", [429, 500, 502, 503, 504])
async def test_passing_trouble_is_waited_out(
    server: tuple[Server, str], store: KubeStore, trouble: int
) -> None:
    server[0].plan = [trouble, trouble, 200]
    assert await store.get("VoiceSession", "n", "a") is not None
    assert len(server[0].requests) == 3


async def test_lasting_trouble_is_an_error_that_may_pass(
    server: tuple[Server, str], store: KubeStore
) -> None:
    server[0].plan = [503]
    with pytest.raises(StoreError) as caught:
        await store.get("VoiceSession", "n", "a")
    assert not isinstance(caught.value, (Conflict, Refused))
    assert len(server[0].requests) == 4


async def test_a_create_is_not_repeated_when_it_may_have_happened(
    server: tuple[Server, str], store: KubeStore
) -> None:
    server[0].plan = [500, 201]
    with pytest.raises(StoreError) as caught:
        await store.create("Secret", SECRET_BODY)
    assert len(server[0].requests) == 1
    assert "dmVyeS1zZWNyZXQ=" not in str(caught.value)
    # A refusal for the sake of load came before anything was done.
    server[0].plan = [429, 201]
    await store.create("Secret", SECRET_BODY)
    assert len(server[0].requests) == 3


async def test_a_connection_that_breaks(server: tuple[Server, str], store: KubeStore) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    server[0].plan = [cut, 200]
    assert await store.get("VoiceSession", "n", "a") is not None
    server[0].plan = [cut]
    with pytest.raises(StoreError) as caught:
        await store.create("Secret", SECRET_BODY)
    assert "dmVyeS1zZWNyZXQ=" not in repr(caught.value) + repr(caught.value.__cause__)


async def test_silence_has_a_deadline(server: tuple[Server, str]) -> None:
    async def never(request: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        return web.Response()

    server[0].plan = [never]
    login = Login(server[1], static_token="t")
    async with KubeStore(login, timeout=0.1, attempts=2) as store:
        with pytest.raises(StoreError, match="TimeoutError"):
            await store.get("VoiceSession", "n", "a")
    assert len(server[0].requests) == 2


async def test_a_list_that_grew_too_old_begins_anew(server: tuple[Server, str], store: KubeStore) -> None:
    def page(name: str, more: str) -> Answer:
        async def give(request: web.Request) -> web.StreamResponse:
            items = [{"metadata": {"name": name, "namespace": "n"}}]
            return web.json_response({"metadata": {"continue": more}, "items": items})

        return give

    server[0].plan = [page("a", "more"), 410, page("a", "more"), page("b", "")]
    found: list[Any] = await store.list("VoiceSession")
    assert [body["metadata"]["name"] for body in found] == ["a", "b"]
    server[0].plan = [410]
    with pytest.raises(StoreError, match="too old"):
        await store.list("VoiceSession")


async def test_a_token_that_changed_is_read_again(server: tuple[Server, str], tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with KubeStore(Login(server[1], token_file=file)) as store:
        file.write_text("new")
        server[0].plan = [401, 200]
        assert await store.get("VoiceSession", "n", "a") is not None
    assert [token for _, _, token in server[0].requests] == ["Bearer old", "Bearer new"]


async def test_an_answer_that_is_no_json(server: tuple[Server, str], store: KubeStore) -> None:
    async def page(request: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text="<html>proxy</html>")

    server[0].plan = [page]
    with pytest.raises(Refused, match="the answer is no JSON"):
        await store.get("VoiceSession", "n", "a")


async def test_names_lead_to_no_other_path(server: tuple[Server, str], store: KubeStore) -> None:
    await store.get("VoiceSession", "n", "../../../../../api/v1/namespaces/kube-system/secrets/x?y#z")
    [(_, path, _)] = server[0].requests
    assert path.startswith("/apis/parley.dev/v1alpha1/namespaces/n/voicesessions/..%2F")
    assert path.count("/") == 7


async def test_a_token_that_cannot_be_read_is_an_error_that_may_pass(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    server[0].plan = [401]
    file = tmp_path / "token"
    file.write_text("t")
    async with KubeStore(Login(server[1], token_file=file), timeout=5.0) as store:
        file.unlink()
        with pytest.raises(StoreError, match="no token"):
            await store.get("VoiceSession", "n", "a")
