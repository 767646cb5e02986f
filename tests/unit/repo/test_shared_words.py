"""Words on both sides of a border: the sides know nothing of each other, so a test holds them together."""

from __future__ import annotations

from pathlib import Path

import yaml
from parley_client.cli.exits import GOOD_ENDS
from parley_operator.domain.phases import EndReason as OperatorReason
from parley_realtime import errors
from parley_worker.core.model import EndReason as WorkerReason

ROOT = Path(__file__).resolve().parents[3]


def crd_reasons() -> set[str]:
    crd = yaml.safe_load((ROOT / "charts/parley/files/crds/voicesessions.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return set(schema["properties"]["status"]["properties"]["endReason"]["enum"])


def test_end_reasons_are_one_closed_list() -> None:
    worker = {reason.value for reason in WorkerReason}
    assert worker == {reason.value for reason in OperatorReason}
    assert worker == crd_reasons()


def test_every_reason_of_the_realtime_client_is_an_end_reason() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.ProviderError)]
    reasons = {kind.reason for kind in kinds if getattr(kind, "reason", None)}
    assert reasons
    assert reasons <= crd_reasons()


def test_good_ends_are_end_reasons() -> None:
    assert crd_reasons() >= GOOD_ENDS
