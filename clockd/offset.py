"""How far a server's clock is from a local one, and how sure that is: stamps in, an offset and its bound out.

A message never arrives before it was sent. So the server's stamp of a message that it sent, less the local time at
which that arrived, is at most the offset; its stamp of a message that it got, less the local time at which that was
sent, is at least the offset. An exchange gives a limit on either side, a push one more on the lower side, and the
offset lies between the narrowest. This is never wider than what RFC 5905 makes of the exchange of least delay (section
10, clock filter), which is half that delay on either side. While no message comes the limits move apart, as fast as the
two clocks may drift.

Any offset between the limits may be the true one. As a rule two clocks drift less than they may: the likely offset is
in the middle between the limits that follow from that.

Limits that contradict each other prove that the server's clock was set, that it is another server's, or that the clocks
drift faster than was assumed. Then only the newest message counts.

Rules of this module: no I/O and no clock; local times are seconds of one clock that is never set, the server's are Unix
seconds; an offset is the server's clock less the local one.
"""

import math
from enum import Enum

from msgspec import Struct

from clockd.errors import InvalidValue

DRIFT = 50e-6
"""How much two clocks may drift apart, in seconds a second."""

LIKELY_DRIFT = 15e-6
"""How much they drift apart at most as a rule, in seconds a second; RFC 5905 assumes so much (section 7.2, PHI)."""

WINDOW = 64.0
"""What a message said holds for as many seconds at least, and twice as many at most, once later ones have said more.

RFC 5905's clock filter (section 10) looks at eight exchanges; at one in 6 s ten are as long. What is older would still
be true; but what proved wrong unseen, because the clock was set by less than the delay of a message, is over by then.
"""

LATE_SECONDS = 0.05
"""A push that is later than this, beyond what is possible by all that is known, may come from a clock set back."""

LARGEST_STAMP = 2.0**40
"""No stamp is as large, in seconds: the year 36,800."""

ROUNDING = 6
"""Steps of a double by which each limit is wider, 1.4 µs for Unix seconds of this century.

Each calculation rounds by half a step: the clock's reading, the difference of two, what the clocks may have drifted up
to the message and since, this widening; then, where a time is made of it, the sum, what the server's own clock may be
wrong, and the reading of another clock. These are eight; the local clock's readings, of smaller numbers, round by less.
"""


class Exchange(Struct, frozen=True, gc=False):
    """A question and its answer, with the four stamps of RFC 5905, section 8.

    Attributes:
        sent: When the question went, local (T1).
        received: When it had arrived, by the server's clock (T2).
        transmitted: When the answer went, by the server's clock (T3).
        arrived: When it had arrived, local (T4).
    """

    sent: float
    received: float
    transmitted: float
    arrived: float

    @property
    def offset(self) -> float:
        """The offset in seconds, if both ways took the same time: ((T2 - T1) + (T3 - T4)) / 2 (RFC 5905, section 8)."""
        return ((self.received - self.sent) + (self.transmitted - self.arrived)) / 2

    @property
    def delay(self) -> float:
        """Seconds that both ways took together: (T4 - T1) - (T3 - T2) (RFC 5905, section 8)."""
        return (self.arrived - self.sent) - (self.transmitted - self.received)


class Estimate(Struct, frozen=True, gc=False):
    """What is known of an offset at one moment: of the server's clock less the local one, in seconds.

    Attributes:
        offset: The likely one; 0 if nothing is known.
        lowest: The true one is no less; -inf if nothing is known.
        highest: The true one is no more; inf if nothing is known.
    """

    offset: float
    lowest: float
    highest: float

    @property
    def bound(self) -> float:
        """The true offset differs from the likely one by no more, in seconds; inf if nothing is known."""
        return max(self.offset - self.lowest, self.highest - self.offset)


NOTHING = Estimate(0.0, -math.inf, math.inf)


class Pushed(Enum):
    """What a push tells of the server's clock."""

    FINE = "nothing unexpected"
    STEPPED = "it was set forward; what was known is forgotten"
    SUSPECT = "it may have been set back, or the push was late; what is known allows for both"


class OffsetEstimator:
    """The limits of one offset.

    Messages are told in the order in which they arrived.

    Args:
        drift: How fast either clock may drift against the other, in seconds a second, >= 0 and < 1.
    """

    def __init__(self, drift: float = DRIFT) -> None:
        if not 0 <= drift < 1:
            raise ValueError("drift is a part of each second: at least 0 and less than 1, such as 50e-6")
        self._drift = drift / (1 - drift)  # whichever of the two it is measured by
        self.forget()

    def forget(self) -> None:
        """Know nothing any more."""
        self._possible = _Limits(self._drift)
        self._likely = _Limits(min(self._drift, LIKELY_DRIFT))
        self._expected = -math.inf  # the lower limit that late pushes are held against, as it would be at local time 0
        self._begun = -math.inf  # when the window began
        self._newest = 0.0  # when the newest message arrived
        self._rounding = 0.0

    def replace(self, exchange: Exchange) -> None:
        """Forget all, and begin with one exchange.

        Raises:
            InvalidValue: As for `exchanged`.
        """
        self._check(exchange)
        self.forget()
        self._take(exchange)

    def exchanged(self, exchange: Exchange) -> bool:
        """Take an exchange into account.

        Returns:
            False if it contradicts what was known, which is then replaced by it.

        Raises:
            InvalidValue: The stamps are no times, or cannot be true of two clocks that drift as is assumed. What was
                known stays.
        """
        self._check(exchange)
        if exchange.arrived - self._begun > WINDOW:
            self._possible.begin_window()
            self._likely.begin_window()
            self._begun = exchange.arrived
        self._take(exchange)
        lowest, highest = self._possible.at(exchange.arrived)
        expected, self._expected = self._expected - self._drift * exchange.arrived, -math.inf
        if max(lowest, expected) - highest <= self._rounding:
            return True
        self.forget()
        self._take(exchange)
        return False

    def pushed(self, stamp: float, arrived: float) -> Pushed:
        """Take a one-way message into account.

        Args:
            stamp: When it was sent, by the server's clock.
            arrived: When it had arrived, local.

        Raises:
            InvalidValue: The stamp is no time.
        """
        _check_stamp(stamp)
        offset = stamp - arrived
        lowest, highest = self._possible.at(arrived)
        late = offset < max(lowest, self._expected - self._drift * arrived) - LATE_SECONDS
        if stepped := offset > highest + self._rounding:
            self.forget()
        elif offset < lowest - LATE_SECONDS:
            # the clock has shown the stamp before it arrived, whether it was set back or not, so this limit is true
            self._expected = max(self._expected, self._possible.drop_lower())
        self._possible.no_less(offset, arrived)
        self._likely.no_less(offset, arrived)
        self._newest = arrived
        self._rounding = max(self._rounding, _rounding(stamp, arrived))
        return Pushed.STEPPED if stepped else Pushed.SUSPECT if late else Pushed.FINE

    def estimate(self, at: float) -> Estimate:
        """Tell what the offset is.

        Args:
            at: The moment that is asked about, local.
        """
        at = self._newest + abs(at - self._newest)  # so long before is as uncertain as so long after
        lowest, highest = self._possible.at(at)
        if highest - lowest == math.inf:
            return NOTHING
        lower, upper = self._likely.at(at)
        if lower > upper:  # so the clocks drift more than they do as a rule
            lower, upper = lowest, highest
        return Estimate((lower + upper) / 2, lowest - self._rounding, highest + self._rounding)

    def _check(self, exchange: Exchange) -> None:
        """Refuse an exchange that cannot be."""
        _check_stamp(exchange.received)
        _check_stamp(exchange.transmitted)
        # a delay below 0 may be true, if the server took long: the clocks have drifted meanwhile
        least = -self._drift * (exchange.arrived - exchange.sent) - _rounding_of(exchange)
        if not (exchange.sent <= exchange.arrived and exchange.delay >= least):
            raise InvalidValue("the stamps of an exchange say that its answer arrived before its question was sent")

    def _take(self, exchange: Exchange) -> None:
        """Narrow the limits.

        The question arrived at T1 or later. If at T1, the offset was T2 - T1 at most; if later, it was less by as much,
        and the clocks have drifted for a shorter time since. The same holds of the answer, and of T4.
        """
        for limits in (self._possible, self._likely):
            limits.no_less(exchange.transmitted - exchange.arrived, exchange.arrived)
            limits.no_more(exchange.received - exchange.sent, exchange.sent)
        self._newest = exchange.arrived
        self._rounding = max(self._rounding, _rounding_of(exchange))


class _Limits:
    """The narrowest limits of an offset by what messages have said, if clocks drift by so much at most.

    Each stands as it would be at local time 0, so that one is narrower than another at all times or never.

    Args:
        drift: Of the server's clock against the local one, in seconds a second.
    """

    __slots__ = ("_drift", "_lower", "_older_lower", "_older_upper", "_upper")

    def __init__(self, drift: float) -> None:
        self._drift = drift
        self._lower = self._older_lower = -math.inf
        self._upper = self._older_upper = math.inf

    def begin_window(self) -> None:
        """Let go what was said before the last window."""
        self._older_lower, self._older_upper = self._lower, self._upper
        self._lower, self._upper = -math.inf, math.inf

    def drop_lower(self) -> float:
        """Have no lower limit any more; return what it would be at local time 0."""
        lower = max(self._lower, self._older_lower)
        self._lower = self._older_lower = -math.inf
        return lower

    def no_less(self, offset: float, at: float) -> None:
        """Hear that at a local time the offset was no less."""
        self._lower = max(self._lower, offset + self._drift * at)

    def no_more(self, offset: float, at: float) -> None:
        """Hear that at a local time the offset was no more."""
        self._upper = min(self._upper, offset - self._drift * at)

    def at(self, moment: float) -> tuple[float, float]:
        """Return both at a local time, no earlier than all messages."""
        drifted = self._drift * moment
        return max(self._lower, self._older_lower) - drifted, min(self._upper, self._older_upper) + drifted


def _check_stamp(stamp: float) -> None:
    if not abs(stamp) < LARGEST_STAMP:  # nor is NaN
        raise InvalidValue("a stamp of the server's is a number of Unix seconds")


def _rounding(stamp: float, local: float) -> float:
    """Return by how much a limit is wider because stamps and local times are doubles."""
    return ROUNDING * math.ulp(abs(stamp) + abs(local))


def _rounding_of(exchange: Exchange) -> float:
    return _rounding(max(abs(exchange.received), abs(exchange.transmitted)), exchange.arrived)
