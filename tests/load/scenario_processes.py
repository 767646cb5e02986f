"""What a scenario's process costs: time to start, memory of its own, time until it is gone.

    python tests/load/scenario_processes.py [HOW_MANY]

Prints one line of JSON: milliseconds from the request to `main` having returned, KiB of PSS and of private
memory a process while all of them live.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from parley_worker.runtime.scenario_processes import ScenarioProcess, ScenarioProcesses

BOOT: dict[str, Any] = {
    "t": "boot",
    "entry_point": "",
    "source": "async def main(ctx):\n    ctx.set_interval(lambda: None, 1)\n",
    "file_name": "scenario.py",
    "function": "main",
    "session": {"uid": "u", "name": "n", "namespace": "ns", "attempt": 1},
    "memory_bytes": 256 * 1024 * 1024,
    "strict": True,
}


def memory(pid: int) -> dict[str, int]:
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0])
    return {"pss": fields["Pss"], "private": fields["Private_Clean"] + fields["Private_Dirty"]}


async def start(processes: ScenarioProcesses) -> tuple[ScenarioProcess, float]:
    began = time.perf_counter()
    process = await processes.start(BOOT)
    frame = await process.receive()
    while frame and frame["t"] != "ready":
        assert frame["t"] != "failed", frame
        frame = await process.receive()
    return process, (time.perf_counter() - began) * 1000


async def main(count: int) -> None:
    processes = ScenarioProcesses()
    try:
        first, cold = await start(processes)
        started = [await start(processes) for _ in range(count)]
        warm = sorted(took for _, took in started)
        sizes = [memory(process.pid) for process, _ in started]
        zygote = memory(processes.zygote_pid)
        began = time.perf_counter()
        for process in (first, *(process for process, _ in started)):
            await processes.end(process)
        result = {
            "processes": count,
            "first_start_ms": round(cold, 1),
            "start_ms_median": round(statistics.median(warm), 1),
            "start_ms_p95": round(warm[int(len(warm) * 0.95)], 1),
            "pss_kib_median": statistics.median(size["pss"] for size in sizes),
            "private_kib_median": statistics.median(size["private"] for size in sizes),
            "zygote_pss_kib": zygote["pss"],
            "end_ms_each": round((time.perf_counter() - began) * 1000 / (count + 1), 1),
        }
        print(json.dumps(result))
    finally:
        await processes.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
