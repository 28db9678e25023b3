"""What the kernel says of the wall clock, and steps of it told from a process that had to wait."""

import ctypes
import math

from doubles import EPOCH, clockd_logs
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import formatEvent
from twisted.trial.unittest import SynchronousTestCase

from clockd.hostclock import (
    CONFIRMATIONS,
    STEP_SECONDS,
    UNKNOWN,
    ClockState,
    HostClock,
    StepDetector,
    kernel_clock,
    since_boot,
    state_of,
)
from clockd.values import SERVER_DRIFT, Tally


class Timex(ctypes.Structure):
    """As in adjtimex(2) and <sys/timex.h>."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("constant", "precision", "tolerance", "seconds", "microseconds")),
        *((name, ctypes.c_long) for name in ("tick", "ppsfreq", "jitter")),
        ("shift", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("stabil", "jitcnt", "calcnt", "errcnt", "stbcnt")),
        ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


class KernelTests(SynchronousTestCase):
    def state(self, **fields):
        return state_of(bytes(Timex(**fields)))

    def test_its_maximum_error_is_the_bound_and_a_second_s_growth(self):
        state = self.state(maxerror=1500, esterror=7, tick=10_000, tai=37)
        self.assertEqual((state.status, state.tai_offset), ("synchronized", 37))
        self.assertAlmostEqual(state.bound, 0.0015 + 0.0005, 12)

    def test_from_16_s_on_it_is_not_synchronized_whatever_a_flag_says(self):
        for status in (0, 0x40):
            self.assertEqual(self.state(maxerror=15_999_999, status=status).status, "synchronized")
            state = self.state(maxerror=16_000_000, status=status, tai=37)
            self.assertEqual(state, ClockState("unsynchronized", math.inf, 37))

    def test_an_error_of_nothing_is_no_bound_of_nothing(self):
        self.assertGreater(self.state().bound, 0)

    def test_what_it_has_still_to_make_up_for_is_an_error_too(self):
        for status, offset in ((0, -2000), (0x2000, 2_000_000)):
            self.assertAlmostEqual(self.state(offset=offset, status=status).bound, 0.002 + 0.0005, 12)

    def test_a_tai_offset_that_nobody_has_told_is_none(self):
        self.assertIsNone(self.state().tai_offset)

    def test_here_it_says_something_or_nothing_and_sets_nothing(self):
        state = kernel_clock()()
        self.assertIn(state.status, ("synchronized", "unsynchronized", "unknown"))
        self.assertEqual(math.isfinite(state.bound), state.status == "synchronized")

    def test_where_it_does_not_say_it_is_unknown_and_the_bound_infinite(self):
        class Refusing:
            adjtimex = staticmethod(lambda _: -1)

        def refuse(_):
            raise OSError("no such library")

        for library in (lambda _: Refusing, lambda _: object(), refuse):
            self.patch(ctypes, "CDLL", library)
            self.assertEqual(kernel_clock()(), UNKNOWN)
        self.assertEqual((UNKNOWN.status, UNKNOWN.bound), ("unknown", math.inf))

    def test_its_own_local_clock_goes_on(self):
        before = since_boot()
        self.assertGreaterEqual(since_boot(), before)


class Clocks:
    """A wall clock and a local one; before each reading this process waits as long as the test says.

    Attributes:
        waits: Seconds, one for each reading that follows; then none.
    """

    def __init__(self):
        self.seconds = 1000.0
        self.ahead = EPOCH
        self.waits = []

    def _wait(self):
        self.seconds += self.waits.pop(0) if self.waits else 0.0

    def local(self):
        self._wait()
        return self.seconds

    def wall(self):
        self._wait()
        return self.seconds + self.ahead


class StepTests(SynchronousTestCase):
    def setUp(self):
        self.clocks = Clocks()
        self.steps = StepDetector(self.clocks.wall, self.clocks.local)

    def test_while_time_passes_there_is_none(self):
        for seconds in (0.0, 1e-6, 1.0, 3600.0, 1e6):
            self.clocks.seconds += seconds
            self.assertIsNone(self.steps.look())

    def test_a_step_is_told_once_and_how_far_it_was(self):
        for step in (0.1, -0.1, 3600.0, -3600.0, 0.00011, -0.00011, -1.7e9):
            self.clocks.seconds += 1
            self.clocks.ahead += step
            self.assertAlmostEqual(self.steps.look(), step, 5)
            self.assertIsNone(self.steps.look())

    def test_less_than_a_tenth_of_a_millisecond_is_none_until_it_has_become_one(self):
        for _ in range(3):
            self.clocks.ahead += 0.3 * STEP_SECONDS
            self.assertIsNone(self.steps.look())
        self.clocks.ahead += 0.3 * STEP_SECONDS
        self.assertAlmostEqual(self.steps.look(), 1.2 * STEP_SECONDS, 5)

    def test_who_waits_between_two_readings_sees_none(self):
        for waits in ([0, 0.005], [0, 0.005, 0, 0.005], [0, 1, 0, 0, 1, 0, 1], [0, *[0.001] * 30]):
            self.clocks.waits = list(waits)
            self.assertIsNone(self.steps.look())
            self.clocks.waits = []
            self.assertIsNone(self.steps.look())

    def test_who_waits_when_it_begins_sees_none_later(self):
        self.clocks.waits = [0.0, 0.005, 0.0, 0.0]
        steps = StepDetector(self.clocks.wall, self.clocks.local)
        self.assertIsNone(steps.look())

    def test_who_had_to_wait_when_it_began_finds_small_steps_later(self):
        self.clocks.waits = [0.005] * 3 * CONFIRMATIONS
        steps = StepDetector(self.clocks.wall, self.clocks.local)
        self.clocks.waits = [0.0, 0.001]
        self.assertIsNone(steps.look())
        self.clocks.ahead += 0.001
        self.assertAlmostEqual(steps.look(), 0.001, 5)

    @given(
        st.lists(
            st.tuples(st.sampled_from([0.0, 0.01, -0.01, 5.0]), st.lists(st.floats(0, 0.002), max_size=30)), max_size=20
        )
    )
    def test_steps_are_found_and_nothing_else_is_however_often_it_waits(self, looks):
        clocks = Clocks()
        steps = StepDetector(clocks.wall, clocks.local)
        for step, waits in looks:
            clocks.ahead += step
            clocks.waits = list(waits)
            found = steps.look()
            if step:
                self.assertLess(abs(found - step), 0.005)
            else:
                self.assertIsNone(found)
            clocks.waits = []
            self.assertIsNone(steps.look())


class HostClockTests(SynchronousTestCase):
    def setUp(self):
        self.clocks, self.tally, self.state, self.told, self.asked = Clocks(), Tally(), UNKNOWN, [], 0
        self.host = HostClock(self.kernel, self.clocks.wall, self.clocks.local, self.tally)
        self.host.stepped = self.told.append

    def kernel(self):
        self.asked += 1
        return self.state

    def test_before_it_has_asked_nothing_is_known(self):
        self.assertEqual((self.host.state, self.host.bound, self.asked), (UNKNOWN, math.inf, 0))
        self.assertEqual((self.tally.clock_bound, self.tally.clock_synchronized), (math.inf, False))

    def test_what_the_kernel_says_is_counted(self):
        self.state = ClockState("synchronized", 0.25, 37)
        self.host.attend()
        self.assertEqual((self.host.state, self.host.bound), (self.state, 0.25))
        self.assertEqual((self.tally.clock_bound, self.tally.clock_synchronized), (0.25, True))
        self.state = ClockState("unsynchronized", math.inf, 37)
        self.host.attend()
        self.assertEqual((self.tally.clock_bound, self.tally.clock_synchronized), (math.inf, False))

    def test_between_two_answers_the_bound_grows(self):
        self.state = ClockState("synchronized", 0.25, None)
        self.host.attend()
        self.clocks.seconds += 2
        self.assertAlmostEqual(self.host.bound, 0.25 + 2 * SERVER_DRIFT, 12)
        self.assertEqual(self.asked, 1)
        self.host.attend()
        self.assertEqual(self.host.bound, 0.25)

    def test_a_step_is_counted_logged_and_told_and_the_kernel_asked_before_it_is(self):
        seen = []
        self.host.stepped = lambda seconds: seen.append((round(seconds, 6), self.host.state.status))
        self.state = ClockState("synchronized", 0.25, None)
        self.host.attend()
        self.clocks.ahead -= 3600
        self.state = ClockState("unsynchronized", math.inf, None)
        with clockd_logs() as logged:
            self.host.look()
            self.host.look()
        self.assertEqual((self.tally.clock_steps, self.asked, seen), (1, 2, [(-3600.0, "unsynchronized")]))
        self.assertEqual(formatEvent(logged[0]), "this host's clock was stepped by -3600.000000 s")

    def test_once_a_second_it_looks_for_steps_too(self):
        self.clocks.ahead += 1
        self.host.attend()
        self.assertEqual(self.tally.clock_steps, 1)
        self.assertAlmostEqual(self.told[0], 1.0, 5)

    def test_a_step_that_nobody_is_told_is_counted(self):
        host = HostClock(self.kernel, self.clocks.wall, self.clocks.local, self.tally)
        self.clocks.ahead += 1
        host.look()
        self.assertEqual(self.tally.clock_steps, 1)

    def test_a_change_is_logged_once_and_unknown_from_the_start_is_none(self):
        with clockd_logs() as logged:
            for state in (UNKNOWN, ClockState("synchronized", 0.25, 37), ClockState("synchronized", 0.5, 37), UNKNOWN):
                self.state = state
                self.host.attend()
        self.assertEqual(
            [formatEvent(event) for event in logged],
            [
                "this host's clock is synchronized; its maximum error: 0.250000 s; TAI less UTC: 37 s",
                "this host's clock is unknown; its maximum error: not known; TAI less UTC: not known",
            ],
        )
