"""The chart as it was at an earlier commit: its images built, installed in place of the current one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from chaos_ground import Ground
from cluster_fixture import SCRIPTS, ClusterError, run
from e2e_release import CHART, CRDS, RELEASE, values_for

OURS = ("operator", "worker")
"""Images of which the earlier ones are installed; the trial servers stay as they are."""
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Earlier:
    """A commit's chart and images, by name as in `Cluster.images`."""

    commit: str
    chart: Path
    images: dict[str, str]


def earlier_commit() -> str:
    """PARLEY_CHAOS_FROM, or the commit before the last one that changed the chart."""
    given = os.environ.get("PARLEY_CHAOS_FROM")
    if not given:
        last = run(["git", "-C", ROOT, "log", "-1", "--format=%H", "--", "charts/parley"]).strip()
        given = f"{last}~1"
    return run(["git", "-C", ROOT, "rev-parse", given]).strip()


@contextlib.contextmanager
def earlier() -> Iterator[Earlier]:
    """The earlier commit's chart and images; the images are in the own cluster."""
    commit = earlier_commit()
    folder = Path(tempfile.mkdtemp(prefix="parley-earlier-"))
    try:
        archive = folder / "tree.tar"
        run(["git", "-C", ROOT, "archive", "--output", archive, commit])
        run(["tar", "-xf", archive, "-C", folder])
        # A name of its own: what this checkout has built stays.
        env = {"PARLEY_CLUSTER": "earlier"}
        scripts = folder / "tests" / "support" / "cluster"
        built = run(["bash", scripts / "images.sh", "build", *OURS], env=env, timeout=900, show=True)
        lines = [line.split() for line in built.splitlines()]
        run(["bash", SCRIPTS / "images.sh", "import", *(words[2] for words in lines)], timeout=300, show=True)
        yield Earlier(commit, folder / "charts" / "parley", {words[0]: words[1] for words in lines})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def go_back(ground: Ground) -> str:
    """Install the earlier chart, with its images and definitions, instead of the current one; its commit."""
    with earlier() as found:
        _install(ground, found)
    return found.commit[:7]


def _install(ground: Ground, found: Earlier) -> None:
    release = ground.release
    with contextlib.suppress(ClusterError):
        release.kubectl("delete", "voicesessions,voiceworkerpools", "--all", timeout=120)
    release.uninstall()
    release.cluster.kubectl("delete", "crd", *CRDS, "--ignore-not-found", timeout=120)
    _helm(ground, "install", found.chart, {**release.cluster.images, **found.images})
    release.wait_workers("default")
    ground.prepare()


def go_forward(ground: Ground) -> None:
    """`helm upgrade` to the current chart, images and definitions; returns when the operator is ready."""
    _helm(ground, "upgrade", CHART, ground.release.cluster.images)


def _helm(ground: Ground, verb: str, chart: Path, images: dict[str, str]) -> None:
    cluster = ground.release.cluster
    values = values_for(cluster)
    keys = {"operator": "operator", "worker": "worker", "nats": "nats", "localprovider": "localProvider"}
    for image, key in keys.items():
        repository, _, tag = images[image].rpartition(":")
        values[key]["image"] = {"repository": repository, "tag": tag}
    values["nats"]["storage"] = {"existingClaim": "nats-data", "size": "256Mi"}
    cluster.helm(
        verb, RELEASE, str(chart), "-n", ground.release.namespace, "--wait", "--timeout", "240s",
        "--values", "-", text=yaml.safe_dump(values), timeout=300,
    )  # fmt: skip
