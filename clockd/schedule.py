"""Who is due when.

Members of one period form a cohort. A cohort is spread over phases, moments of its period that lie as far apart as can
be, so that one firing does not hold the reactor for long; and over no more phases than its size asks for, because each
wake-up costs too. A phase fires at whole multiples of its period after its first moment, so nothing drifts; whole
periods that the reactor slept through are counted, not made up for.

Members of one key, a client, share a phase and are called in a row, so that what they send can go out as one.

Joining, leaving and changing cost the same however many members there are. Times are seconds of a monotonic clock.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from itertools import chain, count
from typing import Any

from twisted.application.internet import TimerService
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from clockd.values import Histogram

PHASE_MEMBERS = 192
"""Members that one phase takes: at about 10 µs a push (docs/performance.md) a firing lasts 2 ms."""

ALONE, AMONG = 4, 1
"""The weights of a key's first member and of each other: what is gathered into one write costs a quarter of one."""

FULL = ALONE * PHASE_MEMBERS
"""The weight of a phase's members from which on it has no room."""

FIRING_SECONDS = 0.002
"""Once calls have held the reactor for this long, what is left of them gives way to whatever else waits."""

CALLS_BETWEEN_LOOKS = 16
"""Calls made between two looks at the clock."""


class Schedule:
    """Calls its members back, each once a period.

    Args:
        clock: Monotonic time and delayed calls.
        lateness: Where it is counted how late the calls were that returned True, in seconds. It is looked at the clock
            once for up to `CALLS_BETWEEN_LOOKS` calls, after the last of them, so each counts as late as that one.

    Attributes:
        due: During a call, when it was due.
        missed: During a call, how many whole periods before it were slept through.
        prelude: Called before the calls that are due; nothing, until something is assigned.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, lateness: Histogram) -> None:
        self.clock = clock
        self._lateness = lateness
        self.due = 0.0
        self.missed = 0
        self.prelude: Callable[[], object] = _nothing
        self._cohorts: dict[float, _Cohort] = {}
        self._firings: list[tuple[float, int, _Phase]] = []  # a heap; a phase that is empty stays until its turn comes
        self._empty = 0
        self._serial = count()
        self._calls: Iterator[None] | None = None  # what is left of the calls that are due
        self._gone: list[Membership] = []  # who left meanwhile
        self._firing = False
        self._finishing: deque[tuple[float, Callable[[], int]]] = deque()  # when it was due, and what makes it done
        self._wake_up: IDelayedCall | None = None
        self._wake_at = 0.0

    def join(
        self, period: float, key: Hashable, call: Callable[[Any], object], failed: Callable[[], object]
    ) -> "Membership":
        """Have `call(key)` called once a period, the first time one period from now at the latest.

        Args:
            period: Seconds, finite and > 0.
            key: Members of one key and one period are called one after another, in the same firing.
            call: It may look at `due` and `missed`. Members who share it share its place in the processor's caches.
            failed: Called while an exception that `call` raised is being handled.
        """
        membership = Membership(self, key, call, failed)
        self.enter(membership, period)
        return membership

    def enter(self, membership: "Membership", period: float) -> None:
        """Seat a membership in the cohort of a period."""
        now = self.clock.seconds()
        cohort = self._cohorts.get(period)
        if cohort is None:
            cohort = self._cohorts[period] = _Cohort(period, now)
        phase = cohort.seat(membership, now)
        if len(phase.members) == 1:
            heapq.heappush(self._firings, (phase.due, next(self._serial), phase))
            self._wake_by(phase.due)

    def catch_up(self) -> None:
        """Make the calls that are due; for work that would have them wait for the reactor's next turn.

        Nothing, within a call.
        """
        if not self._firing and self._wake_up is not None and self._wake_at <= self.clock.seconds():
            self._wake_up.cancel()
            self._wake()

    def finish_soon(self, finish: Callable[[], int]) -> bool:
        """Have something done soon after the calls of the same key have been made that are due now.

        That is after `CALLS_BETWEEN_LOOKS` more at the latest, and before others have their turn.

        Args:
            finish: Does it, and returns for how many calls; these count as late as it is.

        Returns:
            Whether it will be called: False outside of a call.
        """
        if self._firing:
            self._finishing.append((self.due, finish))
        return self._firing

    def exit(self, membership: "Membership") -> None:
        """Take a membership out of its cohort."""
        phase = membership.phase
        cohort = phase.cohort
        cohort.unseat(membership)
        if self._calls is not None:
            self._gone.append(membership)
        if phase.members:
            return
        if not cohort.weight:
            del self._cohorts[cohort.period]
        self._empty += 1
        if 2 * self._empty > len(self._firings):
            self._forget_empty_phases()

    def _forget_empty_phases(self) -> None:
        self._firings = [firing for firing in self._firings if firing[2].members]
        heapq.heapify(self._firings)
        self._empty = 0
        if not self._firings:
            self._calls = None
            if self._wake_up is not None:
                self._wake_up.cancel()
                self._wake_up = None

    def _wake_by(self, moment: float) -> None:
        if self._wake_up is not None:
            if self._wake_at <= moment:
                return
            self._wake_up.cancel()
        self._wake_at = moment
        self._wake_up = self.clock.callLater(max(0.0, moment - self.clock.seconds()), self._wake)

    def _wake(self) -> None:
        self._wake_up = None
        try:
            self.prelude()
        except Exception:  # noqa: BLE001  # as for a call
            self._log.failure("what comes before the calls of a timer failed; the timer goes on")
        started = self.clock.seconds()
        if self._calls is None:
            self._calls = self._fire()
        self._firing = True
        for _ in self._calls:
            self._finish(but=1)  # of that one's key there may be more calls
            if self.clock.seconds() - started >= FIRING_SECONDS:
                self._wake_by(started)
                break
        else:
            self._calls = None
            if self._firings:
                self._wake_by(self._firings[0][0])
        self._firing = False
        self._finish(but=0)

    def _finish(self, but: int) -> None:
        """Finish what was begun, all but so many of the last."""
        while len(self._finishing) > but:
            due, finish = self._finishing.popleft()
            try:
                made = finish()
            except Exception:  # noqa: BLE001  # as for a call
                self._log.failure("what the calls of a timer had begun could not be done")
            else:
                self._lateness.observe(self.clock.seconds() - due, made)

    def _fire(self) -> Iterator[None]:
        """Make all calls that are due; what iterates may stop at any step and go on later."""
        while self._firings:
            due, serial, phase = self._firings[0]
            now = self.clock.seconds()
            if due > now:
                return
            if not phase.members:
                heapq.heappop(self._firings)
                self._empty -= 1
                continue
            period = phase.cohort.period
            missed = int((now - due) / period)
            due += missed * period
            phase.due = due + period
            heapq.heapreplace(self._firings, (phase.due, serial, phase))
            phase.sort()
            calls, keys = phase.calls, phase.keys
            phase.left, phase.punctual = phase.punctual, len(phase.members)
            while phase.left:
                self.due, self.missed = due, missed
                made = 0
                for _ in range(CALLS_BETWEEN_LOOKS):
                    left = phase.left - 1
                    if left < 0:
                        break
                    phase.left = left
                    call, key = calls[left], keys[left]
                    try:
                        if call(key):
                            made += 1
                    except Exception:  # noqa: BLE001  # one bad call must not end the others
                        self._failed(phase, call, key)
                if made:
                    self._lateness.observe(self.clock.seconds() - due, made)
                self._gone.clear()
                yield
            self._rearrange(phase)

    def _failed(self, phase: "_Phase", call: Callable[[Any], object], key: Hashable) -> None:
        next(member for member in (*phase.members, *self._gone) if member.call is call and member.key is key).failed()

    def _rearrange(self, phase: "_Phase") -> None:
        """Move those who asked for another period, and those who are to be in another phase."""
        for member, period in list(phase.movers.items()):
            member.move(period)
        members = phase.surplus()
        for member in members:
            self.exit(member)
        for member in members:
            self.enter(member, phase.cohort.period)


class Membership:
    """One member's place in the schedule, from `Schedule.join` to `leave`.

    Attributes:
        key: As given to `Schedule.join`.
        call: As given to `Schedule.join`.
        failed: As given to `Schedule.join`.
        phase: Where it is seated; None once it has left.
        index: Where in `phase.members`.
    """

    __slots__ = ("_moved_to", "_schedule", "call", "failed", "index", "key", "phase")

    def __init__(
        self, schedule: Schedule, key: Hashable, call: Callable[[Any], object], failed: Callable[[], object]
    ) -> None:
        self._schedule = schedule
        self._moved_to: float | None = None  # after a change, when the first call was due
        self.key = key
        self.call = call
        self.failed = failed
        self.phase: Any = None  # a _Phase, but before it joined and after it left
        self.index = 0

    def change(self, period: float) -> None:
        """Be called at another period from now on; causes no call, and the next one comes one new period later at most.

        One that changes again before it was called keeps its next call if that comes in time, and changes after it:
        else changing again and again would put the call off for ever.
        """
        phase = self.phase
        if phase is None:
            return
        if period == phase.cohort.period:
            if phase.movers.pop(self, None) is not None:
                self._moved_to = phase.due
        elif self.index < phase.left or (
            phase.due == self._moved_to and phase.due - self._schedule.clock.seconds() <= period
        ):
            phase.movers[self] = period
        else:
            self.move(period)

    def move(self, period: float) -> None:
        """Change to the cohort of another period now."""
        self._schedule.exit(self)
        self._schedule.enter(self, period)
        self._moved_to = self.phase.due

    def leave(self) -> None:
        """Be called no more; idempotent."""
        if self.phase is not None:
            self._schedule.exit(self)


class _Phase:
    """A moment of a cohort's period, and who is called at it.

    Attributes:
        cohort: Whose phase it is.
        number: Its number in the cohort.
        due: When it fires next.
        members: Who is called; the last first, so that a firing that goes on is told by one number.
        calls: What each of them is called by; with `keys` all that a firing needs, and so all that it touches.
        keys: The key of each.
        left: In the firing that goes on, so many of the first members are still to be called.
        punctual: So many of the first members have a part in the next firing; those behind joined when it was late
            already.
        movers: Members who will change after this firing or the next, and to which period.
        weight: What its members weigh.
        shared: Whether some have one key, or had.
        mixed: Whether those of one key may not lie side by side.
    """

    __slots__ = (
        "calls",
        "cohort",
        "due",
        "keys",
        "left",
        "members",
        "mixed",
        "movers",
        "number",
        "punctual",
        "shared",
        "weight",
    )

    def __init__(self, cohort: "_Cohort", number: int, due: float) -> None:
        self.cohort = cohort
        self.number = number
        self.due = due
        self.members: list[Membership] = []
        self.calls: list[Callable[[Any], object]] = []
        self.keys: list[Hashable] = []
        self.left = 0
        self.punctual = 0
        self.movers: dict[Membership, float] = {}
        self.weight = 0
        self.shared = False
        self.mixed = False

    def add(self, membership: Membership, now: float) -> None:
        """Seat a membership."""
        self.mixed = self.shared
        membership.phase = self
        membership.index = len(self.members)
        self.members.append(membership)
        self.calls.append(membership.call)
        self.keys.append(membership.key)
        if self.due > now:
            self._put(self.members[self.punctual], membership.index)
            self._put(membership, self.punctual)
            self.punctual += 1

    def remove(self, membership: Membership) -> None:
        """Unseat a membership; those behind it move up, so that the first ones stay the first."""
        hole = membership.index
        if hole < self.left:
            self.left -= 1
            hole = self._move_up(self.left, hole)
        if hole < self.punctual:
            self.punctual -= 1
            hole = self._move_up(self.punctual, hole)
        self._move_up(len(self.members) - 1, hole)
        for each in (self.members, self.calls, self.keys):
            del each[-1]
        self.movers.pop(membership, None)
        self.mixed = self.shared
        membership.phase = None

    def sort(self) -> None:
        """Lay those of one key side by side, of all who have a part in the next firing."""
        if self.mixed:
            self.mixed = False
            for index, member in enumerate(_by_key(self.members[: self.punctual])):
                self._put(member, index)

    def surplus(self) -> list[Membership]:
        """Return who is to be in other phases: all, if the cohort can do without this one, or what is far too many."""
        if self.cohort.can_do_without(self):
            return self.members.copy()
        if self.weight <= 2 * FULL:
            return []
        weight, keys = 0, set()
        for index, member in enumerate(members := _by_key(self.members)):
            if weight >= FULL and member.key not in keys:
                return members[index:]
            weight += AMONG if member.key in keys else ALONE
            keys.add(member.key)
        return []

    def _move_up(self, index: int, hole: int) -> int:
        """Fill a hole from another place, and return where the hole is now."""
        if index != hole:
            self._put(self.members[index], hole)
        return index

    def _put(self, membership: Membership, index: int) -> None:
        self.members[index], self.calls[index], self.keys[index] = membership, membership.call, membership.key
        membership.index = index


def _by_key(members: list[Membership]) -> list[Membership]:
    by_key: dict[Hashable, list[Membership]] = {}
    for member in members:
        by_key.setdefault(member.key, []).append(member)
    return list(chain.from_iterable(by_key.values()))


class _Cohort:
    """All members of one period.

    Args:
        period: In seconds.
        now: The moment from which its phases count.

    Attributes:
        weight: What its members weigh.
    """

    __slots__ = ("_free", "_origin", "_phases", "_roomy", "_seats", "period", "weight")

    def __init__(self, period: float, now: float) -> None:
        self.period = period
        self.weight = 0
        self._origin = now
        self._phases = 0
        self._free: list[int] = []  # a heap of the numbers of phases that are no more
        self._roomy: dict[_Phase, None] = {}
        self._seats: dict[Hashable, tuple[_Phase, int]] = {}  # by key: the phase, and how many members of that key

    def seat(self, membership: Membership, now: float) -> _Phase:
        """Put a membership into the phase of its key, or one that has room, or a new one."""
        phase, others = self._seats.get(membership.key) or (next(iter(self._roomy), None) or self._new_phase(now), 0)
        self._seats[membership.key] = phase, others + 1
        phase.shared = phase.shared or others > 0
        phase.add(membership, now)
        self._weigh(phase, AMONG if others else ALONE)
        if phase.weight >= FULL:
            self._roomy.pop(phase, None)
        return phase

    def unseat(self, membership: Membership) -> None:
        """Take a membership out of its phase."""
        phase = membership.phase
        phase.remove(membership)
        _, members = self._seats.pop(membership.key)
        if members > 1:
            self._seats[membership.key] = phase, members - 1
        self._weigh(phase, -AMONG if members > 1 else -ALONE)
        if not phase.members:
            self._phases -= 1
            heapq.heappush(self._free, phase.number)
            self._roomy.pop(phase, None)
        elif phase.weight < FULL:
            self._roomy[phase] = None

    def can_do_without(self, phase: _Phase) -> bool:
        """Tell whether a phase is half empty, and the others would be three quarters full at most with its members."""
        return 2 * phase.weight <= FULL and 4 * self.weight <= 3 * FULL * (self._phases - 1)

    def _weigh(self, phase: _Phase, weight: int) -> None:
        phase.weight += weight
        self.weight += weight

    def _new_phase(self, now: float) -> _Phase:
        number = heapq.heappop(self._free) if self._free else self._phases
        self._phases += 1
        first = self._origin + self.period * spread(number)
        phase = _Phase(self, number, first + (math.floor((now - first) / self.period) + 1) * self.period)
        self._roomy[phase] = None
        return phase


def spread(number: int) -> float:
    """Return the point of [0, 1) that lies far from those of all smaller numbers: 0, 1/2, 1/4, 3/4, 1/8, 5/8...

    This is the van der Corput sequence of base 2: the number's bits, mirrored behind the point.
    """
    point, weight = 0.0, 0.5
    while number:
        point += weight * (number & 1)
        number >>= 1
        weight /= 2
    return point


class ScheduledTimer(TimerService):
    """A `TimerService` whose ticks come from a `Schedule`.

    It has TimerService's attributes, and differs in three ways: the first call comes within one step of the start,
    but not at once; assigning `step` while it runs causes no call; a callable that raises is counted and logged, and
    the timer goes on.

    Args:
        schedule: Where to join.
        key: Timers of one key and one step are called in the same firing.
        step: Seconds between calls, finite and > 0.
        callable: What to call, with the arguments that follow.

    Attributes:
        failures: Calls that raised.
    """

    _log = Logger()

    def __init__(
        self,
        schedule: Schedule,
        key: Hashable,
        step: float,
        callable: Callable[..., object],  # noqa: A002  # TimerService's name
        *args: Any,
        **kwargs: Any,
    ) -> None:
        self._schedule = schedule
        self._key = key
        self._membership: Membership | None = None
        super().__init__(step, callable, *args, **kwargs)
        self.clock = schedule.clock
        self.failures = 0

    @property
    def step(self) -> float:
        """Seconds between calls; assigned while running, it holds from the next call on, see `Membership.change`."""
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
            callable, args, kwargs = self.call  # noqa: A001  # TimerService's name
            shared = len(args) == 1 and args[0] is self._key and not kwargs
            call = callable if shared else lambda _: callable(*args, **kwargs)
            self._membership = self._schedule.join(self._step, self._key, call, self._call_failed)

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

    def _call_failed(self) -> None:
        # stock TimerService ends for good: https://github.com/twisted/twisted/issues/3627
        self.failures += 1
        self._log.failure("a timer's call raised; the timer goes on")


def _nothing() -> None:
    """Do nothing."""
