"""How wrong this host's wall clock may be, as far as its kernel knows, and when it was stepped.

Rules of this module: what the kernel does not tell is unknown, and its error infinite; nothing is guessed.
"""

import math
import struct
import time
from collections.abc import Callable
from functools import partial

from msgspec import Struct
from twisted.logger import Logger

from clockd.values import SERVER_DRIFT, ServerStatus, Tally

UNSYNCHRONIZED_MICROSECONDS = 16_000_000
"""The kernel's maximum error from which on the clock counts as not synchronized (`NTP_PHASE_LIMIT`).

The flag `STA_UNSYNC` does not tell it: chrony leaves it set unless it is to keep the hardware's clock in step, too
(https://github.com/systemd/systemd/pull/13245).
"""

STEP_SECONDS = 1e-4
"""The smallest step that is told."""

CONFIRMATIONS = 8
"""So often the clocks are read to tell a step from a moment in which this process did not have the processor."""

_TIMEX = struct.Struct("@I4li3l2l3li5li11i")
"""`struct timex`, see adjtimex(2): modes, offset, freq, maxerror, esterror, status, ..., tai."""

_MODES, _OFFSET, _MAXERROR, _STATUS, _TAI = 0, 1, 3, 5, 20
_STA_NANO = 0x2000


class ClockState(Struct, frozen=True, gc=False):
    """What the kernel knows of the wall clock.

    Attributes:
        status: Whether something keeps it right.
        bound: Its error is no larger, in seconds; infinite unless it is synchronized.
        tai_offset: TAI less UTC, in seconds; None if nobody has told the kernel.
    """

    status: ServerStatus
    bound: float
    tai_offset: int | None


UNKNOWN = ClockState("unknown", math.inf, None)


def kernel_clock() -> Callable[[], ClockState]:
    """Return what asks the kernel; it needs no rights, and its answer is `UNKNOWN` where it gets none."""
    try:
        import ctypes  # noqa: PLC0415  # where no memory may be made executable, this may be refused

        adjtimex = ctypes.CDLL(None).adjtimex
        buffer = ctypes.create_string_buffer(_TIMEX.size)  # modes is 0, and stays it: nothing is set
    except Exception:  # noqa: BLE001  # another platform, another libc, or what hardens this one
        return lambda: UNKNOWN

    def ask() -> ClockState:
        return UNKNOWN if adjtimex(buffer) < 0 else state_of(buffer.raw)

    return ask


def state_of(timex: bytes) -> ClockState:
    """Return what a `struct timex` says.

    The bound is the kernel's maximum error and what it has still to make up for of an offset. It adds to its maximum
    error once a second, so a second's growth may be missing.
    """
    fields = _TIMEX.unpack(timex)
    tai = fields[_TAI] or None
    if fields[_MAXERROR] >= UNSYNCHRONIZED_MICROSECONDS:
        return ClockState("unsynchronized", math.inf, tai)
    offset = abs(fields[_OFFSET]) * (1e-9 if fields[_STATUS] & _STA_NANO else 1e-6)
    return ClockState("synchronized", fields[_MAXERROR] * 1e-6 + offset + SERVER_DRIFT, tai)


since_boot = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Returns the seconds since the host was booted, also those in which it was suspended; half as dear as a function."""


class StepDetector:
    """Compares the wall clock with one that nobody steps.

    The kernel slews both alike, so what one shows more than the other changes by steps alone; a leap second that is
    inserted is one, too. A suspended host is none, because both go on.

    Args:
        wall: Unix seconds UTC by the host's wall clock.
        local: Seconds of a clock that goes on in suspend.
    """

    __slots__ = ("_ahead", "_local", "_uncertain", "_wall")

    def __init__(self, wall: Callable[[], float], local: Callable[[], float]) -> None:
        self._wall = wall
        self._local = local
        self._ahead, self._uncertain = self._measure()

    def look(self) -> float | None:
        """Return by how many seconds the wall clock was stepped since the last look; None if it was not."""
        local, wall = self._local, self._wall
        ahead = self._ahead
        before = local()
        if -STEP_SECONDS < wall() - before - ahead < STEP_SECONDS:
            return None
        found, uncertain = self._measure()  # between the two the processor may have been with others
        step = found - ahead
        proven = abs(step) - uncertain - self._uncertain >= STEP_SECONDS
        if proven or uncertain < self._uncertain:
            self._ahead, self._uncertain = found, uncertain
        return step if proven else None

    def _measure(self) -> tuple[float, float]:
        """Return how much more the wall clock shows, and how far that may be off; the best of several readings."""
        local, wall = self._local, self._wall
        best = 0.0, math.inf
        for _ in range(CONFIRMATIONS):
            before = local()
            now = wall()
            half = (local() - before) / 2
            if half < best[1]:
                best = now - before - half, half
        return best


class HostClock:
    """This host's wall clock.

    Args:
        kernel: What the kernel knows of it, see `kernel_clock`.
        now: Unix seconds UTC by it.
        local: Seconds of a clock that nobody steps and that goes on in suspend, see `since_boot`.
        tally: Where it is counted.

    Attributes:
        state: What the kernel knew when it was asked last.
        stepped: Is told each step, in seconds; nobody, until somebody is assigned.
    """

    _log = Logger()

    def __init__(
        self, kernel: Callable[[], ClockState], now: Callable[[], float], local: Callable[[], float], tally: Tally
    ) -> None:
        self._kernel = kernel
        self._local = local
        self._tally = tally
        self._steps = StepDetector(now, local)
        self._asked = local()
        self.state = UNKNOWN
        self.stepped: Callable[[float], object] = _nobody

    @property
    def bound(self) -> float:
        """The error of the wall clock is no larger now, in seconds; infinite while that is not known."""
        return self.state.bound + SERVER_DRIFT * (self._local() - self._asked)

    def look(self) -> None:
        """Look whether the clock was stepped; called before pushes, so it has to be quick."""
        seconds = self._steps.look()
        if seconds is not None:
            self._tally.clock_steps += 1
            self._log.warn("this host's clock was stepped by {seconds:+.6f} s", seconds=seconds)
            self._ask()  # what it knew before is not true any more
            self.stepped(seconds)

    def attend(self) -> None:
        """Look, and ask the kernel; called once a second."""
        self.look()
        self._ask()

    def _ask(self) -> None:
        self._asked = self._local()
        before, self.state = self.state, self._kernel()
        if self.state.status != before.status:
            self._log.info(
                "this host's clock is {status}; its maximum error: {bound}; TAI less UTC: {tai_offset}",
                status=self.state.status,
                bound="not known" if self.state.bound == math.inf else f"{self.state.bound:.6f} s",
                tai_offset="not known" if self.state.tai_offset is None else f"{self.state.tai_offset} s",
            )
        self._tally.clock_bound = self.state.bound
        self._tally.clock_synchronized = self.state.status == "synchronized"


def _nobody(seconds: float) -> None:
    """Tell nobody."""
