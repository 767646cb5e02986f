"""What a session's core measures, written to the metrics."""

from __future__ import annotations

from parley_worker.core.effects import Measure, Observe
from parley_worker.telemetry.metrics import Metrics


def observe(effect: Observe, metrics: Metrics, now: float) -> None:
    """One fact; `now` is monotonic seconds."""
    match effect.measure:
        case Measure.PROVIDER_CONNECTED:
            metrics.provider_connected(effect.value)
        case Measure.PROVIDER_ERROR:
            metrics.provider_error(effect.word)
        case Measure.FIRST_AUDIO:
            metrics.first_audio(effect.value)
        case Measure.BARGE_IN:
            metrics.barge_in(now - effect.value)
        case Measure.RECORDING:
            metrics.recording(effect.word)
        case Measure.RECONNECTED:
            metrics.provider_reconnected(effect.word, effect.value)
        case Measure.RESTORE_REFUSED:
            metrics.provider_not_reconnected(effect.word, "refused")
        case Measure.RECONNECT_FAILED:
            metrics.provider_not_reconnected(effect.word, "failed")
        case Measure.RATE_LIMIT_LEFT:
            metrics.rate_limit_left(effect.word, effect.value)
