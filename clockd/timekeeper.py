"""What a client knows of the time: the server's, and by it UTC, as intervals that contain it.

Three clocks are in it. The *server's* is what one asks about. The *local* one measures how long ago a message came;
nobody sets it. The *wall* clock is what this host takes for the time; it matters only to say how wrong it is.

Whoever has the connection tells of it here, in the order in which things happen: of a connection that is made or lost,
of exchanges, pushes, and notices of a step. What arrives on a connection that is gone is not told any more.

When the server's clock is set, all that was known of it is forgotten, and answers to questions from before then do not
count. A new connection may be one to another server, so its first exchange takes the place of all that was known;
until then that goes on to hold, with a bound that grows: *holdover*.

Rules of this module: no I/O; both clocks are handed in.
"""

import math
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from clockd.errors import InvalidValue
from clockd.offset import DRIFT, LARGEST_STAMP, Exchange, OffsetEstimator, Pushed
from clockd.values import SERVER_DRIFT, ServerStatus

Status = Literal["synchronized", "holdover", "unsynchronized", "unknown"]
"""What a client says of the time."""

EXCHANGE_SECONDS = 6.0
"""Seconds from one exchange to the next."""

HOLDOVER_SECONDS = 3 * EXCHANGE_SECONDS
"""Once the last exchange is older, what is known is holdover."""

DOUBT_SECONDS = 1.0
"""Late pushes ask for no exchange so soon after the last: where all is late, more messages make it later."""


class TimeInterval(Struct, frozen=True, gc=False):
    """The time, as exactly as it is known: it lies between two ends.

    Attributes:
        earliest: Unix seconds; -inf if nothing is known.
        latest: Unix seconds; inf if nothing is known.
        status: What is known of the server's clock: `synchronized` or `unsynchronized`, as it says; `unknown` if it
            does not say, and before the first exchange; `holdover` if the last exchange was long ago, or on a
            connection that is gone.
        offset: How far the time is likely to be ahead of this host's wall clock, in seconds; None if nothing is known.
        bound: The true one differs by no more, in seconds: it reaches to the farther end. inf if nothing is known.
        wall: What this host's wall clock shows, in Unix seconds; it may be right if it is between the ends.
    """

    earliest: float
    latest: float
    status: Status
    offset: float | None
    bound: float
    wall: float


class Arrival(Struct, frozen=True, gc=False):
    """The moment at which a message arrived.

    Attributes:
        received: Unix seconds by this host's wall clock.
        offset: How far the server's clock is likely to have been ahead of that, in seconds; None if nothing is known.
        bound: The true offset differs by no more, in seconds; inf if nothing is known.
    """

    received: float
    offset: float | None
    bound: float


class Exchanging:
    """An exchange that is under way; made by `Timekeeper.begin`.

    Args:
        local: The local clock.
        epoch: What the answer must belong to.

    Attributes:
        sent: When the question went, local.
    """

    __slots__ = ("_local", "epoch", "sent")

    def __init__(self, local: Callable[[], float], epoch: int) -> None:
        self._local = local
        self.epoch = epoch
        self.sent = local()

    def stamp(self) -> float:
        """Return the local time, for the question; to be called as late as possible before it is written."""
        self.sent = self._local()
        return self.sent


class Timekeeper:
    """What one client knows of the time.

    Args:
        local: Seconds, by a clock that is never set, and goes on while the host sleeps: `CLOCK_BOOTTIME`.
        wall: Unix seconds, by this host's wall clock.
        drift: How fast the local clock may drift against the server's, in seconds a second, >= 0 and < 1.

    Attributes:
        wanted: Whether an exchange is wanted before the next regular one.
        hurry: Whether at once. If not, every client of the server wants one, because its clock was set; they spread.
        round_trip: Seconds that the question and the answer of the last exchange took together; None before the first.
        steps: How often the server's clock was set, as far as was noticed. A step that is noticed here, and that the
            server tells of later, counts twice; so does one between two servers of which none knows.
    """

    def __init__(self, local: Callable[[], float], wall: Callable[[], float], drift: float = DRIFT) -> None:
        self._local = local
        self._wall = wall
        self._estimator = OffsetEstimator(drift)
        self._epoch = 0
        self._anew = True  # the next exchange takes the place of all that is known; until then pushes say nothing
        self._doubted = False  # the last push was late
        self._last = _Told(-math.inf, -math.inf, math.inf, "unknown")
        self.wanted = False
        self.hurry = False
        self.round_trip: float | None = None
        self.steps = 0

    def lost(self) -> None:
        """Have no connection any more; the next may be one to another server."""
        self._begin_anew()

    def begin(self) -> Exchanging:
        """Return an exchange, to be asked for now."""
        self.wanted = self.hurry = False
        return Exchanging(self._local, self._epoch)

    def answered(
        self,
        begun: Exchanging,
        received: float,
        transmitted: float,
        bound: float,
        status: ServerStatus,
        arrived: float,
    ) -> None:
        """Take an answer into account; one of a connection that is gone, or from before a step, does not count.

        Args:
            begun: What `begin` has returned for the question.
            received: When the question had arrived, by the server's clock.
            transmitted: When the answer went, by the server's clock.
            bound: By how much the server's clock may be wrong, in seconds, >= 0; inf if it does not know.
            status: What the server says of its clock.
            arrived: When the answer had arrived, local.

        Raises:
            InvalidValue: This cannot be. What was known stays.
        """
        if begun.epoch != self._epoch:
            return
        if not bound >= 0:
            raise InvalidValue("by how much a server's clock may be wrong is a number of seconds >= 0")
        exchange = Exchange(begun.sent, received, transmitted, arrived)
        if self._anew:
            self._estimator.replace(exchange)
        elif not self._estimator.exchanged(exchange):
            self.steps += 1
        self._anew = self._doubted = False
        known = status == "synchronized" and bound < LARGEST_STAMP  # to a larger one no time could be added
        self._last = _Told(begun.sent, arrived, bound if known else math.inf, status)
        self.round_trip = exchange.delay

    def pushed(self, stamp: float, arrived: float) -> None:
        """Take a push of the feed `time` into account.

        Args:
            stamp: What was pushed.
            arrived: When it had arrived, local.

        Raises:
            InvalidValue: The stamp is no time. What was known stays.
        """
        if self._anew:
            return
        told = self._estimator.pushed(stamp, arrived)
        if told is Pushed.STEPPED:
            self._forget()
            self.hurry = True
        elif told is Pushed.SUSPECT:
            # one push may be late because the server, or the network, was held up: then the next one is not
            if self._doubted and arrived - self._last.arrived >= DOUBT_SECONDS:
                self.wanted = self.hurry = True
            self._doubted = True
        else:
            self._doubted = False

    def stepped(self) -> None:
        """Hear from the server that its clock was set."""
        self._forget()

    def now(self, utc: bool = False) -> TimeInterval:
        """Tell the time.

        The interval contains each moment from when the clocks were first read in this call to when they were last.

        Args:
            utc: Whether UTC is asked for, with what the server's clock may be wrong. Else the server's clock is.
        """
        before, wall, after = self._local(), self._wall(), self._local()
        estimate = self._estimator.estimate(after)
        status = self._status(after) if estimate.bound < math.inf else "unknown"
        error = self._last.bound + SERVER_DRIFT * (after - self._last.sent) if utc else 0.0
        earliest, latest = before + estimate.lowest - error, after + estimate.highest + error
        if latest == math.inf:
            return TimeInterval(earliest, latest, status, None, math.inf, wall)
        likely = (before + after) / 2 + estimate.offset
        return TimeInterval(earliest, latest, status, likely - wall, max(likely - earliest, latest - likely), wall)

    def at(self, arrived: float) -> Arrival:
        """Tell what is known of the moment at which a message arrived, a short while ago.

        Args:
            arrived: The moment, local.
        """
        before, wall, after = self._local(), self._wall(), self._local()
        received = wall - ((before + after) / 2 - arrived)
        estimate = self._estimator.estimate(arrived)
        if estimate.bound == math.inf:
            return Arrival(received, None, math.inf)
        return Arrival(received, arrived + estimate.offset - received, estimate.bound + (after - before) / 2)

    def _status(self, at: float) -> Status:
        if self._anew or at - self._last.arrived > HOLDOVER_SECONDS:
            return "holdover"
        return self._last.status

    def _begin_anew(self) -> None:
        """Let no question from before count any more, and no push before the next answer."""
        self._epoch += 1
        self._anew = True
        self.wanted = self.hurry = False

    def _forget(self) -> None:
        """Know nothing any more of a clock that was set."""
        self._begin_anew()
        self._estimator.forget()
        self.wanted = True
        self.steps += 1


class _Told(Struct, frozen=True, gc=False):
    """What the last exchange told beside the offset: both local times, and the server's error and status."""

    sent: float
    arrived: float
    bound: float
    status: ServerStatus
