"""Whether this host's clock can be right, as far as a server's tells: one look, for a monitoring probe.

Rules of this module: what is not known is never found good.
"""

from typing import Any, NamedTuple

from twisted.internet.task import deferLater

from clockd.client import ClockClient
from clockd.lines import amount, way_of
from clockd.timekeeper import TimeInterval

PATIENCE_SECONDS = 5.0
"""How long the first exchange with a server may take, after the login."""

LOOK_SECONDS = 0.05
"""It is looked so often whether there was one."""

SETTLING_SECONDS = 0.5
"""By then the client has made the exchanges that follow a login, of which the best one counts."""


class Verdict(NamedTuple):
    """What a probe prints, and how it exits.

    Attributes:
        code: 0 if this host's clock lies within the interval, 1 if it lies outside, 2 if that is not known.
        text: A sentence.
    """

    code: int
    text: str


async def look(clock: ClockClient, utc: bool, reactor: Any) -> TimeInterval:
    """Return the interval in which the time lies, as soon as the client knows it well."""
    end = reactor.seconds() + PATIENCE_SECONDS
    while clock.now().offset is None:
        if reactor.seconds() >= end:
            return clock.now(utc)
        await deferLater(reactor, LOOK_SECONDS)
    await deferLater(reactor, SETTLING_SECONDS)
    return clock.now(utc)


def verdict_of(interval: TimeInterval, target: str, tolerance: float, utc: bool) -> Verdict:
    """Say whether this host's clock lies within an interval.

    Args:
        interval: Where the time lies.
        target: The server, as the user named it.
        tolerance: So many seconds outside are found good, too.
        utc: Whether the interval is that of UTC.
    """
    offset, bound = interval.offset, interval.bound
    if offset is None:
        why = "does not say how far its clock is from UTC" if utc else "exchanges no times"
        return Verdict(2, f"not known whether this host's clock is right: {target} {why}")
    inside = abs(offset) <= bound + tolerance
    where = f"within {amount(tolerance)} of" if tolerance else "within"
    ends = f"[{amount(offset - bound, '+')}, {amount(offset + bound, '+')}]"
    return Verdict(
        0 if inside else 1,
        f"this host's clock is {way_of(offset)}: {'' if inside else 'not '}{where} the interval {ends} of "
        f"{f'UTC, by {target}' if utc else target}",
    )
