"""`parley bench events`: what a worker's events cost on their way into JetStream, and what listeners cost.

Each figure is of a publisher in a process of its own, on the worker's CPUs, against a fresh nats-server on
the others; raw nats-py does the same beside it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from parley_client.bench import machine, proc
from parley_client.bench.nats_child import start_nats
from parley_client.bench.rows import Row, number
from parley_client.bench.runner import Bench
from parley_client.bench.scenario import Events
from parley_client.bench.systems import pinned
from parley_client.embedded.processes import Child, ChildSpec
from parley_client.errors import ParleyError, ProcessDied

PATIENCE_S: Final = 300.0
RAW: Final = ("core publish", "publish_async", "awaited publish")
COLUMNS: Final = (
    *("publisher", "subscribers", "messages", "events/s", "events/s/core", "cpu us each", "nats cpu us each"),
    *("lost", "out of order", "delivered"),
)


async def run(bench: Bench, where: str) -> list[Row]:
    """A row for the worker's bus with each number of subscribers, and for each raw way of publishing."""
    plan = bench.scenario.events
    rows = []
    for count in plan.subscribers:
        rows.append(await _measured(bench, "NatsBus", plan.records, count, where))
        bench.note(words(rows[-1]))
    for mode in RAW:
        messages = plan.awaited_messages if mode.startswith("awaited") else plan.raw_messages
        rows.append(await _measured(bench, mode, messages, 0, where))
        bench.note(words(rows[-1]))
    return rows


async def _measured(bench: Bench, mode: str, messages: int, subscribers: int, where: str) -> Row:
    folder = bench.folder / f"events-{mode.replace(' ', '-')}-{subscribers}"
    folder.mkdir(parents=True)
    pins = bench.scenario.pinning
    children: list[Child] = []
    try:
        nats, url = await start_nats(folder, pins.others)
        children.append(nats)
        listening = None
        if subscribers:
            listening = await Child.start(_listeners(url, subscribers, pins.others), folder)
            children.append(listening)
        before = proc.read_cpu([nats.pid])
        report = await _publish(_publisher(url, mode, messages, bench.scenario.events, pins.worker), folder)
        used = proc.read_cpu([nats.pid]) - before
        delivered = await _delivered(listening) if listening else None
        return _row(mode, subscribers, report, used, delivered, where)
    finally:
        for child in reversed(children):
            await child.stop()


def _publisher(url: str, mode: str, messages: int, plan: Events, cpus: Sequence[int]) -> list[str]:
    argv = [sys.executable, "-m", "parley_client.bench.publisher", url, mode, str(messages)]
    return pinned([*argv, str(plan.sessions), f"{plan.journal_share:g}"], cpus)


def _listeners(url: str, count: int, cpus: Sequence[int]) -> ChildSpec:
    argv = [sys.executable, "-m", "parley_client.bench.listeners", url, str(count)]
    return ChildSpec("event listeners", pinned(argv, cpus))


async def _publish(argv: Sequence[str], folder: Path) -> dict[str, Any]:
    """Run the publisher to its end; its report."""
    with (folder / "publisher.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, stderr=log)
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise ParleyError(f"the publisher did not end within {PATIENCE_S:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        tail = (folder / "publisher.log").read_text(errors="replace")[-1500:]
        raise ProcessDied("the publisher", process.returncode, tail)
    report: dict[str, Any] = json.loads(said)
    return report


async def _delivered(listening: Child) -> dict[str, Any]:
    """What each listener got; it says so when it is told to end."""
    await listening.stop()
    for line in reversed(listening.log.read_text(errors="replace").splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise ParleyError(f"the event listeners said nothing at their end:\n{listening.tail()}")


def _row(
    mode: str,
    subscribers: int,
    report: dict[str, Any],
    nats_cpu: float,
    delivered: dict[str, Any] | None,
    where: str,
) -> Row:
    count, cpu = report["messages"], report["cpu_s"]
    return {
        "system": "parley" if mode == "NatsBus" else "nats-py",
        "publisher": mode,
        "transport": "jetstream" if mode != "core publish" else "core",
        "tls": False,
        "subscribers": subscribers,
        "messages": count,
        "seconds": round(report["seconds"], 3),
        "events_per_s": round(count / report["seconds"], 1),
        "events_per_s_per_core": round(count / cpu, 1),
        "cpu_us_per_event": round(cpu / count * 1e6, 2),
        "nats_cpu_us_per_event": round(nats_cpu / count * 1e6, 2),
        "lost": report["lost"],
        "out_of_order": report["out_of_order"],
        "delivered": delivered,
        "versions": machine.versions(("nats-py", "uvloop")),
        "machine": where,
    }


def verdict(rows: Sequence[Row]) -> dict[str, Any]:
    """Whether the bus lost nothing and kept the order, and every listener got the same."""
    checked = [row for row in rows if row["system"] == "parley"]
    lost = sum(row["lost"] + row["out_of_order"] for row in checked)
    uneven = [row for row in rows if row["delivered"] and not row["delivered"]["even"]]
    verdicts = {
        "nothing lost": "pass" if checked and not lost else "fail",
        "every subscriber got all": "pass" if not uneven else "fail",
    }
    return {"verdicts": verdicts, "passed": "fail" not in verdicts.values()}


def cells(row: Row) -> list[str]:
    delivered = row["delivered"]
    return [
        row["publisher"],
        str(row["subscribers"]),
        str(row["messages"]),
        number(row["events_per_s"], 0),
        number(row["events_per_s_per_core"], 0),
        number(row["cpu_us_per_event"], 1),
        number(row["nats_cpu_us_per_event"], 1),
        str(row["lost"]),
        str(row["out_of_order"]),
        "-" if delivered is None else _shared(delivered),
    ]


def _shared(delivered: dict[str, Any]) -> str:
    return (
        f"{delivered['messages']} each" if delivered["even"] else f"UNEVEN, {delivered['messages']} or more"
    )


def words(row: Row) -> str:
    """A line while the run goes on."""
    rate = f"{row['events_per_s_per_core']:.0f} events/s/core"
    return (
        f"{row['publisher']}, {row['subscribers']} subscribers: {rate},"
        f" {row['nats_cpu_us_per_event']:.0f} us of nats-server each, lost {row['lost']}"
    )
