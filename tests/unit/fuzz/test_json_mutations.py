"""What changes JSON for the fuzzers: it stays JSON, and keys that bytes rarely hit are hit."""

from __future__ import annotations

import json
import random
from pathlib import Path

from scripts import load_script

ROOT = Path(__file__).resolve().parents[3]
json_mutations = load_script(ROOT / "tests" / "fuzz" / "json_mutations.py")

WORDS = ["mark", "chunk", "media"]


def test_it_stays_json_and_reaches_keys_in_places_where_no_seed_has_them() -> None:
    dice, data = random.Random(7), b'~~\n{"event": "mark", "mark": {"name": "m1"}}'
    seen = set()
    for _ in range(500):
        changed = json_mutations.mutated(dice, data, WORDS)
        for line in changed.split(b"\n"):
            if line.startswith(b"{"):
                value = json.loads(line)
                seen.add((value.get("event") == "mark", "chunk" in value))
    assert seen == {(a, b) for a in (True, False) for b in (True, False)}


def test_what_is_no_json_is_left_to_others() -> None:
    for data in (b"", b"~~\n{", b"[1]\n5", b"\xff\n" + b"[" * 5000):
        assert json_mutations.mutated(random.Random(1), data, WORDS) is None
