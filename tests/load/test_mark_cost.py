"""What marks within the audio cost: CPU of a minute of speech with them against the same minute without.

pytest tests/load/test_mark_cost.py -s
"""

from __future__ import annotations

import json
import time

from parley_worker.codec.twilio_json import FORMAT, TwilioDialect
from parley_worker.core import effects as fx
from parley_worker.core import events as ev
from parley_worker.core.audio import PROVIDER_FORMATS
from parley_worker.core.media_path import OutFrame, OutputPath, PlayoutMode
from session_driver import Driver

SECONDS = 60
ROUNDS = 5


def minute(mark_ms: int) -> tuple[float, int]:
    """CPU seconds of a minute of mu-law speech to a Twilio stream, and the marks that went and came back."""
    driver = Driver().ready()
    request = ev.AttachRequest(
        ev.CredentialKind.TICKET, FORMAT, FORMAT, PlayoutMode.REALTIME, mark_interval_ms=mark_ms
    )
    driver.feed(ev.LegAttached(request, "token"))
    session, dialect = driver.session, TwilioDialect()
    path = OutputPath(PROVIDER_FORMATS["g711_ulaw"], session.ledger, session.counters, 1 << 24)
    path.attach(FORMAT, PlayoutMode.REALTIME, mark_ms)
    path.push(bytes(8000 * SECONDS), "r", "i", 0, driver.now)
    path.end_part("r", "i", 0)
    now, marks = driver.now, 0
    begun = time.process_time()
    for _ in range(SECONDS * 50 + 2):
        for out in path.take(now, 1 << 20):
            if isinstance(out, OutFrame):
                json.dumps(dialect.write_audio(out))
                continue
            for effect in session.handle(
                ev.PartSent(out.item_id, out.content_index, out.epoch, out.position_ms), now
            ):
                if isinstance(effect, fx.SendLeg) and isinstance(effect.message, fx.Mark):
                    text = json.dumps(dialect.write(effect.message))
                    marks += 1
                    played = dialect.read(text)
                    assert isinstance(played, ev.MarkPlayed)
                    session.handle(ev.LegSaid(played), now)
        now += 0.02
    return time.process_time() - begun, marks


def test_marks_cost_little() -> None:
    minute(0)
    spent: dict[int, float] = {}
    for _ in range(ROUNDS):
        for mark_ms in (0, 200, 100):
            seconds, marks = minute(mark_ms)
            assert abs(marks - (SECONDS * 1000 // mark_ms if mark_ms else 0)) <= 1
            spent[mark_ms] = min(spent.get(mark_ms, seconds), seconds)
    for mark_ms in (200, 100):
        print(
            f"marks every {mark_ms} ms: {spent[mark_ms] / spent[0]:.2f} of the CPU without, "
            f"{(spent[mark_ms] - spent[0]) / SECONDS * 1e6:.0f} us more a second of speech"
        )
    assert spent[100] < spent[0] * 3
