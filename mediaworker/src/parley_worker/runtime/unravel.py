"""Lets go of a session that is over, so that reference counts free it and no collection of everything has to.

A full collection looks at every object of every live session: tens of milliseconds in which nobody hears
anything. A session that ends in a knot of references would make one due.
"""

from __future__ import annotations


def unravel(*over: object) -> None:
    """Clear what these refer to; nothing uses them any more."""
    for each in over:
        vars(each).clear()


def unheard(event: object) -> None:
    """Who is told in the place of one that is gone: nobody."""
