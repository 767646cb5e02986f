"""Every test of the library runs over each transport."""

from __future__ import annotations

import pytest
from parley_realtime import transport


@pytest.fixture(params=transport.TRANSPORTS, autouse=True)
def transport_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What speaks WebSocket where a client's parameters name nothing."""
    name: str = request.param
    monkeypatch.setattr(transport, "default", name)
    return name
