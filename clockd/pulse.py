"""How the service itself is doing, as a value.

Rules of this module: it reads the tally, and counts nothing.
"""

from twisted.internet.interfaces import IReactorTime

from clockd.values import FeedTally, Histogram, Tally

Observed = tuple[int, float]


class Pulse:
    """Reads a tally; rates and means are those since the reading before, at the first since this was made.

    Args:
        tally: What to read.
        clock: Monotonic time.
    """

    def __init__(self, tally: Tally, clock: IReactorTime) -> None:
        self._tally = tally
        self._clock = clock
        self._moment = clock.seconds()
        self._pushes = 0
        self._observed: Observed = (0, 0.0)

    def take(self) -> dict[str, object]:
        """Return a reading; its keys are those of the metrics without `clockd_`, and their units."""
        tally, feeds = self._tally, FeedTally.sum(self._tally.feeds.values())
        moment = self._clock.seconds()
        passed, new = moment - self._moment, feeds.pushes - self._pushes
        self._moment, self._pushes = moment, feeds.pushes
        lateness, self._observed = mean_since(self._observed, tally.lateness)
        return {
            "avatars": tally.avatars,
            "connections": {"pending": tally.pending, "authenticated": tally.authenticated},
            "push_requested_hertz": feeds.requested,
            "push_achieved_hertz": new / passed if passed > 0 else 0.0,
            "push_lateness_seconds": lateness,
            "pushes_skipped": feeds.skipped,
            "unhandled_errors": tally.unhandled_errors,
        }


def mean_since(before: Observed, histogram: Histogram) -> tuple[float, Observed]:
    """Return the mean of what was observed since, 0 if nothing was, and what has been observed by now."""
    count, total = sum(histogram.counts), histogram.total
    new = count - before[0]
    return (total - before[1]) / new if new else 0.0, (count, total)
