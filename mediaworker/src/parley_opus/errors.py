"""What goes wrong with Opus."""

from __future__ import annotations


class OpusError(Exception):
    """libopus refused a packet, a frame or a setting; the text is its own word for it."""


class OpusUnavailable(Exception):
    """libopus cannot be loaded; the text says how it is installed."""
