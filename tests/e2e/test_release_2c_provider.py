"""The provider goes away in the middle of calls, as providers do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from e2e_calls import calling
from e2e_release import RELEASE, Release
from nats_reader import check_complete, events_of, journal_of
from speech import code_phrase, random_code
from spoken import Caller

PROVIDER = f"deployment/{RELEASE}-localprovider"


async def told(caller: Caller, wanted: str) -> None:
    assert (await caller.ask(code_phrase(wanted))).digits == wanted


async def test_a_killed_provider_costs_a_pause_and_no_conversation(release: Release, tmp_path: Path) -> None:
    """The same call, the same worker, the same attach: a new WebSocket holds what was said before."""
    before, after = random_code(), random_code()
    async with calling(release, "provider-killed", tmp_path) as caller:
        await told(caller, before)
        labels = "app.kubernetes.io/component=local-provider"
        await asyncio.to_thread(
            release.kubectl, "delete", "pod", "-l", labels, "--grace-period=0", "--force", "--wait=false"
        )
        await asyncio.to_thread(release.kubectl, "rollout", "status", PROVIDER, "--timeout=60s", timeout=70)
        await told(caller, after)
        assert caller.call.stats.resumes == 0
    final = await asyncio.to_thread(release.wait_phase, "provider-killed", "Completed", timeout=15)
    assert (final["status"]["endReason"], final["status"]["attempt"]) == ("CallerHangup", 1)
    uid = final["metadata"]["uid"]
    with release.nats_url() as url:
        events = await events_of(url, release.namespace, uid)
        journal = await journal_of(url, release.namespace, uid)
    check_complete(events, uid, "ended")
    check_complete(journal, uid, "session_ended")
    kinds = [record.kind for record in events]
    assert kinds.index("provider_reconnecting") < kinds.index("provider_reconnected")
    [back] = [r.body.provider_reconnected for r in events if r.kind == "provider_reconnected"]
    assert back.cause == "lost"
    assert back.items >= 2, "what was said before is carried over"
    said = [r.body.transcript.text for r in journal if r.kind == "transcript"]
    spoken = ["".join(c for c in text if c.isdigit()) for text in said]
    assert [spoken.count(code) for code in (before, after)] == [2, 2], said
