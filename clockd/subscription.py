"""Which sample is due: one feed to one sink at one period."""

from clockd.errors import InvalidPeriod
from clockd.interfaces import IFeed, ISink
from clockd.schedule import Schedule, ScheduledTimer
from clockd.values import Limits, Tally, is_period


class Subscription:
    """Pushes the newest sample of a feed to a sink, once a period.

    Args:
        feed: What to push.
        sink: Where to.
        schedule: When.
        limits: Which periods may be granted.
        tally: Where it is counted.

    Attributes:
        period: The period in force, in seconds.
        timer: The `TimerService` that ticks; it stops when the subscription does.
    """

    __slots__ = ("_counts", "_limits", "_newest", "_tally", "period", "timer")

    def __init__(self, feed: IFeed, sink: ISink, schedule: Schedule, limits: Limits, tally: Tally) -> None:
        self._limits = limits
        self._tally = tally
        self._counts = tally.feed(feed.name)
        self._newest = _Newest(feed, sink, schedule, tally)
        self.period = limits.default_period
        self.timer = ScheduledTimer(schedule, sink, self.period, self._newest.tick)

    def start(self) -> None:
        """Push the current sample at once and go on from there; idempotent."""
        if not self.timer.running:
            self._counts.subscribed(self.period)
            self.timer.startService()
            self._newest.push()

    def stop(self) -> None:
        """Push no more; idempotent."""
        if self.timer.running:
            self._counts.unsubscribed(self.period)
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
            self._tally.periods["refused"] += 1
            raise InvalidPeriod("a period is a finite number of seconds greater than 0")
        granted = float(min(max(period, self._limits.min_period), self._limits.max_period))
        self._tally.periods["granted" if granted == period else "clamped"] += 1
        if self.timer.running:
            self._counts.unsubscribed(self.period)
            self._counts.subscribed(granted)
        self.period = self.timer.step = granted
        return granted


class _Newest:
    """The part that ticks; it knows nothing of the timer, so that the two are no cycle for the collector."""

    __slots__ = ("_counts", "_feed", "_lateness", "_schedule", "_seconds", "_sink")

    def __init__(self, feed: IFeed, sink: ISink, schedule: Schedule, tally: Tally) -> None:
        self._feed = feed
        self._sink = sink
        self._schedule = schedule
        self._seconds = schedule.clock.seconds
        self._counts = tally.feed(feed.name)
        self._lateness = tally.lateness

    def push(self) -> bool:
        """Push the newest sample; tell whether the sink took it."""
        return self._sink.push(self._feed.latest())

    def tick(self) -> None:
        """Push, and count how late that was."""
        schedule = self._schedule
        if schedule.missed:
            self._counts.skipped["stall"] += schedule.missed
        if self._sink.push(self._feed.latest()):
            seconds = self._seconds
            self._lateness.observe(seconds() - schedule.due)
