"""What the cases print: figures beside their targets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isinf
from statistics import median

from bench.compare import notes
from bench.scrape import Lateness
from bench.subjects import Look

MILLI = 1e3
MICRO = 1e6
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Figure:
    """One thing that was measured; of one that has a target, less is better.

    Attributes:
        what: What it is.
        value: How much.
        unit: What it is counted in.
        at_least: What has to be reached, or None if nothing is asked for.
        aim: What is wished for.
        each: What it was made of, where that was several: the rounds, or the two sides of a ratio.
        notes: What a reader has to know.
    """

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    aim: float | None = None
    each: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """How the figure stands to its target, or nothing."""
        if self.at_least is None:
            return ""
        if self.aim is not None and self.value <= self.aim:
            return "aim reached"
        return "reached" if self.value <= self.at_least else "MISSED"

    def __str__(self) -> str:
        aim = "" if self.aim is None else f", aim {_short(self.aim)}"
        target = "" if self.at_least is None else f"at least {_short(self.at_least)}{aim}: {self.verdict}"
        behind = "; ".join(filter(None, [target, *self.notes]))
        return f"  {self.what:<70}{_short(self.value):>9} {self.unit:<8} {behind}".rstrip()


def _short(value: float) -> str:
    if isinf(value) or value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def cost(what: str, looks: Sequence[Look]) -> Figure:
    """Return what a push costs the server, the median of several looks."""
    measurements = [each.measurement for each in looks]
    costs = tuple(each.push_microseconds for each in measurements)
    return Figure(what, median(costs), "µs", each=costs, notes=tuple(notes(measurements)))


def lateness(what: str, seen: Lateness, p99: Sequence[float] = ()) -> Iterator[Figure]:
    """Return how late pushes were, with the targets of the 99th percentile, in milliseconds."""
    yield Figure(f"{what}, mean", MILLI * seen.mean, "ms")
    yield Figure(f"{what}, p50", MILLI * seen.p50, "ms")
    yield Figure(f"{what}, p99", MILLI * seen.p99, "ms", *p99)


def latest(what: str, seen: Lateness, targets: Sequence[float] = ()) -> Figure:
    """Return the bound of the server's histogram that no push was beyond, with its targets, in milliseconds."""
    return Figure(f"{what}, the latest push within", MILLI * seen.within, "ms", *targets)
