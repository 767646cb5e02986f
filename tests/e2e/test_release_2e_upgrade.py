"""The chart and its definitions are upgraded while calls go on; an operator is lost while calls go on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from e2e_calls import calling
from e2e_release import CHART, CRDS, RELEASE, Release, session
from speech import code_phrase, random_code

ROOT = CHART.parents[1]


def earlier_chart(folder: Path) -> Path:
    """The chart of the commit before this one, or of PARLEY_UPGRADE_FROM."""
    commit = os.environ.get("PARLEY_UPGRADE_FROM", "HEAD~1")
    archive = folder / "chart.tar"
    command = ["git", "-C", str(ROOT), "archive", "-o", str(archive), commit, "charts/parley"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        pytest.skip(f"no earlier commit to upgrade from: {done.stderr.strip()}")
    with tarfile.open(archive) as found:
        found.extractall(folder, filter="data")
    return folder / "charts" / "parley"


def upgrade(release: Release, chart: Path) -> None:
    release.cluster.helm(
        "upgrade", RELEASE, str(chart), "-n", release.namespace, "--reset-then-reuse-values", "--wait",
        "--timeout", "150s",
    )  # fmt: skip


def generations(release: Release) -> list[Any]:
    return [release.cluster.get("crd", name)["metadata"]["generation"] for name in CRDS]


async def test_an_upgrade_of_chart_and_definitions_cuts_no_call(release: Release, tmp_path: Path) -> None:
    """From the commit before: definitions, roles, operators; old workers are drained, not cut."""
    chart = await asyncio.to_thread(earlier_chart, tmp_path)
    await asyncio.to_thread(upgrade, release, chart)
    async with calling(release, "carried", tmp_path) as caller:
        await asyncio.to_thread(release.wait_phase, "carried", "Active", timeout=30)
        before = await asyncio.to_thread(generations, release)
        await asyncio.to_thread(upgrade, release, CHART)
        after = await asyncio.to_thread(generations, release)
        assert all(new >= old for new, old in zip(after, before, strict=True))
        code = random_code()
        assert (await caller.ask(code_phrase(code))).digits == code
        found = await asyncio.to_thread(release.session, "carried")
        assert found["status"]["phase"] == "Active"
        assert found["status"]["attempt"] == 1
    final = await asyncio.to_thread(release.wait_phase, "carried", "Completed", timeout=15)
    assert final["status"]["endReason"] == "CallerHangup"


async def test_the_other_replica_takes_over_and_no_call_notices(release: Release, tmp_path: Path) -> None:
    leader = await asyncio.to_thread(release.operator)
    async with calling(release, "unnoticed", tmp_path) as caller:
        await asyncio.to_thread(release.wait_phase, "unnoticed", "Active", timeout=30)
        before = await asyncio.to_thread(release.session, "unnoticed")
        arguments = ("delete", "pod", leader, "--grace-period=0", "--force", "--wait=false")
        await asyncio.to_thread(release.kubectl, *arguments)
        begun = time.monotonic()
        await asyncio.to_thread(release.apply, session("after-the-kill"))
        await asyncio.to_thread(release.wait_phase, "after-the-kill", "Ready", timeout=30)
        print(f"leader's pod deleted by force: next placement after {time.monotonic() - begun:.1f} s")
        assert time.monotonic() - begun < 10
        assert await asyncio.to_thread(release.operator) != leader
        code = random_code()
        assert (await caller.ask(code_phrase(code))).digits == code
        after = await asyncio.to_thread(release.session, "unnoticed")
        for fact in ("worker", "attempt", "startTime"):
            assert after["status"][fact] == before["status"][fact]
    await asyncio.to_thread(release.kubectl, "delete", "voicesession", "after-the-kill")
