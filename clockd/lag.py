"""How long a reactor is busy between two looks at what has happened.

Rules of this module: it alone knows where Twisted's reactors keep what they wait with; `tests/test_lag.py` fails when
that changes.
"""

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service

from clockd.values import Histogram


class _Watched:
    """What a reactor waits with, and the time between two waits.

    Args:
        poller: A `select.epoll`, or what is in its place.
        seconds: Returns the time of a monotonic clock.
        lag: Where the time is counted.
    """

    def __init__(self, poller: Any, seconds: Callable[[], float], lag: Histogram) -> None:
        self._poller = poller
        observe, poll = lag.observe, poller.poll
        woken: float | None = None

        def watched(*arguments: float) -> list[tuple[int, int]]:
            nonlocal woken
            if woken is not None:
                observe(seconds() - woken)
            events: list[tuple[int, int]] = poll(*arguments)
            woken = seconds()
            return events

        self.poll = watched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


class LagWatch(Service):
    """Counts how long a reactor is busy each time it is: whatever happens meanwhile has to wait as long.

    Args:
        reactor: A Twisted reactor; of one that waits with neither epoll nor poll nothing is counted.
        lag: Where it is counted, in seconds.
    """

    def __init__(self, reactor: Any, lag: Histogram) -> None:
        self._reactor = reactor
        self._lag = lag
        self._poller: Any = None

    def startService(self) -> None:
        """Begin to count."""
        super().startService()
        self._poller = getattr(self._reactor, "_poller", None)
        if self._poller is not None:
            self._reactor._poller = _Watched(self._poller, self._reactor.seconds, self._lag)  # noqa: SLF001  # see above

    def stopService(self) -> None:
        """Count no more."""
        super().stopService()
        if self._poller is not None:
            self._reactor._poller = self._poller  # noqa: SLF001  # see above
