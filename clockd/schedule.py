"""Who is due when.

Times are seconds of a monotonic clock. A member of the schedule is called at whole multiples of its period after the
moment it joined, so nothing drifts; whole periods that the reactor slept through are counted, not made up for.
"""

from collections.abc import Callable
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger


class Schedule:
    """Calls its members back, each once a period.

    Args:
        clock: Monotonic time and delayed calls.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self.clock = clock

    def join(self, period: float, call: Callable[[float, int], object]) -> "Membership":
        """Have `call(due, missed)` called once a period.

        Args:
            period: Seconds, finite and > 0.
            call: Told when it was due, and how many whole periods before that were slept through.
        """
        return Membership(self.clock, period, call)


class Membership:
    """One member's place in the schedule, from `Schedule.join` to `leave`."""

    __slots__ = ("_call", "_clock", "_delayed", "_due", "_last", "_period")

    def __init__(self, clock: IReactorTime, period: float, call: Callable[[float, int], object]) -> None:
        self._clock = clock
        self._period = period
        self._call = call
        self._last = clock.seconds()
        self._due = self._last + period
        self._delayed: IDelayedCall | None = clock.callLater(period, self._fire)

    def change(self, period: float) -> None:
        """Be called at another period from now on; buys no call.

        The next call comes one new period after the last one. Where that is past, it comes one new period from now,
        or when it was due anyway if that is sooner, so that changing again and again does not put it off for ever.
        """
        if self._delayed is None:
            return
        now = self._clock.seconds()
        after_last = self._last + period
        self._period = period
        self._due = after_last if after_last >= now else min(self._due, now + period)
        self._delayed.cancel()
        self._delayed = self._clock.callLater(max(0.0, self._due - now), self._fire)

    def leave(self) -> None:
        """Be called no more; idempotent."""
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None

    def _fire(self) -> None:
        now = self._clock.seconds()
        missed = max(0, int((now - self._due) / self._period))
        due = self._due + missed * self._period
        self._last = due
        self._due = due + self._period
        self._delayed = self._clock.callLater(max(0.0, self._due - now), self._fire)
        self._call(due, missed)


class ScheduledTimer(TimerService):
    """A `TimerService` whose ticks come from a `Schedule`.

    It has TimerService's attributes, and differs in three ways: the first call comes one step after the start;
    assigning `step` while it runs takes effect at once and causes no call; a callable that raises is counted and
    logged, and the timer goes on.

    Args:
        schedule: Where to join.
        step: Seconds between calls, finite and > 0.
        callable: What to call, with the arguments that follow.

    Attributes:
        due: During a call, when it was due, in seconds of the schedule's clock.
        missed: During a call, how many calls before it were slept through.
        failures: Calls that raised.
    """

    _log = Logger()

    def __init__(
        self,
        schedule: Schedule,
        step: float,
        callable: Callable[..., object],  # noqa: A002  # TimerService's name
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._schedule = schedule
        self._membership: Membership | None = None
        super().__init__(step, callable, *args, **kwargs)
        self.clock = schedule.clock
        self.due = 0.0
        self.missed = 0
        self.failures = 0

    @property
    def step(self) -> float:
        """Seconds between calls; assigned while running, it joins anew without a call."""
        return self._step

    @step.setter
    def step(self, step: float) -> None:
        self._step = step
        if self._membership is not None:
            self._membership.change(step)

    def startService(self) -> None:
        """Join the schedule; idempotent."""
        if self._membership is None:
            Service.startService(self)
            self._membership = self._schedule.join(self._step, self._tick)

    def stopService(self) -> Deferred[None]:
        """Leave the schedule; idempotent.

        Returns:
            A Deferred that has fired: no call is left running.
        """
        if self._membership is not None:
            self._membership.leave()
            self._membership = None
            Service.stopService(self)
        return succeed(None)

    def _tick(self, due: float, missed: int) -> None:
        self.due = due
        self.missed = missed
        callable, args, kwargs = self.call  # noqa: A001  # TimerService's name
        try:
            callable(*args, **kwargs)
        except Exception:  # noqa: BLE001  # one bad tick must not end the timer: https://github.com/twisted/twisted/issues/3627
            self.failures += 1
            self._log.failure("a timer's call raised; the timer goes on")
