"""The fuzzer's corpus: every input that found something is replayed, within bounds of time and memory."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import fuzz_targets
import pytest

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus"
INPUTS = sorted(path for folder in CORPUS.iterdir() for path in folder.iterdir())
GROWTH_MB = 200
CPU_SECONDS = 2.0
LARGEST = 8192


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_an_input(path: Path) -> None:
    """No exception, no long work (CPU time, not the clock), no growth that some KiB cannot explain."""
    data = path.read_bytes()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    fuzz_targets.TARGETS[path.parent.name](data)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert time.process_time() - began < CPU_SECONDS
    assert grown < GROWTH_MB


def test_the_corpus_is_small_and_every_target_has_one() -> None:
    assert {path.parent.name for path in INPUTS} == set(fuzz_targets.TARGETS)
    assert [path.name for path in INPUTS if path.stat().st_size > LARGEST] == []
    assert sum(path.stat().st_size for path in INPUTS) < 256 * 1024


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_a_target_can_fail(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault below a target comes out of it: nothing swallows what fuzzing is there to find."""
    seams = {
        "server_frame": "core",
        "client_event": "core",
        "local_session": "Harness",
        "worker_session": "WorkerCore",
        "caller_message": "media_pb",
        "operator_event": "control_pb",
        "media_streams": "TwilioDialect",
        "received_media": "ReceivedStreams",
        "scenario_frame": "scenario_json",
        "chat_answer": "parse_answer",
        "recorded": "parse",
        "opus_packets": "OpusInput",
    }
    monkeypatch.setattr(fuzz_targets, seams[target], None)
    data = b"" if target == "caller_message" else b"{}"
    with pytest.raises((TypeError, AttributeError)):
        fuzz_targets.TARGETS[target](data)
