"""What `clockd watch` shows on a terminal: the time ticking, how right it is, and how the samples of a feed come.

Rules of this module: what it shows it is handed by the client; it measures nothing but when samples came.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text
from twisted.internet.defer import Deferred, DeferredList, FirstError
from twisted.internet.task import deferLater

from clockd.client import ClockClient, Event, Samples, Standing
from clockd.errors import NotConnected, Refused
from clockd.lines import amount, moment_of, stamp_of, value_of, way_of
from clockd.terminal import Drawing, line
from clockd.values import MIN_SECONDS, Reading

DRAW_SECONDS = 0.1
"""The time is drawn anew so often."""

STANDING_SECONDS = 2.0
"""The server is asked so often for what only it knows."""

OVERDUE_SECONDS = 2.0
"""A push of the time that is later than this, and than three periods, is told."""

KEPT = 512
"""Samples whose jitter is kept; a terminal is seldom broader."""

EVENTS = 50
"""Events that are kept."""

LEVELS = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""From each of these on, in seconds, jitter is one block higher: what happens once hides nothing else."""

BLOCKS, LETTERS = "▁▂▃▄▅▆▇█", "_.:-=+*#"
"""What a sparkline is made of, and what it is made of where there are no blocks."""

STATUS = {
    "synchronized": "synchronized, says the server",
    "unsynchronized": "unsynchronized, says the server",
    "unknown": "unknown, says the server",
    "holdover": "holdover: as known before, less surely",
}
NO_EXCHANGE = "unknown: there was no exchange yet"


class Track:
    """How the samples of a feed come.

    Attributes:
        newest: The last one; None before the first.
        pushes: How many came.
        missed: How many did not: numbers that were left out; of the time, turns.
        jitter: How far the last ones were from their turn, in seconds, the newest last.
    """

    def __init__(self) -> None:
        self.newest: Reading | None = None
        self.pushes = 0
        self.missed = 0
        self.jitter: deque[float] = deque(maxlen=KEPT)
        self._before: Reading | None = None
        self._unbroken = 0  # as many came since it was interrupted

    def take(self, reading: Reading, period: float | None) -> None:
        """Count a sample.

        Args:
            reading: The sample.
            period: Seconds between two turns; None if that is not known.
        """
        before, self._before, self.newest = self._before, reading, reading
        self.pushes += 1
        self._unbroken += 1
        if before is None:
            return
        if reading.sequence is not None and before.sequence is not None:
            self.missed += max(0, reading.sequence - before.sequence - 1)
        if period is not None and self._unbroken > 2:  # the first has no turn, so the second is measured against none
            apart = reading.received - before.received
            turns = _turns(apart, period)
            if reading.sequence is None:  # neither a late arrival nor a clock that was set is a turn more
                turns = min(turns, _turns(reading.stamp - before.stamp, period))
                self.missed += turns - 1
            self.jitter.append(abs(apart - turns * period))

    def interrupted(self) -> None:
        """Measure the next sample against none before it."""
        self._before = None
        self._unbroken = 0


class Face(Drawing):
    """A feed, drawn on all of a terminal.

    Args:
        console: The terminal.
        reactor: Where time passes.
        clock: The client.
        target: The server, as the user named it.
        feed: The feed's name.
    """

    def __init__(self, console: Console, reactor: Any, clock: ClockClient, target: str, feed: str) -> None:
        super().__init__(console, reactor)
        self._seconds: Callable[[], float] = reactor.seconds
        self._clock = clock
        self._target = target
        self._feed = feed
        self._track = Track()
        self._since = self._seconds()
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._standing: Standing | None = None

    def take(self, reading: Reading) -> None:
        """Have a sample."""
        self._since = self._seconds()
        self._track.take(reading, self._period)

    def happened(self, event: Event) -> None:
        """Have an event."""
        self._events.appendleft(event)
        if event.kind in {"lost", "draining", "step"}:
            self._track.interrupted()

    def told(self, standing: Standing) -> None:
        """Have what the server says of the connection."""
        self._standing = standing

    @property
    def until_next(self) -> float:
        """Seconds until there is another time to be drawn."""
        return DRAW_SECONDS - (self._middle() or 0) % DRAW_SECONDS

    @property
    def _period(self) -> float | None:
        period = None if self._standing is None else self._standing.periods.get(self._feed)
        return None if period is None or period < MIN_SECONDS else period

    def drawn(self) -> Group:
        """Return as many lines as there is room for."""
        columns, lines = self.console.size
        head: list[RenderableType] = [self._head(), line(self._trouble(), "bold red"), self._time(), line("")]
        rows: list[RenderableType] = [*head, *self._rows(columns), *self._value(columns, lines // 3), line("")]
        rows += [line(f"{_hour_of(event.at)}  {event.text}") for event in self._events]
        return Group(*rows[:lines])

    def left(self) -> Group:
        """Return what stays on the terminal when it has been left: nothing, if no sample came."""
        return Group(*list(self._rows(self.console.width))[:-1] if self._track.pushes else [])

    def _head(self) -> Table:
        period = self._period
        every = "" if period is None else f", every {period:g} s"
        head = Table.grid(expand=True, padding=(0, 1, 0, 0))
        head.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        head.add_column(no_wrap=True, justify="right")
        state = Text("connected", "green") if self._clock.connected else Text("not connected", "bold red")
        head.add_row(line(f"{self._target}  {self._feed}{every}"), state)
        return head

    def _trouble(self) -> str:
        if not self._clock.connected:
            return self._clock.trouble or ""
        late = self._seconds() - self._since
        if self._feed == "time" and late > max(OVERDUE_SECONDS, 3 * (self._period or 0)):
            return f"no push for {late:.0f} s"
        return ""

    def _time(self) -> Text:
        stamp = self._middle()
        if stamp is None:
            return line("waiting for the server to tell its time")
        moment = moment_of(stamp)
        if moment is None:
            return line(repr(stamp), "bold")
        return line(f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 100_000} UTC, by the server's clock", "bold")

    def _middle(self) -> float | None:
        now = self._clock.now()
        return None if now.offset is None else now.earliest + (now.latest - now.earliest) / 2

    def _rows(self, columns: int) -> Iterable[Text]:
        now, utc = self._clock.now(), self._clock.now(utc=True)
        yield _row("status", NO_EXCHANGE if now.offset is None else STATUS[now.status])
        yield _row(
            "this host's clock",
            "not known" if now.offset is None else f"{way_of(now.offset)}, give or take {amount(now.bound)}",
        )
        yield _row("error against UTC", f"at most {amount(utc.bound)}" if utc.offset is not None else "not known")
        trip = self._clock.round_trip
        yield _row("round trip", "-" if trip is None else amount(trip))
        track = self._track
        skipped = "-" if self._standing is None else str(self._standing.skipped)
        yield _row("pushes", f"{track.pushes}, missed {track.missed}, conflated {skipped}")
        jitter = list(track.jitter)[-columns:]
        said = f"{amount(median(jitter))}, at most {amount(max(jitter))}, last {len(jitter)}" if jitter else "-"
        yield _row("jitter", said)
        letters = LETTERS if self.console.options.ascii_only else BLOCKS
        yield line("".join(letters[bisect_right(LEVELS, late)] for late in jitter))

    def _value(self, columns: int, most: int) -> Iterable[Text]:
        if self._feed == "time":
            return []
        reading = self._track.newest
        if reading is None:
            return [line(""), line("no sample yet")]
        text = Text(value_of(reading), "bold").wrap(self.console, columns)
        head = f"sample {reading.sequence}, of {stamp_of(reading.stamp)}"
        cut = [line("…")] if len(text) > most else []
        return [line(""), line(head), *text[: most - len(cut)], *cut]


async def follow(clock: ClockClient, samples: Samples, face: Face, reactor: Any) -> None:
    """Draw what comes until it ends, whoever brings it.

    Raises:
        ClockdError: What ended it.
    """
    with face:
        works = [
            Deferred.fromCoroutine(work)
            for work in (
                _tick(face, reactor),
                _take_samples(samples, face),
                _take_events(clock, face),
                _take_standings(clock, face, reactor),
            )
        ]
        try:
            await DeferredList(works, fireOnOneErrback=True, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()
        finally:
            for work in works:
                work.cancel()


async def _tick(face: Face, reactor: Any) -> None:
    while True:
        face.draw()
        await deferLater(reactor, face.until_next)


async def _take_samples(samples: Samples, face: Face) -> None:
    async for reading in samples:
        face.take(reading)


async def _take_events(clock: ClockClient, face: Face) -> None:
    async for event in clock.events():
        face.happened(event)


async def _take_standings(clock: ClockClient, face: Face, reactor: Any) -> None:
    while True:
        try:
            face.told(await clock.status())
        except NotConnected:
            pass
        except Refused:  # a server that has no such call
            return
        await deferLater(reactor, STANDING_SECONDS)


def _turns(seconds: float, period: float) -> int:
    """Return how many turns of a period have passed, 1 at least; a server's stamps may be anything."""
    return round(min(max(seconds / period, 1), 1e9))


def _row(label: str, text: str) -> Text:
    return Text(no_wrap=True, overflow="ellipsis").append(f"{label:<19}", "dim").append(text)


def _hour_of(stamp: float) -> str:
    return f"{moment_of(stamp):%H:%M:%S}"
