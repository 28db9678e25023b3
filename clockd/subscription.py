"""Which sample is due: one feed to one sink at one period."""

from clockd.errors import InvalidPeriod
from clockd.interfaces import IFeed, ISink
from clockd.schedule import Schedule, ScheduledTimer
from clockd.values import Limits, Tally, is_period


class Newest:
    """Pushes the newest sample of a feed to whichever sink is due; one for all sinks.

    Args:
        feed: What to push.
        schedule: Who is due when.
        tally: Where it is counted.

    Attributes:
        schedule: As given.
        tally: As given.
        counts: What is counted for the feed.
        tick: Pushes to a sink, as a call of the schedule.
    """

    def __init__(self, feed: IFeed, schedule: Schedule, tally: Tally) -> None:
        self._latest = feed.latest  # bound once, because each push needs it
        self.schedule = schedule
        self.tally = tally
        self.counts = tally.feed(feed.name)
        self.tick = self._tick  # one for all, and not a new one for each who asks

    def push(self, sink: ISink) -> bool:
        """Push to a sink now; tell whether it was not skipped."""
        return sink.push(self._latest())

    def _tick(self, sink: ISink) -> bool:
        schedule = self.schedule
        if schedule.missed:
            self.counts.skipped["stall"] += schedule.missed
        return sink.push(self._latest())


class Subscription:
    """Pushes the newest sample of a feed to a sink, once a period.

    Args:
        newest: What to push, and when.
        sink: Where to.
        limits: Which periods may be granted.

    Attributes:
        period: The period in force, in seconds.
        timer: The `TimerService` that ticks; it stops when the subscription does.
    """

    __slots__ = ("_limits", "_newest", "_sink", "period", "timer")

    def __init__(self, newest: Newest, sink: ISink, limits: Limits) -> None:
        self._newest = newest
        self._sink = sink
        self._limits = limits
        self.period = limits.default_period
        self.timer = ScheduledTimer(newest.schedule, sink, self.period, newest.tick, sink)

    def start(self) -> None:
        """Push the current sample at once and go on from there; idempotent."""
        if not self.timer.running:
            self._newest.counts.subscribed(self.period)
            self.timer.startService()
            self._newest.push(self._sink)

    def stop(self) -> None:
        """Push no more; idempotent."""
        if self.timer.running:
            self._newest.counts.unsubscribed(self.period)
            self.timer.stopService()

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
        granted = float(min(max(period, self._limits.min_period), self._limits.max_period))
        self._newest.tally.periods["granted" if granted == period else "clamped"] += 1
        if self.timer.running:
            self._newest.counts.unsubscribed(self.period)
            self._newest.counts.subscribed(granted)
        self.period = self.timer.step = granted
        return granted
