"""How late pushes are, as one sees it who is due ten times a second and is pushed nothing.

Rules of this module: the schedule calls it in its turn, as every subscription, so what holds those up holds it up, too.
A moment that was slept through counts, and is late until the next call; of pushes that were left out there is no
lateness, so of the pushes themselves one would not know.
"""

from collections import deque

from clockd.schedule import Schedule, ScheduledTimer

STEP = 0.1
"""Seconds between two moments at which it is due."""

LOOKS = 10
"""The mean lateness is that since so many looks ago."""

MOMENTS = 100
"""It is that of so many moments at least: those before the start count as in time."""


class Pace(ScheduledTimer):
    """Tells how late the calls of a schedule are.

    Args:
        schedule: Whose.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule, self, STEP, self._called)
        self._seconds = schedule.clock.seconds
        self._looks: deque[tuple[int, float]] = deque(maxlen=LOOKS)

    def startService(self) -> None:
        """Begin anew."""
        self._due = self._seconds() + STEP  # at the latest
        self._moments, self._total = 0, 0.0
        self._looks.clear()
        self._looks.append((0, 0.0))
        super().startService()

    def look(self) -> float:
        """Return the mean lateness, in seconds; to be called once a second, while it runs."""
        moments, total = self._with(self._due)
        then, before = self._looks[0]
        self._looks.append((self._moments, self._total))
        return (total - before) / max(moments - then, MOMENTS)

    def _called(self) -> None:
        first = self._schedule.due - self._schedule.missed * STEP
        self._moments, self._total = self._with(first)
        self._due = self._schedule.due + STEP

    def _with(self, due: float) -> tuple[int, float]:
        """Return how many moments there were and how late they were together, with those from `due` until now."""
        late = self._seconds() - due
        if late < 0:
            return self._moments, self._total
        more = int(late / STEP) + 1
        return self._moments + more, self._total + more * (late - (more - 1) * STEP / 2)
