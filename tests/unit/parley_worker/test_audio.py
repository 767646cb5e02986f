"""Formats, G.711 and conversion."""

from __future__ import annotations

import numpy as np
import pytest
from parley_worker.core.audio import (
    PROVIDER_FORMATS,
    AudioFormat,
    Encoding,
    converter,
    decode,
    delay_ms,
    encode,
)

PCM24 = PROVIDER_FORMATS["pcm16"]
PCM8 = AudioFormat(Encoding.PCM16, 8000)
ULAW = PROVIDER_FORMATS["g711_ulaw"]
ALAW = PROVIDER_FORMATS["g711_alaw"]


@pytest.mark.parametrize(
    ("encoding", "code", "value"),
    [
        (Encoding.G711_ULAW, 0x00, -32124),
        (Encoding.G711_ULAW, 0x80, 32124),
        (Encoding.G711_ULAW, 0xFF, 0),
        (Encoding.G711_ULAW, 0xEF, 132),
        (Encoding.G711_ALAW, 0xD5, 8),
        (Encoding.G711_ALAW, 0x55, -8),
        (Encoding.G711_ALAW, 0xAA, 32256),
        (Encoding.G711_ALAW, 0x2A, -32256),
    ],
)
def test_codes_of_the_recommendation(encoding: Encoding, code: int, value: int) -> None:
    assert decode(bytes([code]), encoding)[0] == value
    assert encode(np.array([value], dtype=np.int16), encoding) == bytes([code])


@pytest.mark.parametrize("encoding", [Encoding.G711_ULAW, Encoding.G711_ALAW])
def test_every_sample_gets_the_nearest_value(encoding: Encoding) -> None:
    samples = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
    values = np.unique(decode(bytes(range(256)), encoding)).astype(np.int32)
    got = decode(encode(samples, encoding), encoding).astype(np.int32)
    best = np.min(np.abs(values[None, :] - samples.astype(np.int32)[::37, None]), axis=1)
    assert np.array_equal(np.abs(got - samples)[::37], best)


@pytest.mark.parametrize(("encoding", "rate"), [(Encoding.PCM16, 44100), (Encoding.G711_ALAW, 16000)])
def test_rates_that_are_not_supported(encoding: Encoding, rate: int) -> None:
    with pytest.raises(ValueError, match=f"sample_rate_hz is {rate}"):
        AudioFormat(encoding, rate)


def test_equal_formats_are_passed_through_untouched() -> None:
    payload = b"\x01\x02"
    assert converter(ULAW, ULAW).convert(payload) is payload
    assert delay_ms(ULAW, ULAW) == 0


def test_recoding_without_resampling_has_no_delay() -> None:
    assert converter(ULAW, ALAW).convert(b"\xff") == b"\xd5"
    assert delay_ms(ULAW, PCM8) == 0


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_resampling_stays_within_the_stated_delay(rate: int) -> None:
    leg = AudioFormat(Encoding.PCM16, rate)
    for source, target in ((leg, PCM24), (PCM24, leg)):
        convert = converter(source, target)
        given = got = 0
        for _ in range(100):
            block = bytes(source.bytes_per_ms * 20)
            given += len(block)
            got += len(convert.convert(block))
            assert source.ms(given) - target.ms(got) <= delay_ms(source, target) + 0.1
        got += len(convert.flush())
        assert abs(source.ms(given) - target.ms(got)) < 1


def test_flush_starts_anew() -> None:
    convert = converter(PCM8, PCM24)
    first = convert.convert(bytes(1600)) + convert.flush()
    assert convert.flush() == b""
    assert convert.convert(bytes(1600)) + convert.flush() == first


def test_silence_is_silent() -> None:
    for audio in (PCM24, ULAW, ALAW):
        assert abs(int(decode(audio.silence, audio.encoding)[0])) <= 8
