"""The metrics of a worker with shards on one page."""

from __future__ import annotations

import asyncio

import pytest
from parley_worker.codec.exposition import merge
from parley_worker.telemetry import process_metrics
from parley_worker.telemetry.metrics import Metrics
from parley_worker.telemetry.process_metrics import WORKER_WIDE, SupervisorMetrics
from prometheus_client.parser import text_string_to_metric_families

OWN = """# HELP up Whether.
# TYPE up gauge
up 1.0
# HELP lag How late.
# TYPE lag histogram
lag_bucket{le="+Inf"} 3.0
lag_sum 0.5
"""
SHARD = """# HELP lag How late.
# TYPE lag histogram
lag_bucket{le="+Inf"} 4.0
lag_sum 0.25
# HELP up Whether.
# TYPE up gauge
up 0.0
# HELP legs A text with "quotes" and {braces}.
# TYPE legs gauge
legs{word="a b {c}"} 2.0
"""


def test_each_number_stands_once_and_each_family_once() -> None:
    page = merge(OWN, {"0": SHARD, "1": SHARD.replace("4.0", "5.0")}, {"up"})
    assert page.splitlines() == [
        "# HELP up Whether.",
        "# TYPE up gauge",
        "up 1.0",
        "# HELP lag How late.",
        "# TYPE lag histogram",
        'lag_bucket{shard="supervisor",le="+Inf"} 3.0',
        'lag_sum{shard="supervisor"} 0.5',
        'lag_bucket{shard="0",le="+Inf"} 4.0',
        'lag_sum{shard="0"} 0.25',
        'lag_bucket{shard="1",le="+Inf"} 5.0',
        'lag_sum{shard="1"} 0.25',
        '# HELP legs A text with "quotes" and {braces}.',
        "# TYPE legs gauge",
        'legs{shard="0",word="a b {c}"} 2.0',
        'legs{shard="1",word="a b {c}"} 2.0',
    ]


def test_without_shards_it_is_the_supervisors_page() -> None:
    assert merge(OWN, {}, {"up", "lag"}) == OWN
    assert merge("", {}, set()) == ""


def test_the_real_pages_keep_every_series() -> None:
    supervisor, shards = SupervisorMetrics("1.0"), {"0": Metrics("1.0"), "1": Metrics("1.0")}
    supervisor.admitted()
    supervisor.session_ended("ShardLost")
    supervisor.shard_lost(1, "signal")
    for number, metrics in shards.items():
        metrics.admitted()
        metrics.leg_detached("cancelled")
        metrics.tool_call("nats", "ok", float(number))
    pages = {number: metrics.render().decode() for number, metrics in shards.items()}
    page = merge(supervisor.render().decode(), pages, WORKER_WIDE)
    families = list(text_string_to_metric_families(page))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}
    assert samples["parley_worker_admissions_total", ()] == 1
    assert samples["parley_worker_sessions_ended_total", (("reason", "ShardLost"),)] == 1
    for number in ("0", "1"):
        key = (("cause", "cancelled"), ("shard", number))
        assert samples["parley_worker_leg_detaches_total", key] == 1
    assert sum(len(f.samples) for f in families) == len(samples)


def test_what_is_worker_wide_exists() -> None:
    page = SupervisorMetrics().render().decode()
    assert all(f"# TYPE {name} " in page for name in WORKER_WIDE)


async def test_a_page_is_written_by_turns_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_metrics, "SLICE_SECONDS", 0.0)
    metrics, turns = Metrics("1"), 0
    writing = asyncio.create_task(metrics.page())
    while not writing.done():
        await asyncio.sleep(0)
        turns += 1
    families = list(text_string_to_metric_families(writing.result().decode()))
    assert turns > len(families) > 40
    whole = text_string_to_metric_families(metrics.render().decode())
    assert [each.name for each in families] == [each.name for each in whole]
