"""End-to-end tests run on a real cluster, or are skipped with the reason; with CI set a skip is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from cluster_fixture import Cluster, ensure_cluster, why_not
from e2e_release import IMAGES, Release, install


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.parts and item.get_closest_marker("timeout") is None:
            item.add_marker(
                pytest.mark.timeout(180, func_only=True)
            )  # the cluster's set-up may build for minutes


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The cluster with our images in it; ended afterwards if it did not run before."""
    if reason := why_not():
        if os.environ.get("CI"):
            pytest.fail(f"no cluster, and CI allows no skip: {reason}", pytrace=False)
        pytest.skip(reason)
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        found = ensure_cluster(IMAGES)
    yield found
    found.stop()


@pytest.fixture(scope="session")
def release(cluster: Cluster) -> Iterator[Release]:
    """The chart, installed once for all tests; whatever they leave is removed."""
    with cluster.namespace("parley-e2e") as namespace:
        found = install(cluster, namespace)
        yield found
        found.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    found = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(found, Cluster):
        report.sections.append(("cluster", found.describe()))
    return report
