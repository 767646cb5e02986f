"""Where the words of a reply come from. A brain of your own is `module:Class`; see docs/local-provider.md."""

from __future__ import annotations

from .base import Brain, BrainError, caller_turns, word_for_word
from .loading import load_brain

__all__ = ["Brain", "BrainError", "caller_turns", "load_brain", "word_for_word"]
