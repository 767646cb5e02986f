"""Audio cut out of its frame is what parsing the whole frame gives, whatever stands around it."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parley_realtime.formats import DEFAULT_FORMAT
from parley_realtime.protocol.core import CUT_BYTES, AudioDelta, Malformed, ProtocolCore
from parley_realtime.protocol.ga import GA
from parley_realtime.protocol.shape import ClientType

AUDIO = base64.b64encode(bytes(range(256)) * 8).decode()
KIND = "response.output_audio.delta"
USUAL = {
    "type": KIND,
    "event_id": "event_1",
    "response_id": "resp_1",
    "item_id": "item_1",
    "output_index": 0,
    "content_index": 0,
    "delta": AUDIO,
}


def core() -> ProtocolCore:
    return ProtocolCore(GA, ClientType.REALTIME, DEFAULT_FORMAT, DEFAULT_FORMAT)


def both(frame: bytes) -> Any:
    """What the two ways give, which is the same."""
    incoming = core().decode(frame)
    assert repr(incoming) == repr(core().decode_whole(frame))
    return incoming


def is_cut(frame: bytes) -> bool:
    return core()._cut(frame) is not None


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("last", [True, False])
def test_the_usual_shapes_are_cut(separators: tuple[str, str], last: bool) -> None:
    event = USUAL if last else {"delta": AUDIO, **USUAL}
    frame = json.dumps(event, separators=separators).encode()
    assert is_cut(frame)
    chunk = both(frame).chunk
    assert chunk.payload == base64.b64decode(AUDIO)
    assert (chunk.response_id, chunk.item_id, chunk.content_index) == ("resp_1", "item_1", 0)


LONG = AUDIO.encode()
UNUSUAL = [
    b'{"type":"%b","delta":"%b","delta":""}' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"%b","d\\u0065lta":"AAAA"}' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"%b","delta" :"AAAA"}' % (KIND.encode(), LONG),
    b'{"type":"%b","x":{"delta":"%b"},"delta":"AAAA"}' % (KIND.encode(), LONG),
    b'{"type":"%b","x":{"delta":"%b"}}' % (KIND.encode(), LONG),
    b'{"type":"%b","a\\"delta":"%b","delta":""}' % (KIND.encode(), LONG),
    b'{"type":"%b","x":"a,\\"delta":"%b"}' % (KIND.encode(), LONG),
    b'[{"type":"%b","delta":"%b"}]' % (KIND.encode(), LONG),
    b'["type",{"delta":"%b"}]' % LONG,
    b'{"type":"%b","delta":["%b"]}' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"%b\\/+8="}' % (KIND.encode(), LONG[:-4]),
    b'{"type":"%b","delta":"%b=="}' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"%b%%%%"}' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"%b"' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"%b"}}' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"%b"},' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"%b' % (KIND.encode(), LONG),
    b'{"type":"%b","response_id":5,"delta":"%b"}' % (KIND.encode(), LONG),
    b'{"type":"%b","response_id":null,"delta":"%b"}' % (KIND.encode(), LONG),
    b'{"type":"%b","content_index":-1,"delta":"%b"}' % (KIND.encode(), LONG),
    b'{"type":"%b","item_id":"\\ud800","delta":"%b"}' % (KIND.encode(), LONG),
    b'{"type":"%b","item_id":"\xff","delta":"%b"}' % (KIND.encode(), LONG),
    b'{"type":"%b","x":NaN,"delta":"%b"}' % (KIND.encode(), LONG),
    b'{"type":"%b","x":01,"delta":"%b"}' % (KIND.encode(), LONG),
    b'{"type":"%b","delta":"AA%b"}' % (KIND.encode(), LONG),
    b'{"type":"response.text.delta","delta":"%b"}' % LONG,
    b'{"delta":"%b","type":"response.text.delta"}' % LONG,
    b'{"delta":"%b","type":"%b","type":"session.created"}' % (LONG, KIND.encode()),
    b'\xef\xbb\xbf{"type":"%b","delta":"%b"}' % (KIND.encode(), LONG),
    b'"delta":"%b"' % LONG,
    b'{"type":"%b","delta"::"%b"}' % (KIND.encode(), LONG),
]


@pytest.mark.parametrize("frame", UNUSUAL)
def test_what_is_unusual_means_the_same(frame: bytes) -> None:
    both(frame)


def test_long_audio_of_half_a_sample_is_refused_in_the_same_words() -> None:
    frame = json.dumps(USUAL | {"delta": base64.b64encode(bytes(2001)).decode()}).encode()
    incoming = both(frame)
    assert isinstance(incoming, Malformed)
    assert "2001 bytes" in str(incoming.error)


VALUES = st.sampled_from(
    [KIND, "response.text.delta", "", None, 0, 1, -1, True, 2**70, 1.5, [], {}, {"delta": AUDIO}]
) | st.text(max_size=8)
KEYS = st.sampled_from(
    ["type", "delta", "event_id", "response_id", "item_id", "content_index", 'a"delta', "\\delta", "{", "x"]
)


def test_a_type_that_is_no_text() -> None:
    for value in ([], {}, 5, None, True):
        fields = {"type": value, "delta": base64.b64encode(bytes(4800)).decode()}
        both(json.dumps(fields).encode())


@settings(max_examples=300, deadline=None)
@given(
    before=st.lists(st.tuples(KEYS, VALUES), max_size=5),
    size=st.integers(CUT_BYTES // 2, CUT_BYTES * 2),
    after=st.lists(st.tuples(KEYS, VALUES), max_size=4),
    spaced=st.booleans(),
    ascii_only=st.booleans(),
)
def test_any_fields_around_it(
    before: list[tuple[str, Any]],
    size: int,
    after: list[tuple[str, Any]],
    spaced: bool,
    ascii_only: bool,
) -> None:
    """Keys may come twice, be nested or look like another."""
    comma, colon = (", ", ": ") if spaced else (",", ":")
    fields = [("type", KIND), *before, ("delta", base64.b64encode(bytes(size)).decode()), *after]
    text = comma.join(
        json.dumps(key, ensure_ascii=ascii_only) + colon + json.dumps(value, ensure_ascii=ascii_only)
        for key, value in fields
    )
    both(("{" + text + "}").encode("utf-8", "surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(
    at=st.integers(0, 400),
    cut=st.integers(0, 3),
    put=st.binary(max_size=4) | st.sampled_from([b'"', b"\\", b"{", b"}", b'"delta":"', b" ", b",", b'\\"']),
    near_the_end=st.booleans(),
)
def test_any_damage(at: int, cut: int, put: bytes, near_the_end: bool) -> None:
    frame = json.dumps({"delta": "x", **USUAL, "obfuscation": "abc"}, separators=(",", ":")).encode()
    at = max(0, len(frame) - at) if near_the_end else at
    both(frame[:at] + put + frame[at + cut :])


def test_what_is_cut_is_long_audio_only() -> None:
    assert not is_cut(json.dumps(USUAL | {"delta": AUDIO[: CUT_BYTES - 4]}).encode())
    assert not is_cut(json.dumps(USUAL | {"type": "response.output_text.delta"}).encode())
    assert isinstance(both(json.dumps(USUAL | {"delta": "AAAAAAAA"}).encode()), AudioDelta)
