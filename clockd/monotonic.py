"""A reactor whose timers do not follow the wall clock.

Twisted's reactors measure intervals with `time.time`, so a step of the wall clock stalls or bursts every timer
(https://github.com/twisted/twisted/issues/2424). Replacing `reactor.seconds` cures all of it, if it is done before
anything is scheduled; calls that are pending already are timed anew here, for they would never fire.
"""

import time
from typing import Any


def make_monotonic(reactor: Any) -> None:
    """Have a reactor measure time with `time.monotonic` from now on; idempotent.

    Args:
        reactor: A Twisted reactor; `Any`, because no interface has a `seconds` that may be assigned.
    """
    if reactor.seconds is time.monotonic:
        return
    left = [(call, call.getTime() - reactor.seconds()) for call in reactor.getDelayedCalls()]
    reactor.seconds = time.monotonic
    for call, seconds in left:
        call.seconds = time.monotonic
        call.reset(max(0.0, seconds))
