"""What a Twisted timer for each subscriber costs: `python -m bench.timers COUNT SHORTEST LONGEST WARMUP SECONDS`.

So many `TimerService`s with as many periods, which do nothing but count. Printed as JSON: the ticks of so many seconds,
and the CPU time of this process.
"""

import json
import sys
import time

from twisted.application.internet import TimerService
from twisted.internet import reactor

from bench.pacing import spaced
from clockd.monotonic import make_monotonic


class Count:
    """Counts ticks."""

    def __init__(self) -> None:
        self.ticks = 0
        self._start = (0, 0.0, 0.0)

    def tick(self) -> None:
        """Count one."""
        self.ticks += 1

    def begin(self) -> None:
        """Look from now on."""
        self._start = (self.ticks, time.process_time(), time.monotonic())

    def end(self) -> None:
        """Print what was since, and end."""
        ticks, cpu_seconds, start = self._start
        found = {
            "ticks": self.ticks - ticks,
            "cpu_seconds": time.process_time() - cpu_seconds,
            "seconds": time.monotonic() - start,
        }
        print(json.dumps(found), flush=True)
        reactor.stop()


def main(count: int, shortest: float, longest: float, warmup: float, seconds: float) -> None:
    """Run them."""
    make_monotonic(reactor)
    counter = Count()
    timers = [TimerService(period, counter.tick) for period in spaced(count, shortest, longest)]
    for timer in timers:
        timer.startService()
    reactor.callLater(warmup, counter.begin)
    reactor.callLater(warmup + seconds, counter.end)
    reactor.run()


main(int(sys.argv[1]), *map(float, sys.argv[2:]))
