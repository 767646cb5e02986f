"""Flavours of providers: what path, query and headers a server really sees, and what a proxy does."""

from __future__ import annotations

import asyncio
from typing import Any

import parley_realtime
import pytest
from parley_realtime import (
    Authentication,
    ClientType,
    ProviderFlavour,
    RealtimeAPIClientParameters,
    UnavailableError,
    beta,
)
from scripted_provider import ScriptedProvider

APIS: dict[str, Any] = {"ga": parley_realtime, "beta": beta}
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2lnbmF0dXJl"
AZURE = {"flavour": ProviderFlavour.AZURE}
TRANSCRIPTION = {"type": ClientType.TRANSCRIPTION}
CASES = [
    ("ga", "", {}, "/v1/realtime?model=gpt-realtime", {"authorization": "Bearer key"}),
    ("ga", "/v1", {"model": "m"}, "/v1/realtime?model=m", {"authorization": "Bearer key"}),
    ("ga", "", TRANSCRIPTION, "/v1/realtime?intent=transcription", {"authorization": "Bearer key"}),
    (
        "beta",
        "",
        {},
        "/v1/realtime?model=gpt-4o-realtime-preview-2024-10-01",
        {"authorization": "Bearer key", "openai-beta": "realtime=v1"},
    ),
    (
        "ga",
        "",
        {"organization": "org", "project": "proj", "safety_identifier": "user-7", "headers": {"X-Own": "1"}},
        "/v1/realtime?model=gpt-realtime",
        {
            "openai-organization": "org",
            "openai-project": "proj",
            "openai-safety-identifier": "user-7",
            "x-own": "1",
        },
    ),
    ("ga", "", {**AZURE, "deployment": "d 1"}, "/openai/v1/realtime?model=d%201", {"api-key": "key"}),
    ("ga", "/openai/v1", {**AZURE, "model": "d"}, "/openai/v1/realtime?model=d", {"api-key": "key"}),
    (
        "ga",
        "",
        {**AZURE, "deployment": "d", "api_key": JWT},
        "/openai/v1/realtime?model=d",
        {"authorization": f"Bearer {JWT}"},
    ),
    (
        "ga",
        "",
        {**AZURE, "deployment": "d", "authentication": Authentication.BEARER},
        "/openai/v1/realtime?model=d",
        {"authorization": "Bearer key"},
    ),
    (
        "ga",
        "",
        {**AZURE, **TRANSCRIPTION},
        "/openai/v1/realtime?intent=transcription",
        {"api-key": "key"},
    ),
    (
        "beta",
        "",
        {**AZURE, "deployment": "d"},
        "/openai/realtime?api-version=2025-04-01-preview&deployment=d",
        {"api-key": "key"},
    ),
    (
        "beta",
        "/openai/realtime?deployment=d",
        {**AZURE, "api_version": "2024-10-01-preview"},
        "/openai/realtime?deployment=d&api-version=2024-10-01-preview",
        {"api-key": "key"},
    ),
    (
        "beta",
        "",
        {**AZURE, **TRANSCRIPTION, "deployment": "d"},
        "/openai/realtime?api-version=2025-04-01-preview&deployment=d&intent=transcription",
        {"api-key": "key"},
    ),
    (
        "ga",
        "/talk?room=7",
        {"flavour": ProviderFlavour.CUSTOM},
        "/talk?room=7",
        {"authorization": "Bearer key"},
    ),
    (
        "ga",
        "/talk",
        {"flavour": "custom", "model": "m", "authentication": "api-key"},
        "/talk?model=m",
        {"api-key": "key"},
    ),
    (
        "ga",
        "",
        {"headers": {"AUTHORIZATION": "Basic x"}},
        "/v1/realtime?model=gpt-realtime",
        {"authorization": "Basic x"},
    ),
]


@pytest.mark.parametrize(("shape", "path", "fields", "seen", "headers"), CASES)
async def test_flavour(
    shape: str, path: str, fields: dict[str, Any], seen: str, headers: dict[str, str]
) -> None:
    async with ScriptedProvider() as provider:
        parameters = RealtimeAPIClientParameters(
            **{"api_key": "key", "base_url": provider.base_url + path, **fields}
        )
        client = await APIS[shape].create_realtime_api_client(parameters)
        line = await provider.accepted()
        client.close()
        await asyncio.wait_for(client.wait_closed(), 15)
    assert line.path == seen
    assert headers.items() <= line.headers.items()
    assert len({"authorization", "api-key"} & line.headers.keys()) == 1, "the key is shown once"
    assert ("openai-beta" in line.headers) == (shape == "beta")


class Proxy:
    """An HTTP proxy that knows CONNECT; `asked` has what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://user:pass-word@127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.asked.append(request.partition("\r\n")[0])
        host, port = request.split()[1].split(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()


async def test_a_proxy_that_was_given_is_used() -> None:
    async with ScriptedProvider() as provider, Proxy() as proxy:
        client = await parley_realtime.create_realtime_api_client(
            RealtimeAPIClientParameters(api_key="key", base_url=provider.base_url, proxy=proxy.url)
        )
        line = await provider.accepted()
        client.close()
        await asyncio.wait_for(client.wait_closed(), 15)
        assert proxy.asked == [f"CONNECT {provider.base_url.removeprefix('http://')} HTTP/1.1"]
    assert line.headers["authorization"] == "Bearer key"


async def test_the_proxy_of_the_environment_is_used_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "")
    async with ScriptedProvider() as provider, Proxy() as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for wanted, times in ((None, 0), (True, 1)):
            client = await parley_realtime.create_realtime_api_client(
                RealtimeAPIClientParameters(base_url=provider.base_url, proxy=wanted)
            )
            client.close()
            await asyncio.wait_for(client.wait_closed(), 15)
            assert len(proxy.asked) == times


async def test_a_proxy_that_is_not_there_is_told_without_its_password() -> None:
    gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    with pytest.raises(UnavailableError) as caught:
        await parley_realtime.create_realtime_api_client(
            RealtimeAPIClientParameters(
                base_url="http://provider.invalid", proxy=f"http://user:pass-word@127.0.0.1:{port}"
            )
        )
    assert "pass-word" not in str(caught.value)
