"""When servers and publishers send: groups evenly staggered over the period; or each to its own period."""

import time
from collections.abc import Iterator


def beats(groups: int, period: float) -> Iterator[tuple[int, float]]:
    """Yield, for ever, the group that is next and the seconds until it is due; the caller sleeps.

    Whole periods that the caller was late are left out and not made up for, as clockd does it.

    Args:
        groups: How many groups there are.
        period: Seconds between two beats of the same group.
    """
    start = time.monotonic()
    beat = 0
    while True:
        beat += 1
        wait = start + beat * period / groups - time.monotonic()
        beat += int(max(0.0, -wait) / period) * groups
        yield beat % groups, max(0.0, wait)


def spaced(count: int, shortest: float, longest: float) -> list[float]:
    """Return so many different periods, evenly from the shortest to the longest."""
    step = (longest - shortest) / max(1, count - 1)
    return [shortest + i * step for i in range(count)]
