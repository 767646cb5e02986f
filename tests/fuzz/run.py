"""Fuzzes the targets of `tests/support/fuzz_targets.py`: `make fuzz`, FUZZ_SECONDS for each.

Guided by coverage where atheris can be installed, else by blind mutations of the corpus. Each target runs in
a process of its own with bounds on time and memory. What is new to a coverage-guided run is kept below
`build/fuzz`. What finds a fault is named in the last lines; it belongs into `tests/fuzz/corpus/<target>` with
its fix, and is replayed from there by the unit tests.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import json_mutations

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests" / "fuzz" / "corpus"
BUILD = ROOT / "build" / "fuzz"
MAX_INPUT = 8192
RSS_MB = 2048
SLOWEST_S = 10
INSTRUMENTED = [
    "parley_realtime",
    "parley_local",
    "parley_worker",
    "parley_opus",
    "recorded_session",
    "fuzz_targets",
]
STREAMS = """connected start media mark clear stop dtmf event streamSid sequenceNumber chunk timestamp payload
    track digit name mediaFormat encoding sampleRate channels customParameters ticket session tag mediaInfo"""
sys.path.insert(0, str(ROOT / "tests" / "support"))


def words() -> list[str]:
    """Names of the protocol that engines may splice in."""
    from parley_local.core.catalogue import CLIENT_EVENTS, SERVER_EVENTS

    kinds = {kind for events in (*CLIENT_EVENTS.values(), *SERVER_EVENTS.values()) for kind in events}
    fields = {field for events in SERVER_EVENTS.values() for row in events.values() for field in row}
    more = {
        "type",
        "session",
        "audio",
        "recording",
        "sent",
        "received",
        "bytes",
        "heard",
        "choices",
        "message",
    }
    return sorted(kinds | fields | more | set(STREAMS.split()))


def guided(target: str, seconds: int) -> None:
    """libFuzzer by atheris; ends the process."""
    import atheris  # type: ignore[import-not-found]

    with atheris.instrument_imports(include=INSTRUMENTED):
        import fuzz_targets
    found = BUILD / target
    found.mkdir(parents=True, exist_ok=True)
    dictionary = BUILD / "words.dict"
    dictionary.write_text("".join(f'"\\"{word}\\""\n' for word in words()))
    arguments = [
        sys.argv[0], str(found), str(CORPUS / target), f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}",
        f"-rss_limit_mb={RSS_MB}", f"-timeout={SLOWEST_S}", f"-dict={dictionary}", "-print_final_stats=1",
        f"-artifact_prefix={BUILD}/{target}-",
    ]  # fmt: skip
    names = words()

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        """Half of the time what was JSON stays JSON: keys are what bytes rarely hit."""
        dice = random.Random(seed)
        kept = json_mutations.mutated(dice, data, names) if dice.random() < 0.5 else None
        return atheris.Mutate(data, max_size) if kept is None or len(kept) > max_size else kept

    atheris.Setup(arguments, fuzz_targets.TARGETS[target], custom_mutator=change)
    atheris.Fuzz()


def blind(target: str, seconds: int) -> int:
    """Mutations of the corpus without coverage, from a printed seed; the exit code."""
    import fuzz_targets

    resource.setrlimit(resource.RLIMIT_AS, (2 * RSS_MB * 2**20,) * 2)
    seed = random.SystemRandom().randrange(2**32)
    dice = random.Random(seed)
    print(f"{target}: seed {seed}")
    seeds = [path.read_bytes() for path in sorted((CORPUS / target).iterdir())] or [b""]
    names = words()
    spliced = [word.encode() for word in names]
    end = time.monotonic() + seconds
    runs = 0
    while time.monotonic() < end:
        seed_data = dice.choice(seeds)
        kept = json_mutations.mutated(dice, seed_data, names) if dice.random() < 0.5 else None
        data = kept or mutated(dice, seed_data, dice.choice(seeds), spliced)
        began = time.monotonic()
        try:
            fuzz_targets.TARGETS[target](data)
        except Exception as error:
            path = BUILD / f"{target}-crash-{seed}-{runs}"
            path.write_bytes(data)
            print(f"{target}: {type(error).__name__}: {error}; the input is {path}")
            raise
        if time.monotonic() - began > SLOWEST_S:
            print(f"{target}: one input took longer than {SLOWEST_S} s")
            return 1
        runs += 1
    print(f"stat::number_of_executed_units: {runs}")
    return 0


def mutated(dice: random.Random, data: bytes, other: bytes, spliced: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        at = dice.randint(0, len(changed))
        to = min(len(changed), at + dice.randint(0, 12))
        match dice.randrange(5):
            case 0:
                changed[at:to] = dice.randbytes(dice.randint(0, 6))
            case 1:
                changed[at:to] = b""
            case 2:
                changed[at:at] = b'"' + dice.choice(spliced) + b'"'
            case 3:
                begin = dice.randint(0, len(other))
                changed[at:to] = other[begin : begin + dice.randint(1, 200)]
            case _:
                changed[at:at] = dice.choice([*b'{ } [ ] , : null -1 1e999 "'.split(), b"\n"])
    return bytes(changed[:MAX_INPUT])


def everything(targets: list[str], seconds: int, engine: str) -> int:
    """Each target in its own process; the exit code."""
    BUILD.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    total = 0
    for target in targets:
        command = [sys.executable, __file__, "--engine", engine, "--seconds", str(seconds), "--only", target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
        output = done.stdout + done.stderr
        counted = [line.split()[-1] for line in output.splitlines() if "number_of_executed_units" in line]
        runs = int(counted[-1]) if counted else 0
        total += runs
        ok = done.returncode == 0 and runs > 0
        print(
            f"{target}: {runs} inputs in {seconds} s by {engine}: {'no finding' if ok else 'FAILED'}",
            flush=True,
        )
        if not ok:
            failed.append(target)
            print(output[-4000:], flush=True)
    print(
        f"{len(targets)} targets, {total} inputs, {len(failed)} with a finding: {', '.join(failed) or 'none'}"
    )
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default %(default)s)")
    parser.add_argument(
        "--engine", choices=("guided", "blind"), help="default: guided where atheris is there"
    )
    parser.add_argument("--only", help="run this target here, in this process")
    parser.add_argument("targets", nargs="*", help="default: all")
    options = parser.parse_args()
    if options.only and options.engine == "guided":
        guided(options.only, options.seconds)
        return 0
    if options.only:
        return blind(options.only, options.seconds)
    engine = options.engine
    if engine is None:
        probe = subprocess.run([sys.executable, "-c", "import atheris"], capture_output=True, check=False)
        engine = "guided" if probe.returncode == 0 else "blind"
    import fuzz_targets

    return everything(options.targets or list(fuzz_targets.TARGETS), options.seconds, engine)


if __name__ == "__main__":
    sys.exit(main())
