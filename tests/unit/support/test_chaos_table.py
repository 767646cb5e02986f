"""The rows of the chaos suite are judged, kept and shown as they are."""

from __future__ import annotations

import json

from chaos_table import Row, from_json, page, table, to_json

ABOUT = {"commit": "abc"}


def row(**fields: object) -> Row:
    made = Row("node-kill", "goes on", sessions=6, silence_allowed_ms=1000, seconds=12.34)
    for name, value in fields.items():
        setattr(made, name, value)
    made.judge()
    return made


def test_what_keeps_its_promise_is_ok() -> None:
    good = row(resumed=3, longest_silence_ms=1000, refused={"QueueTimeout": 2})
    assert good.ok
    assert good.verdict == "ok"


def test_a_cut_a_silence_and_a_loss_are_problems() -> None:
    assert row(cut=1).problems == ["1 of 6 sessions were cut"]
    assert not row(cut=1, cut_allowed=1).problems
    assert "1001 ms" in row(longest_silence_ms=1001).problems[0]
    assert "lost" in row(lost=2).problems[0]


def test_json_holds_everything_and_is_read_again() -> None:
    rows = [row(refused={"QueueTimeout": 2}, facts={"placed after s": 1.5}), row(skipped="one node only")]
    text = to_json(rows, ABOUT)
    kept = json.loads(text)
    assert kept["about"] == ABOUT
    first, second = kept["cases"]
    assert (first["ok"], first["lost"], first["seconds"], first["refused"]) == (
        True,
        0,
        12.3,
        {"QueueTimeout": 2},
    )
    assert not second["ok"]
    again, about = from_json(text)
    assert about == ABOUT
    assert [each.as_json() for each in again] == [each.as_json() for each in rows]


def test_the_table_tells_what_failed_and_what_was_skipped() -> None:
    lines = table([row(cut=2, refused={"QueueTimeout": 2}), row(skipped="one node only")]).splitlines()
    assert lines[0].split()[:4] == ["case", "sessions", "cut", "resumed"]
    assert "2 QueueTimeout" in lines[2]
    assert lines[2].endswith("FAILED")
    assert lines[3].endswith("skipped")
    assert lines[4:] == ["node-kill: 2 of 6 sessions were cut", "node-kill: skipped: one node only"]


def test_the_page_has_a_row_for_each_case() -> None:
    text = page([row(facts={"placed after s": 1.5}), row(lost=1)], ABOUT)
    assert "- commit: abc" in text
    assert "| node-kill | goes on | placed after s 1.5 |" in text
    assert "- node-kill: 1 sessions were lost in silence" in text
