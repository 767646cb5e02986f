"""A session whose audio is checked while something is done to another session of the same shard.

    async with neighbour(host):
        ...  # whatever the other session does
    # every sample came, in order, and nothing of it left much too late

What is late is counted by the worker itself against its playout clock; the bound is generous, because the
provider, the callers and the worker share one event loop here.
"""

from __future__ import annotations

import array
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from media_calls import Worker, calling, start
from parley.media.v1 import media_pb2 as pb
from provider_script import Socket, scripted

SECONDS = 4
MUCH_TOO_LATE = "0.64"
SPEECH = array.array("h", (n * 7919 % 65521 - 32760 for n in range(24_000 * SECONDS))).tobytes()


def sample(host: Worker, name: str, **labels: str) -> float:
    """A number of the worker's metrics; 0 where there is none."""
    return host.app.metrics.registry.get_sample_value(f"parley_worker_{name}", labels) or 0.0


async def _speak(socket: Socket) -> None:
    await socket.greet()
    await socket.say(SPEECH, "r1", "i1")


@asynccontextmanager
async def neighbour(host: Worker) -> AsyncIterator[None]:
    """A session that speaks for SECONDS while the block runs. It and the block both end before the checks."""
    async with scripted(_speak) as script:
        config = host.admit(script.url)
        async with calling(host, start(config, playout_mode=pb.PLAYOUT_MODE_REALTIME)) as caller:
            await caller.expect("audio", count=5)
            frames = sample(host, "frame_lateness_seconds_count")
            yield
            await caller.expect("mark", timeout=60)
            assert caller.audio() == SPEECH
            numbers = [message.sequence for message in caller.of("audio")]
            assert numbers == list(range(1, len(numbers) + 1))
            assert sample(host, "frame_lateness_seconds_count") - frames >= SECONDS * 50 - 100
            in_time = sample(host, "frame_lateness_seconds_bucket", le=MUCH_TOO_LATE)
            assert sample(host, "frame_lateness_seconds_count") == in_time
            assert sample(host, "underruns_total", cause="provider_late") == 0
            await caller.send(hangup=pb.Hangup())
            await caller.ended()
        await asyncio.sleep(0)
