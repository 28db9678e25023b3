"""Whether this host's clock can be right, as far as a server's tells: one look, for a monitoring probe.

Rules of this module: what is not known is never found good.
"""

from math import floor, log10
from typing import Any, NamedTuple

from twisted.internet.task import deferLater

from clockd.client import ClockClient
from clockd.timekeeper import TimeInterval

PATIENCE_SECONDS = 5.0
"""So long a probe may take, the login and its end counted in; a server that is silent is not waited for longer."""

EXCHANGE_SECONDS = 3.0
"""How long the first exchange with a server may take, after the login."""

LOOK_SECONDS = 0.05
"""It is looked so often whether there was one."""

SETTLING_SECONDS = 0.5
"""By then the client has made the exchanges that follow a login, of which the best one counts."""

MOST_DIGITS = 9
"""Behind the point; a stamp has no more."""


class Verdict(NamedTuple):
    """What a probe prints, and how it exits.

    Attributes:
        code: 0 if this host's clock may be right, 1 if it is wrong, 2 if that is not known.
        text: A sentence.
    """

    code: int
    text: str


async def look(clock: ClockClient, utc: bool, reactor: Any) -> TimeInterval | None:
    """Return the interval in which the time lies, as soon as the client knows it well; None without an exchange."""
    end = reactor.seconds() + EXCHANGE_SECONDS
    while clock.now().offset is None:
        if reactor.seconds() >= end:
            return None
        await deferLater(reactor, LOOK_SECONDS)
    await deferLater(reactor, SETTLING_SECONDS)
    return clock.now(utc)


def verdict_of(interval: TimeInterval | None, target: str, tolerance: float, utc: bool) -> Verdict:
    """Say whether this host's clock may be right.

    Args:
        interval: Where the time lies; None if there was no exchange.
        target: The server, as the user named it.
        tolerance: A clock that may be off by no more seconds is found good.
        utc: Whether the interval is that of UTC.
    """
    if interval is None or interval.offset is None:
        why = "does not say how far its clock is from UTC" if interval and utc else "answers no exchange of times"
        return Verdict(2, f"not known whether this host's clock is right: {target} {why}")
    lowest, highest = interval.earliest - interval.wall, interval.latest - interval.wall
    middle, half = (lowest + highest) / 2, (highest - lowest) / 2
    least, most = abs(middle) - half, abs(middle) + half
    good = least <= tolerance
    if tolerance:
        found = "that may be within" if most > tolerance else "that is within"
        found = f"{found if good else 'that is more than'} the {tolerance:g} s allowed"
    else:
        found = "it may be right" if good else "it is wrong"
    span = _span(middle, half, least - tolerance)
    return Verdict(0 if good else 1, f"this host's clock is {span} {f'UTC, by {target}' if utc else target}: {found}")


def _span(offset: float, bound: float, beyond: float) -> str:
    """Return how far a clock is from another.

    Args:
        offset: What it lacks, in seconds.
        bound: By how much that may be wrong.
        beyond: How far the nearer end is from what is allowed: it is seen on which side of that it lies.
    """
    scale, unit = (1.0, "s") if abs(offset) + bound >= 1 else (1000.0, "ms")
    finest = min((abs(part) * scale for part in (2 * bound, beyond) if part), default=1.0)
    digits = min(max(2, -floor(log10(finest))), MOST_DIGITS)
    least, most = (f"{abs(end) * scale:.{digits}f}" for end in (abs(offset) - bound, abs(offset) + bound))
    way, other = ("behind", "ahead of") if offset > 0 else ("ahead of", "behind")
    if abs(offset) < bound:
        return f"between {least} {unit} {other.removesuffix(' of')} and {most} {unit} {way}"
    return f"between {least} and {most} {unit} {way}"
