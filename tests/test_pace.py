from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.pace import LOOKS, MOMENTS, STEP, Pace
from clockd.schedule import Schedule
from clockd.values import Histogram


class PaceTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.lateness = Clock(), Histogram((1.0,))
        self.pace = Pace(Schedule(self.clock, self.lateness))
        self.pace.startService()
        self.addCleanup(self.pace.stopService)

    def go_on(self, seconds):
        """Return what is seen at each second, the loop being free all the time."""
        seen = []
        for _ in range(seconds):
            for _ in range(1000):
                self.clock.advance(0.001)
            seen.append(self.pace.look())
        return seen

    def test_a_loop_that_is_free_is_in_time(self):
        self.assertLess(max(self.go_on(2 * LOOKS)), 0.0011)

    def test_one_that_was_held_up_was_late_with_all_that_was_due_meanwhile(self):
        self.go_on(1)
        self.clock.advance(6)
        held_up = self.pace.look()
        due = [6 - number * STEP for number in range(60)]
        self.assertApproximates(held_up, sum(due) / MOMENTS, 0.07)

    def test_what_was_due_is_late_before_its_call_and_counts_once(self):
        self.go_on(1)
        self.clock.rightNow += 6  # the look comes before the calls that are due
        before = self.pace.look()
        self.clock.advance(0)
        self.assertAlmostEqual(self.pace.look(), before)

    def test_a_short_hold_up_is_no_matter(self):
        self.go_on(1)
        self.clock.advance(1)
        self.assertLess(self.pace.look(), 0.1)

    def test_ten_looks_later_it_is_forgotten(self):
        self.go_on(1)
        self.clock.advance(6)
        seen = self.go_on(LOOKS + 2)
        self.assertGreater(min(seen[: LOOKS - 1]), 1)
        self.assertLess(seen[-1], 0.0011)

    def test_a_loop_that_is_always_late_is_late(self):
        for _ in range(100):
            self.clock.advance(0.7)
            late = self.pace.look()
        self.assertApproximates(late, 0.3, 0.06)

    def test_who_starts_again_begins_anew(self):
        self.clock.advance(6)
        self.pace.stopService()
        self.clock.advance(100)
        self.pace.startService()
        self.assertEqual(self.pace.look(), 0)

    def test_its_own_calls_are_no_pushes(self):
        self.go_on(2)
        self.assertEqual(sum(self.lateness.counts), 0)
