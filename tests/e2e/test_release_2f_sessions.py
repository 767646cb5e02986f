"""Sessions made over gRPC: by a service account, one for each request, answering their caller."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cluster_fixture import wait_for
from e2e_calls import reach
from e2e_release import RELEASE, Release
from parley_client import ParleyError, SessionsClient
from speech import code_phrase, random_code
from spoken import Caller, heard_digits

PORT = 8443
ACCOUNT = "shop"
SPEC = {"agentRef": {"name": "echo"}}


@pytest.fixture(scope="module")
def token(release: Release) -> Iterator[str]:
    """Of a service account that may make, read and end sessions, and nothing else."""
    binding = f"--serviceaccount={release.namespace}:{ACCOUNT}"
    release.kubectl("create", "serviceaccount", ACCOUNT)
    release.kubectl(
        "create", "role", ACCOUNT, "--verb=create,get,delete", "--resource=voicesessions.parley.dev"
    )
    release.kubectl("create", "rolebinding", ACCOUNT, f"--role={ACCOUNT}", binding)
    yield release.kubectl("create", "token", ACCOUNT).strip()
    release.kubectl("delete", f"serviceaccount/{ACCOUNT}", f"role/{ACCOUNT}", f"rolebinding/{ACCOUNT}")


@pytest.fixture(scope="module")
def published(release: Release) -> dict[str, Any]:
    """What the operator says of its service."""

    def told() -> dict[str, Any] | None:
        data: dict[str, Any] = release.get("configmap", f"{RELEASE}-sessions").get("data") or {}
        return data if data.get("ca.crt") else None

    return wait_for(told, "the service's address and CA", timeout=30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(release: Release, token: str, published: dict[str, Any]) -> AsyncIterator[SessionsClient]:
    name = published["address"].rpartition(":")[0]
    pod = await asyncio.to_thread(release.operator)
    with release.address(pod, PORT) as address:
        async with SessionsClient(
            address, token=token, ca_pem=published["ca.crt"], tls_server_name=name
        ) as client:
            yield client


@pytest.mark.asyncio(loop_scope="module")
async def test_one_request_makes_one_session_that_answers_its_caller(
    release: Release, service: SessionsClient, tmp_path: Path
) -> None:
    made = await service.create(release.namespace, SPEC, request_id="visit-1")
    again = await service.create(release.namespace, SPEC, request_id="visit-1")
    assert again.session.uid == made.session.uid
    digits = random_code()
    target = made.target()
    recording = tmp_path / "visit.wav"
    with reach(release, target) as reached:
        async with Caller(reached, "pcm16@16000", recording) as caller:
            await caller.ask(code_phrase(digits))
    assert heard_digits(recording) == digits
    ended = await asyncio.to_thread(release.wait_phase, made.session.name, "Completed", timeout=30)
    assert ended["metadata"]["annotations"]["parley.dev/created-by"].endswith(f":{ACCOUNT}")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_session_ends_when_asked_and_is_gone(release: Release, service: SessionsClient) -> None:
    made = await service.create(release.namespace, SPEC, request_id="visit-2")
    await service.end(release.namespace, made.session.name)

    def gone() -> bool:
        names = [each["metadata"]["name"] for each in release.items("voicesessions")]
        return made.session.name not in names

    await asyncio.to_thread(wait_for, gone, "the session's end", timeout=30)


@pytest.mark.asyncio(loop_scope="module")
async def test_rights_are_those_of_the_cluster(service: SessionsClient) -> None:
    with pytest.raises(ParleyError, match="forbidden"):
        await service.create("default", SPEC, request_id="visit-3")
