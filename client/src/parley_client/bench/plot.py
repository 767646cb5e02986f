"""Plots of latency and CPU against sessions, as PNG and SVG. Needs matplotlib, of the extra `bench`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from parley_client.bench.windows import WAYS
from parley_client.errors import MissingProgram

INKS: Final = {"p50": "#2a9d8f", "p99": "#e76f51", "p999": "#6d597a"}
SHOWN: Final = {"p50": "p50", "p99": "p99", "p999": "p99.9"}
SIZE: Final = (9.0, 3.4)
"""Inches of one row of a figure."""


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def curves(result: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """By label, the points of a density or latency result, fewest sessions first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        points = row.get("points", [row])
        found.setdefault(row["label"], []).extend(point for point in points if point["sessions"])
    return {label: sorted(points, key=lambda p: p["sessions"]) for label, points in found.items() if points}


def plot(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `folder`/NAME.png and .svg; the files.

    Raises:
        MissingProgram: matplotlib is not installed.
    """
    if not available():
        raise MissingProgram("the Python package matplotlib", "pip install 'parley[bench]'")
    import matplotlib as mpl

    mpl.use("Agg")
    # Text stays text, and the same data gives the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "parley", "font.size": 8})
    from matplotlib import pyplot

    shown = curves(result)
    bound = result["scenario"]["slo"]["added_p99_ms"]
    together = result["bench"] == "density"
    count = 1 if together else max(1, len(shown))
    height = 4.5 if together else SIZE[1] * count * 0.8
    figure, axes = pyplot.subplots(count, 3, squeeze=False, figsize=(SIZE[0], height))
    if together:
        _compare(axes[0], shown, bound)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, fontsize=7, ncol=4, loc="lower center")
    else:
        for row, (label, points) in zip(axes, shown.items(), strict=True):
            _draw(row, label, points, bound)
    figure.suptitle(f"parley bench {result['bench']}: {result['machine_line']}", fontsize=8)
    figure.tight_layout(rect=(0, 0.2 if together else 0, 1, 0.99 - 0.02 / count))
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in ("png", "svg"):
        path = folder / f"{result['bench']}.{kind}"
        metadata = {"Date": None} if kind == "svg" else None
        figure.savefig(path, dpi=130, metadata=metadata)
        files.append(path)
    pyplot.close(figure)
    return files


def _compare(axes: Sequence[Any], shown: Mapping[str, Sequence[Mapping[str, Any]]], bound: float) -> None:
    """Every label on the same axes: p99 each way and CPU, sessions on a logarithmic scale."""
    for label, points in shown.items():
        sessions = [point["sessions"] for point in points]
        style = {
            "marker": "o",
            "ms": 3,
            "lw": 1.1,
            "ls": "-" if " tls" in f" {label}" else "--",
            "label": label,
        }
        for axis, way in zip(axes, WAYS, strict=False):
            axis.plot(sessions, [point["added_ms"][way]["p99"] for point in points], **style)
        axes[2].plot(sessions, [(point["cpu_s_per_session_s"] or 0) * 1000 for point in points], **style)
    for axis, title in zip(
        axes, ("p99 added up, ms", "p99 added down, ms", "CPU ms a session-second"), strict=True
    ):
        axis.set_title(title, fontsize=8)
        axis.set_xlabel("sessions")
        axis.set_xscale("log")
        axis.set_yscale("symlog", linthresh=1)
        axis.set_ylim(bottom=0)
        axis.grid(True, lw=0.3)
    for axis in axes[:2]:
        axis.axhline(bound, color="#888888", lw=0.8, ls=":")


def _draw(axes: Sequence[Any], label: str, points: Sequence[Mapping[str, Any]], bound: float) -> None:
    sessions = [point["sessions"] for point in points]
    for axis, way in zip(axes, WAYS, strict=False):
        for name, ink in INKS.items():
            values = [point["added_ms"][way][name] for point in points]
            axis.plot(
                sessions,
                [v if v is not None else float("nan") for v in values],
                "o-",
                color=ink,
                ms=3,
                lw=1.2,
                label=SHOWN[name],
            )
        axis.axhline(bound, color="#888888", lw=0.8, ls="--")
        axis.set_title(f"{label}: added {way}", fontsize=8)
        axis.set_ylabel("ms")
        axis.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=7)
    cost = [(point["cpu_s_per_session_s"] or 0) * 1000 for point in points]
    cores = [point["cores"] or 0 for point in points]
    axes[2].plot(sessions, cost, "o-", color="#264653", ms=3, lw=1.2)
    axes[2].set_title(f"{label}: CPU", fontsize=8)
    axes[2].set_ylabel("ms a session-second")
    axes[2].set_ylim(bottom=0)
    share = axes[2].twinx()
    share.plot(sessions, cores, "s:", color="#b08900", ms=3, lw=1)
    share.set_ylabel("cores (dotted)")
    share.set_ylim(0, max(1.0, *cores))
    for axis in axes:
        axis.set_xlabel("sessions")
        axis.grid(True, lw=0.3)
