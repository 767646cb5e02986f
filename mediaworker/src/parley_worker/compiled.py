"""Whether this worker's hot modules are compiled ones; mediaworker/compile.py makes them."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec

WITNESS = "parley_worker.core.media_path"
"""One of them: all are compiled, or none."""


def is_compiled() -> bool:
    """Nothing is imported for it: a supervisor carries no media."""
    spec = find_spec(WITNESS)
    return spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))
