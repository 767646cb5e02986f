"""Whether a cluster can be had is answered in words, and a probe that never succeeds ends."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import cluster_fixture
import pytest
from cluster_fixture import ClusterError, ensure_cluster, run, wait_for, why_not


@pytest.fixture(autouse=True)
def _able_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root on a Linux where every program is installed; a test takes away what it is about."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    done = subprocess.CompletedProcess[bytes]([], 0)
    monkeypatch.setattr(cluster_fixture, "_state", lambda: Path("/nowhere"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("PARLEY_TEST_REGISTRY", raising=False)


def kubeconfig(directory: Path, monkeypatch: pytest.MonkeyPatch, context: str) -> None:
    path = directory / "config"
    path.write_text(f"current-context: {context}\n")
    monkeypatch.setenv("KUBECONFIG", f"{directory / 'absent'}{os.pathsep}{path}")


def test_an_able_machine_has_no_reason() -> None:
    assert why_not() is None


def test_without_root_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    reason = why_not()
    assert reason is not None
    assert "root" in reason
    with pytest.raises(ClusterError, match="root"):
        ensure_cluster()


def test_missing_programs_are_named_where_they_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = {"dpkg-query", "conntrack", "buildah"}
    monkeypatch.setattr(shutil, "which", lambda name: None if name in absent else f"/usr/bin/{name}")
    assert why_not() == "to boot a node, install buildah conntrack; or set KUBECONFIG to use another cluster"


def test_missing_programs_are_no_reason_on_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "conntrack" else f"/usr/bin/{name}")
    assert why_not() is None


def test_a_machine_that_refuses_namespaces_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = subprocess.CompletedProcess[bytes]([], 1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    assert "namespaces" in str(why_not())


def test_a_kubeconfig_without_a_context_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    assert str(tmp_path / "absent") in str(why_not())


def test_another_cluster_needs_a_registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kubeconfig(tmp_path, monkeypatch, "production")
    assert "PARLEY_TEST_REGISTRY" in str(why_not())
    monkeypatch.setenv("PARLEY_TEST_REGISTRY", "registry.example:5000/parley")
    assert why_not() is None


def test_a_kind_cluster_needs_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kubeconfig(tmp_path, monkeypatch, "kind-parley")
    assert why_not() is None
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "kind" else f"/usr/bin/{name}")
    assert "kind is not on PATH" in str(why_not())


def test_the_own_clusters_kubeconfig_is_not_another_cluster(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubeconfig(tmp_path, monkeypatch, "own")
    monkeypatch.setattr(cluster_fixture, "_state", lambda: tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "admin.kubeconfig"))
    assert why_not() is None


def test_a_failed_command_says_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(ClusterError, match=r"exit 3: sh -c(.|\n)*no luck"):
        run(["sh", "-c", "echo no luck >&2; exit 3"])


def test_waiting_ends_with_the_last_error() -> None:
    def probe() -> bool:
        raise ClusterError("refused")

    with pytest.raises(AssertionError, match="the pod; last: refused"):
        wait_for(probe, "the pod", timeout=0, every=0)
