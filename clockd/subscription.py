"""Which sample is due: one feed to one sink at one period."""

import math
import sys
from collections.abc import Callable
from typing import cast

from clockd.errors import InvalidPeriod, InvalidValue
from clockd.interfaces import IFeed, ISink
from clockd.schedule import Schedule, ScheduledTimer
from clockd.values import Limits, Published, Sample, Tally, is_deadband, is_period


class Newest:
    """Pushes the newest sample of a feed to whichever sink is due; one for all sinks.

    Args:
        feed: What to push.
        schedule: Who is due when.
        tally: Where it is counted.

    Attributes:
        latest: Returns the feed's newest sample.
        schedule: As given.
        tally: As given.
        counts: What is counted for the feed.
        tick: Pushes to a sink, as a call of the schedule.
    """

    def __init__(self, feed: IFeed, schedule: Schedule, tally: Tally) -> None:
        self.latest: Callable[[], Sample | None] = feed.latest  # bound once, because each push needs it
        self.schedule = schedule
        self.tally = tally
        self.counts = tally.feed(feed.name)
        self.tick = self._tick  # one for all, and not a new one for each who asks

    def _tick(self, sink: ISink) -> bool:
        schedule = self.schedule
        if schedule.missed:
            self.counts.skipped["stall"] += schedule.missed
        return sink.push(cast("Sample", self.latest()))


class Subscription:
    """Pushes the newest sample of a feed that is always new to a sink, once a period.

    Args:
        newest: What to push, and when.
        sink: Where to.
        limits: Which periods may be granted.

    Attributes:
        period: The period in force, in seconds.
        deadband: A number that differs by no more from the one that was pushed last is not pushed.
        stopped: When it was stopped, or the one of this feed and sink before it.
        timer: The `TimerService` that ticks; it stops when the subscription does.
    """

    __slots__ = ("_limits", "_newest", "_sink", "deadband", "period", "stopped", "timer")

    def __init__(self, newest: Newest, sink: ISink, limits: Limits) -> None:
        self._newest = newest
        self._sink = sink
        self._limits = limits
        self.stopped = -math.inf
        self.period = limits.default_period
        self.deadband = 0.0
        self.timer = ScheduledTimer(newest.schedule, sink, self.period, self._call(), sink)

    def _call(self) -> Callable[[ISink], object]:
        """Return what pushes when it is due."""
        return self._newest.tick

    def start(self) -> None:
        """Push the current sample at once and go on from there; idempotent.

        One that was stopped less than a period ago pushes when its first tick is due: else stopping and starting again
        and again would be pushed to more often than once a period.
        """
        if self.timer.running:
            return
        self._newest.counts.subscribed(self.period)
        self.timer.startService()
        if self._newest.schedule.clock.seconds() - self.stopped >= self.period:
            sample = self.pull()
            if sample is not None:
                self._sink.push(sample)

    def stop(self) -> None:
        """Push no more; idempotent."""
        if self.timer.running:
            self._newest.counts.unsubscribed(self.period)
            self.timer.stopService()
            self.stopped = self._newest.schedule.clock.seconds()

    def newest(self) -> Sample | None:
        """Return the newest sample."""
        return self._newest.latest()

    def pull(self) -> Sample | None:
        """Return the newest sample, which will be pushed now."""
        return self._newest.latest()

    def restore(self, period: float, deadband: float) -> None:
        """Put in force what was granted before, as far as the limits still allow it."""
        self.period = self.timer.step = self._clamped(period)
        self.deadband = deadband

    def set_period(self, period: object) -> float:
        """Change how often the feed is pushed, from the next tick on; the change itself pushes nothing.

        Args:
            period: Seconds between pushes, finite and > 0; clamped to `Limits.min_period`..`max_period`.

        Returns:
            The period granted, in seconds.

        Raises:
            InvalidPeriod: Not a finite number > 0. The old period stays in force.
        """
        if not is_period(period):
            self._newest.tally.periods["refused"] += 1
            raise InvalidPeriod("a period is a finite number of seconds greater than 0")
        granted = self._clamped(period)
        self._newest.tally.periods["granted" if granted == period else "clamped"] += 1
        if self.timer.running:
            self._newest.counts.unsubscribed(self.period)
            self._newest.counts.subscribed(granted)
        self.period = self.timer.step = granted
        return granted

    def _clamped(self, period: float) -> float:
        return float(min(max(period, self._limits.min_period), self._limits.max_period))

    def deadband_for(self, deadband: object) -> float:
        """Return what is put in force as `deadband` when somebody asks for one.

        Args:
            deadband: A finite number >= 0, or None for none.

        Raises:
            InvalidValue: It is something else, or the feed is always new.
        """
        if deadband is not None:
            raise InvalidValue("the time is always new: it has no deadband")
        return 0.0


class ChangeSubscription(Subscription):
    """Pushes the newest sample of a feed whose values may stay the same, once a period, if it is news."""

    __slots__ = ("_news",)

    def __init__(self, newest: Newest, sink: ISink, limits: Limits) -> None:
        self._news = _News(newest, limits)
        super().__init__(newest, sink, limits)

    def _call(self) -> Callable[[ISink], object]:
        return self._news.tick

    def start(self) -> None:
        """As for any other; whatever was pushed before it was stopped, the current sample is news."""
        if not self.timer.running:
            self._news.last = None
        super().start()

    def pull(self) -> Sample | None:
        """Return the newest sample, which will be pushed now."""
        return self._news.pull()

    @property
    def deadband(self) -> float:
        """As of any other."""
        return self._news.deadband

    @deadband.setter
    def deadband(self, deadband: float) -> None:
        self._news.deadband = deadband

    def deadband_for(self, deadband: object) -> float:
        """As for any other."""
        if deadband is None:
            return 0.0
        if not is_deadband(deadband):
            raise InvalidValue("a deadband is a finite number of 0 or more")
        return float(min(deadband, sys.float_info.max))


class _News:
    """Pushes the newest sample of a feed if it is news to one sink.

    It is news if it is not the value that was pushed last, or that was pushed `limits.max_silence` ago.
    The subscription knows it, and it does not know the subscription, so that nothing is left that holds itself.

    Attributes:
        last: The sample that was pushed, or is owed by the sink.
        deadband: As of the subscription.
    """

    __slots__ = ("_limits", "_newest", "_pushed", "deadband", "last")

    def __init__(self, newest: Newest, limits: Limits) -> None:
        self._newest = newest
        self._limits = limits
        self._pushed = 0.0  # when
        self.last: Published | None = None
        self.deadband = 0.0

    def pull(self) -> Published | None:
        """Return the newest sample, which will be pushed now."""
        self.last = sample = cast("Published | None", self._newest.latest())
        self._pushed = self._newest.schedule.clock.seconds()
        return sample

    def tick(self, sink: ISink) -> None:
        """Push to the sink, as a call of the schedule."""
        newest = self._newest
        if newest.schedule.missed:
            newest.counts.skipped["stall"] += newest.schedule.missed
        sample = cast("Published | None", newest.latest())
        if sample is None:
            return
        now = newest.schedule.clock.seconds()
        if self._is_news(sample, now):
            self.last, self._pushed = sample, now
            sink.push(sample)
        else:
            newest.counts.skipped["unchanged"] += 1

    def _is_news(self, sample: Published, now: float) -> bool:
        last = self.last
        if last is None or now - self._pushed >= self._limits.max_silence:
            return True
        if sample.encoded == last.encoded:
            return False
        return not self.deadband or _distance(sample.value, last.value) > self.deadband


def _distance(value: object, other: object) -> float:
    """Return how far two numbers lie apart; what are not two numbers, or not comparable ones, are infinitely apart."""
    if type(value) in {int, float} and type(other) in {int, float}:
        distance = float(abs(value - other))  # type: ignore[operator]  # ints are below 2**448
        if not math.isnan(distance):
            return distance
    return math.inf
