"""clockd with a watch on what holds its loop: `python -m bench.instrumented RECORD ARGUMENTS OF CLOCKD...`.

Measured are the stops by the garbage collector, and the sweeps of the connections. At SIGUSR1, what was measured since
the last one is written to the file RECORD as JSON.
"""

import gc
import json
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from clockd.__main__ import main
from clockd.broker import ClockServerFactory


@dataclass
class Stops:
    """What held the loop again and again.

    Attributes:
        count: How often.
        seconds: For how long altogether.
        longest: For how long at most, in seconds.
        cpu_seconds: The CPU time that it took altogether.
    """

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0
    cpu_seconds: float = 0.0


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


GENERATIONS = len(gc.get_threshold())


class Watch:
    """Everything that is measured.

    Args:
        record: Where it is written.
    """

    def __init__(self, record: Path) -> None:
        self._record = record
        self._watches = {name: Stopwatch() for name in ("sweep", *map(str, range(GENERATIONS)))}

    def begin(self) -> None:
        """Measure from now on."""
        gc.callbacks.append(self._collected)
        signal.signal(signal.SIGUSR1, self._write)
        sweep, watch = ClockServerFactory.sweep, self._watches["sweep"]

        def watched(factory: ClockServerFactory) -> None:
            watch.start()
            sweep(factory)
            watch.stop()

        ClockServerFactory.sweep = watched

    def _collected(self, phase: str, info: dict[str, int]) -> None:
        watch = self._watches[str(info["generation"])]
        if phase == "start":
            watch.start()
        else:
            watch.stop()

    def _write(self, *_: object) -> None:
        part = self._record.with_suffix(".part")
        part.write_text(json.dumps({name: asdict(watch.stops) for name, watch in self._watches.items()}))
        part.replace(self._record)
        for watch in self._watches.values():
            watch.stops = Stops()


Watch(Path(sys.argv.pop(1))).begin()
main()
