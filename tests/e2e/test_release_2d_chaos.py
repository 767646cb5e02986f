"""The short form of the chaos suite (`make chaos` runs all of it): what callers notice when things break."""

from __future__ import annotations

import pytest
import pytest_asyncio
from chaos_cases import CASES
from chaos_ground import POOL, PROVIDER, Ground, off
from chaos_run import run_case
from chaos_table import table
from e2e_release import Release

SHORT = [name for name, case in CASES.items() if case.short]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground(release: Release) -> object:
    found = Ground(release)
    await off(found.prepare)
    yield found
    await off(release.kubectl, "delete", "voiceworkerpool", POOL, "--wait=false")
    await off(release.kubectl, "delete", "pod,service,configmap,networkpolicy", PROVIDER, "--grace-period=1")


@pytest.mark.timeout(300, func_only=True)
@pytest.mark.parametrize("name", SHORT)
async def test_callers_notice_no_more_than_is_promised(ground: Ground, name: str) -> None:
    row = await run_case(ground, CASES[name], short=True)
    print(table([row]))
    if row.skipped:
        pytest.skip(row.skipped)
    assert not row.problems, "\n".join(row.problems)
