"""What goes wrong: workers die, sessions are deleted, NATS is down, specs are bad, secrets are asked for."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_fixture import ClusterError, wait_for
from e2e_calls import calling
from e2e_release import (
    ADMIN,
    RELEASE,
    Release,
    agent_spec,
    condition,
    moved,
    pool,
    resource,
    session,
)
from nats_reader import check_complete, events_of, journal_of
from speech import code_phrase, random_code
from spoken import Answer, check_gapless

LOST_WITHIN = 10.0
NATS_DOWN_FOR = 30.0


@pytest.fixture(scope="module")
def pools(release: Release) -> Iterator[dict[str, dict[str, Any]]]:
    """A pool with one worker for each fault that costs a worker."""
    names = ("kill", "delete")
    release.apply(*(pool(release, name) for name in names))
    yield {name: release.wait_workers(name)[0] for name in names}
    release.kubectl("delete", "voiceworkerpool", *names)


@pytest.mark.parametrize("fault", ["kill", "delete"])
async def test_a_lost_worker_is_told_within_ten_seconds(
    release: Release, pools: dict[str, dict[str, Any]], tmp_path: Path, fault: str
) -> None:
    if not release.cluster.own:
        pytest.skip("a worker's processes can be killed on the own cluster's node only")
    pod = pools[fault]
    async with calling(release, f"lost-{fault}", tmp_path, resume=False, poolRef={"name": fault}) as caller:
        await asyncio.to_thread(release.wait_phase, f"lost-{fault}", "Active", timeout=15)
        start = time.monotonic()
        if fault == "kill":
            await asyncio.to_thread(release.kill_container, pod)
        else:
            name = pod["metadata"]["name"]
            await asyncio.to_thread(
                release.kubectl, "delete", "pod", name, "--force", "--grace-period=0", "--wait=false"
            )
        lost = await asyncio.to_thread(release.wait_phase, f"lost-{fault}", "Failed", timeout=20)
        took = time.monotonic() - start
        assert caller.ended is None, "nobody was left to say so"
    assert lost["status"]["endReason"] == "WorkerLost", lost["status"]
    assert took < LOST_WITHIN, f"{took:.1f} s"
    assert lost["status"]["endTime"]

    # The pool heals by itself, and its new worker takes calls.
    healed = (await asyncio.to_thread(release.wait_workers, fault))[0]
    assert (healed["metadata"]["uid"] == pod["metadata"]["uid"]) == (fault == "kill")
    async with calling(release, f"after-{fault}", tmp_path, poolRef={"name": fault}) as caller:
        assert caller.call.started is not None
    await asyncio.to_thread(release.wait_phase, f"after-{fault}", "Completed", timeout=15)


async def test_deleting_a_session_ends_its_call(release: Release, tmp_path: Path) -> None:
    async with calling(release, "deleted", tmp_path) as caller:
        await asyncio.to_thread(release.wait_phase, "deleted", "Active", timeout=15)
        uid = (await asyncio.to_thread(release.session, "deleted"))["metadata"]["uid"]
        await asyncio.to_thread(release.kubectl, "delete", "voicesession", "deleted")
        ended = await caller.wait_ended()
        assert ended.reason == "Terminated"
    with release.nats_url() as url:
        async with asyncio.timeout(15):
            while True:
                events = await events_of(url, release.namespace, uid)
                if events and events[-1].kind == "ended":
                    break
                await asyncio.sleep(0.2)
    check_complete(events, uid, "ended")
    assert events[-1].body.ended.reason == "Terminated"

    def secret_gone() -> bool:
        names = [item["metadata"]["name"] for item in release.items("secrets")]
        return "deleted-ticket" not in names

    await asyncio.to_thread(wait_for, secret_gone, "the ticket's end", timeout=30)


async def test_an_upgrade_restarts_the_operator_and_no_call_notices(release: Release, tmp_path: Path) -> None:
    """A bigger default pool: the operator is replaced, the pool grows, the call goes on."""
    before = release.operator()
    async with calling(release, "upgraded", tmp_path) as caller:
        await asyncio.to_thread(release.wait_phase, "upgraded", "Active", timeout=15)
        await asyncio.to_thread(release.upgrade, "defaultPool.replicas=2")
        workers = await asyncio.to_thread(release.wait_workers, "default", 2)
        assert await asyncio.to_thread(release.operator) != before
        assert (await asyncio.to_thread(release.session, "upgraded"))["status"]["phase"] == "Active"
        code = random_code()
        assert (await caller.ask(code_phrase(code))).digits == code
        assert caller.call.stats.resumes == 0
    final = await asyncio.to_thread(release.wait_phase, "upgraded", "Completed", timeout=15)
    assert final["status"]["endReason"] == "CallerHangup"
    assert final["status"]["attempt"] == 1
    assert final["status"]["worker"]["name"] in {pod["metadata"]["name"] for pod in workers}
    patch = '{"spec": {"replicas": 1}}'
    await asyncio.to_thread(
        release.kubectl, "patch", "voiceworkerpool", "default", "--type=merge", "-p", patch
    )
    await asyncio.to_thread(release.wait_workers, "default", 1)


async def test_nats_down_for_half_a_minute_costs_nothing(release: Release, tmp_path: Path) -> None:
    """Two callers talk before, during and after; then every record is there, in order, once."""
    digits = {name: [random_code() for _ in range(3)] for name in ("quiet-ulaw", "quiet-wide")}
    formats = {"quiet-ulaw": "g711_ulaw", "quiet-wide": "pcm16@16000"}
    stateful_set = f"statefulset/{RELEASE}-nats"
    worker = release.wait_workers("default")[0]["metadata"]["name"]
    before = await asyncio.to_thread(release.metrics, worker, ADMIN)

    async with contextlib.AsyncExitStack() as stack:
        callers = {
            name: await stack.enter_async_context(calling(release, name, tmp_path, format=format))
            for name, format in formats.items()
        }

        answers: dict[str, list[Answer]] = {name: [] for name in callers}

        async def everyone_asks(turn: int) -> None:
            async def ask(name: str) -> None:
                answers[name].append(await callers[name].ask(code_phrase(digits[name][turn])))

            async with asyncio.TaskGroup() as group:
                for name in callers:
                    group.create_task(ask(name))

        await everyone_asks(0)
        await asyncio.to_thread(release.kubectl, "scale", stateful_set, "--replicas=0")
        await asyncio.to_thread(wait_for, lambda: nats_is_gone(release), "the end of NATS", timeout=45)
        gone = time.monotonic()
        await everyone_asks(1)
        during = await asyncio.to_thread(release.metrics, worker, ADMIN)
        assert during["parley_worker_nats_connected"] == 0
        assert during['parley_worker_events_buffered{kind="journal"}'] > 0
        await asyncio.sleep(max(0.0, NATS_DOWN_FOR - (time.monotonic() - gone)))
        await asyncio.to_thread(release.kubectl, "scale", stateful_set, "--replicas=1")
        await everyone_asks(2)
        await asyncio.to_thread(
            release.kubectl, "rollout", "status", stateful_set, "--timeout=60s", timeout=70
        )

    for name, caller in callers.items():
        check_gapless(caller)
        assert caller.call.stats.events_missed == 0
        assert [answer.digits for answer in answers[name]] == digits[name]
    finals = {
        name: await asyncio.to_thread(release.wait_phase, name, "Completed", timeout=15) for name in callers
    }

    def delivered() -> dict[str, float] | None:
        found = release.metrics(worker, ADMIN)
        waiting = sum(v for k, v in found.items() if k.startswith("parley_worker_events_buffered{"))
        return None if waiting else found

    after = await asyncio.to_thread(wait_for, delivered, "all records delivered", timeout=30)
    assert not [key for key in moved(before, after) if "events_dropped" in key]
    with release.nats_url() as url:
        for name, final in finals.items():
            uid = final["metadata"]["uid"]
            check_complete(await events_of(url, release.namespace, uid), uid, "ended")
            journal = await journal_of(url, release.namespace, uid)
            check_complete(journal, uid, "session_ended")
            said = [r.body.transcript.text for r in journal if r.kind == "transcript"]
            assert len(said) == 6, said
            spoken = ["".join(c for c in text if c.isdigit()) for text in said]
            assert all(spoken.count(code) == 2 for code in digits[name]), said


def nats_is_gone(release: Release) -> bool:
    return not release.items("pods", "app.kubernetes.io/component=nats")


BAD: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("neither-agent", {"agentRef": None}, ("agentRef", "agent")),
    (
        "both-agents",
        {"agent": agent_spec({"url": "wss://api.openai.com/v1/realtime"})},
        ("agentRef", "agent"),
    ),
    ("bad-duration", {"limits": {"maxDuration": "soon"}}, ("spec.limits.maxDuration",)),
    ("bad-ticket", {"access": {"ticket": "Maybe"}}, ("spec.access.ticket",)),
    ("bad-format", {"audio": {"providerFormat": "opus"}}, ("spec.audio.providerFormat",)),
    ("bad-recovery", {"recovery": {"policy": "Hope"}}, ("spec.recovery.policy",)),
    ("bad-privacy", {"privacy": "yes"}, ("spec.privacy",)),
    ("bad-ttl", {"ttlSecondsAfterFinished": -1}, ("spec.ttlSecondsAfterFinished",)),
    ("unknown-field", {"limit": {"maxDuration": "1m"}}, ("limit",)),
    ("bad-agent-name", {"agentRef": {"name": "No Such_Name"}}, ("spec.agentRef.name",)),
    (
        "custom-without-url",
        {"agentRef": None, "agent": {"provider": {"type": "custom", "model": "m"}}},
        ("spec.agent.provider", "url"),
    ),
    (
        "bad-api-version",
        {"provider": {"apiVersion": "v9"}},
        ("spec.provider.apiVersion",),
    ),
]


@pytest.mark.parametrize(("name", "spec", "words"), BAD, ids=[case[0] for case in BAD])
async def test_a_bad_session_is_refused_with_its_field(
    release: Release, name: str, spec: dict[str, Any], words: tuple[str, ...]
) -> None:
    manifest = session(name, **spec)
    manifest["spec"] = {key: value for key, value in manifest["spec"].items() if value is not None}
    with pytest.raises(ClusterError) as refusal:
        await asyncio.to_thread(release.apply, manifest)
    for word in words:
        assert word in str(refusal.value)
    assert name not in [item["metadata"]["name"] for item in release.items("voicesessions")]


async def test_what_is_fixed_cannot_be_changed(release: Release) -> None:
    """A session is one call: once asked for, its spec stays."""
    manifest = session("fixed", agentRef={"name": "nobody"})
    await asyncio.to_thread(release.apply, manifest)
    manifest["spec"]["agentRef"] = {"name": "somebody"}
    with pytest.raises(ClusterError, match="spec"):
        await asyncio.to_thread(release.apply, manifest)
    await asyncio.to_thread(release.kubectl, "delete", "voicesession", "fixed")


TRAP = """
import socket, sys
server = socket.create_server(("0.0.0.0", 8000))
print("listening", flush=True)
while True:
    connection, _ = server.accept()
    print("caught", connection.recv(4096), flush=True)
    connection.close()
"""


@pytest.fixture(scope="module")
def trap(release: Release) -> Iterator[str]:
    """host:port of a server that nobody may call: it logs whatever it is sent."""
    context = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "trap",
        "image": release.cluster.images["operator"],
        "command": ["python", "-u", "-c", TRAP],
        "securityContext": context,
    }
    labels = {"app": "trap"}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0, "enableServiceLinks": False}
    manifests = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "trap", "labels": labels}, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "trap"},
            "spec": {"selector": labels, "ports": [{"port": 8000}]},
        },
    ]
    release.cluster.apply(yaml.safe_dump_all(manifests), namespace=release.namespace)
    release.cluster.wait_ready("trap", namespace=release.namespace)
    yield f"trap.{release.namespace}.svc:8000"
    release.kubectl("delete", "pod,service", "trap", "--wait=false")


def secret(name: str, value: str, *, labelled: bool, hosts: str) -> dict[str, Any]:
    labels = {"parley.dev/provider-credentials": "true"} if labelled else {}
    notes = {"parley.dev/provider-hosts": hosts}
    metadata = {"name": name, "labels": labels, "annotations": notes}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"apiKey": value}}


async def test_a_secret_goes_nowhere_it_may_not_go(release: Release, trap: str) -> None:
    """No label, a host outside the pool's or the Secret's list, a metadata address: refused."""
    key = f"sk-{secrets.token_hex(24)}"
    local = f"{RELEASE}-localprovider.{release.namespace}.svc:8765"
    cases = {
        "no-label": (local, secret("no-label", key, labelled=False, hosts=local), "SecretNotLabelled"),
        "outside-pool": (trap, secret("outside-pool", key, labelled=True, hosts=trap), "HostNotAllowed"),
        "outside-secret": (
            local,
            secret("outside-secret", key, labelled=True, hosts="api.openai.com"),
            "SecretHostMismatch",
        ),
        "metadata": (
            "169.254.169.254:80",
            secret("metadata", key, labelled=True, hosts="169.254.169.254"),
            "HostForbidden",
        ),
        "missing": (local, None, "SecretNotFound"),
    }
    hurry = {"queueTimeout": "3s"}
    manifests: list[dict[str, Any]] = []
    for name, (host, holder, _) in cases.items():
        manifests += [holder] if holder else []
        provider = {"url": f"ws://{host}/v1/realtime", "credentialsSecretRef": {"name": name}}
        manifests.append(
            resource("VoiceSession", f"steal-{name}", {"agent": agent_spec(provider), "limits": hurry})
        )
    # The one that is right: the key arrives where it may.
    manifests.append(secret("allowed", key, labelled=True, hosts=local))
    good = {"url": f"ws://{local}/v1/realtime", "credentialsSecretRef": {"name": "allowed"}}
    manifests.append(resource("VoiceSession", "allowed", {"agent": agent_spec(good)}))
    await asyncio.to_thread(release.apply, *manifests)

    for name, (_, _, reason) in cases.items():
        found = await asyncio.to_thread(release.wait_phase, f"steal-{name}", "Failed", timeout=30)
        accepted = condition(found, "Accepted")
        assert (accepted["status"], accepted["reason"]) == ("False", reason), accepted
        assert "spec." in accepted["message"]
        assert found["status"]["endReason"] == "InvalidSpec"
    await asyncio.to_thread(release.wait_phase, "allowed", "Ready", timeout=30)

    assert "caught" not in await asyncio.to_thread(release.kubectl, "logs", "trap")
    said = await asyncio.to_thread(release.everything_said)
    assert key not in said
    with release.nats_url() as url:
        for name in [f"steal-{case}" for case in cases] + ["allowed"]:
            uid = (await asyncio.to_thread(release.session, name))["metadata"]["uid"]
            for record in await events_of(url, release.namespace, uid):
                assert key not in record.text
            for record in await journal_of(url, release.namespace, uid):
                assert key not in record.text
    await asyncio.to_thread(release.kubectl, "delete", "voicesession", "allowed")
    held = [name for name, (_, holder, _) in cases.items() if holder]
    await asyncio.to_thread(release.kubectl, "delete", "secret", "allowed", *held)
