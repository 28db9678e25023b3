"""What the cases are made of: a clockd, its subscribers, and a look at both."""

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import NamedTuple, TypeVar

from bench import measure
from bench.compare import Measurement, Shape, window
from bench.contenders import ACCOUNT, GROUP_SIZE, Clockd, ClockdAsking
from bench.processes import SECONDS, Cores, LoadGenerator, Program
from bench.scrape import Counts, Lateness, lateness_counts, scrape, skipped

WARMUP = 1.5
"""Seconds before a look."""

Kind = TypeVar("Kind", bound=Clockd)


class Record(NamedTuple):
    """What a watch has measured; see `bench.instrumented`.

    Attributes:
        sweep: The sweeps of the connections: count, seconds...
        collector: The same of the collector, by generation.
        lateness: How late how many pushes were since the server started.
    """

    sweep: dict[str, float]
    collector: list[dict[str, float]]
    lateness: Counts


class Watched(ClockdAsking):
    """clockd as it is by default, with a watch on what holds its loop."""

    name = "clockd-watched"

    @property
    def record(self) -> Path:
        """Where its record appears."""
        return self.folder / "record.json"

    def program(self, command: list[str]) -> Program:
        """Start it by way of the script that watches it."""
        python, _, _, *arguments = command
        return super().program([python, "-m", "bench.instrumented", str(self.record), *arguments])

    def since(self) -> Record:
        """Return what was measured since the last time."""
        self.record.unlink(missing_ok=True)
        os.kill(self.programs[0].pid, signal.SIGUSR1)
        wait_until(self.record.exists)
        found = json.loads(self.record.read_text())
        lateness = found["lateness"]
        buckets = [(inf if bound is None else bound, count) for bound, count in lateness["buckets"]]
        return Record(found["sweep"], found["collector"], Counts(buckets, lateness["total"]))


@contextmanager
def started(kind: type[Kind], cores: Cores) -> Iterator[Kind]:
    """Run a server for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="clockd-bench-") as folder:
        clockd = kind(Path(folder), cores, 0, 1.0, GROUP_SIZE)
        try:
            clockd.start()
            yield clockd
        except RuntimeError as error:
            raise RuntimeError(f"{error}\nthe server's log:\n{clockd.log()}") from error
        finally:
            clockd.stop()


@contextmanager
def subscribed(clockd: Clockd, subscribers: int, period: float, *flags: str) -> Iterator[LoadGenerator]:
    """Have subscribers logged in for as long as the context lasts.

    Args:
        clockd: The server.
        subscribers: How many.
        period: Seconds between pushes to each.
        flags: More for the command line of the load generator.
    """
    arguments = [*clockd.load_arguments(), f"--connections={subscribers}", f"--period={period!r}", *flags]
    load = LoadGenerator(arguments, clockd.folder / "load.log", clockd.cores.load)
    try:
        yield load
    finally:
        load.stop()


@dataclass(frozen=True)
class Look:
    """What was seen in a look at a server and its subscribers.

    Attributes:
        measurement: As in the comparison.
        lateness: How late the server was by its own account. What the scrape at the beginning delayed is in it.
        skipped: Pushes that it did not make, by reason.
    """

    measurement: Measurement
    lateness: Lateness
    skipped: dict[str, float]


def look(clockd: Clockd, load: LoadGenerator, subscribers: int, rate: float, seconds: float) -> Look:
    """Look at a server that runs.

    Args:
        clockd: The server.
        load: Its subscribers.
        subscribers: How many they are.
        rate: Pushes a second to each, on average.
        seconds: For how long to look.
    """
    before = scrape(clockd.metrics_port)
    seen = window(clockd, load, Shape(subscribers, rate, GROUP_SIZE, WARMUP, seconds, clockd.cores))
    after = scrape(clockd.metrics_port)
    return Look(seen, Lateness(lateness_counts(before), lateness_counts(after)), skipped(before, after))


def look_at_new(
    kind: type[Clockd],
    cores: Cores,
    subscribers: int,
    period: float,
    seconds: float,
    *flags: str,
    rate: float | None = None,
) -> Look:
    """Start a server and subscribers, look at them, and stop them; see `subscribed` and `look`."""
    with started(kind, cores) as clockd, subscribed(clockd, subscribers, period, *flags) as load:
        time.sleep(WARMUP)
        return look(clockd, load, subscribers, rate or 1 / period, seconds)


@contextmanager
def witness(clockd: Clockd, period: float) -> Iterator[Program]:
    """Have one subscriber in a process of its own, for as long as the context lasts; see `bench.witness`."""
    command = [sys.executable, "-m", "bench.witness", str(clockd.port), ACCOUNT, clockd.secret, repr(period)]
    program = Program(command, clockd.folder / "witness.log", clockd.cores.load, pipes=True)
    try:
        if not program.process.stdout.readline():
            raise RuntimeError(f"the witness ended:\n{program.log()}")
        yield program
    finally:
        program.process.send_signal(signal.SIGCONT)
        program.stop()


def continued(stopped: Program) -> tuple[int, float]:
    """Have a stopped witness go on.

    Returns:
        How many pushes waited for it, and after how many seconds it had one with a stamp from after the stop.
    """
    moment = time.time()
    stopped.process.send_signal(signal.SIGCONT)
    time.sleep(WARMUP)
    said, _ = stopped.process.communicate(timeout=SECONDS)
    since = [(stamp, read) for stamp, read in json.loads(said) if read >= moment]
    fresh = [read - moment for stamp, read in since if stamp >= moment]
    return len(since) - len(fresh), fresh[0]


def private_bytes(clockd: Clockd) -> int:
    """Return the memory that the server has for itself alone."""
    return measure.memory_bytes(clockd.programs[0].pid)["private_dirty"]


def bytes_per_subscriber(kind: type[Clockd], cores: Cores, subscribers: int) -> float:
    """Start a server and return the memory that it takes for each of so many subscribers at 1 Hz, after the first 100.

    Args:
        kind: The server.
        cores: Where it runs.
        subscribers: How many there are.
    """
    with started(kind, cores) as clockd, subscribed(clockd, 100, 1.0):
        time.sleep(WARMUP)
        before = private_bytes(clockd)
        with subscribed(clockd, subscribers, 1.0):
            time.sleep(2 * WARMUP)
            return (private_bytes(clockd) - before) / subscribers


def connections(clockd: Clockd) -> float:
    """Return how many connections the server knows of."""
    return sum(value for name, value in scrape(clockd.metrics_port).items() if name.startswith("clockd_connections{"))


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds.

    Raises:
        RuntimeError: It did not within two minutes.
    """
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"waited for {SECONDS} s in vain")
        time.sleep(0.01)
