"""clockd with a watch on what holds its loop: `python -m bench.instrumented RECORD ARGUMENTS OF CLOCKD...`.

Measured are the stops by the garbage collector, and the sweeps of the connections. At SIGUSR1, what was measured since
the last one is written to the file RECORD as JSON; and how late how many pushes were since the start, for which a
scrape would hold the loop.
"""

import gc
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from clockd.__main__ import main
from clockd.broker import ClockServerFactory
from clockd.values import Histogram


@dataclass
class Stops:
    """What held the loop again and again.

    Attributes:
        count: How often.
        seconds: For how long altogether.
        longest: For how long at most, in seconds.
        cpu_seconds: The CPU time that it took altogether.
        longest_cpu: The CPU time of the one that took most: less than `longest` if others had the core meanwhile.
    """

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    cpu_seconds: float = 0.0
    longest_cpu: float = 0.0


class Stopwatch:
    """Adds one kind of stop up.

    Attributes:
        stops: What was measured so far.
    """

    def __init__(self) -> None:
        self.stops = Stops()
        self._start = self._cpu_start = 0.0

    def start(self) -> None:
        """The loop is held from now on."""
        self._start, self._cpu_start = time.perf_counter(), time.thread_time()

    def stop(self) -> None:
        """It is not any more."""
        seconds, cpu_seconds = time.perf_counter() - self._start, time.thread_time() - self._cpu_start
        stops = self.stops
        stops.count += 1
        stops.seconds += seconds
        stops.longest = max(stops.longest, seconds)
        stops.cpu_seconds += cpu_seconds
        stops.longest_cpu = max(stops.longest_cpu, cpu_seconds)


class Watch:
    """Everything that is measured.

    Args:
        record: Where it is written.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._sweep = Stopwatch()
        self._generations = [Stopwatch() for _ in gc.get_threshold()]
        self._lateness: Histogram | None = None

    def begin(self) -> None:
        """Measure from now on."""
        gc.callbacks.append(self._collected)
        signal.signal(signal.SIGUSR1, self._write)
        sweep, watch = ClockServerFactory.sweep, self._sweep

        def watched(factory: ClockServerFactory) -> None:
            self._lateness = factory.tally.lateness
            watch.start()
            sweep(factory)
            watch.stop()

        ClockServerFactory.sweep = watched

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        watch = self._generations[info["generation"]]
        if phase == "start":
            watch.start()
        else:
            watch.stop()

    def _write(self, *_: object) -> None:
        lateness = self._lateness
        found = {
            "sweep": asdict(self._sweep.stops),
            "collector": [asdict(watch.stops) for watch in self._generations],
            "lateness": lateness
            and {
                "buckets": [*zip((*lateness.bounds, None), accumulate(lateness.counts), strict=True)],
                "total": lateness.total,
            },
        }
        part = self._record.with_suffix(".part")
        part.write_text(json.dumps(found))
        part.replace(self._record)
        for watch in (self._sweep, *self._generations):
            watch.stops = Stops()


Watch(Path(sys.argv.pop(1))).begin()
main()
