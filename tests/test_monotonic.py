import time

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.monotonic import make_monotonic

WALL = 1.7e9


class MakeMonotonicTests(SynchronousTestCase):
    def setUp(self):
        self.reactor = Clock()
        self.reactor.advance(WALL)

    def due_in(self, call):
        """Return bounds, in seconds from the call of `make_monotonic`, between which `call` is due."""
        before = time.monotonic()
        make_monotonic(self.reactor)
        after = time.monotonic()
        return call.getTime() - after, call.getTime() - before

    def test_the_reactor_measures_with_the_monotonic_clock(self):
        make_monotonic(self.reactor)
        self.assertIs(self.reactor.seconds, time.monotonic)

    def test_a_call_that_is_pending_keeps_the_seconds_it_has_left(self):
        call = self.reactor.callLater(50.0, list)
        self.reactor.advance(20.0)
        low, high = self.due_in(call)
        self.assertLessEqual(low, 30.0 + 1e-3)
        self.assertGreaterEqual(high, 30.0 - 1e-3)

    def test_a_call_that_was_delayed_keeps_what_it_was_delayed_by(self):
        call = self.reactor.callLater(50.0, list)
        call.delay(25.0)
        low, high = self.due_in(call)
        self.assertLessEqual(low, 75.0 + 1e-3)
        self.assertGreaterEqual(high, 75.0 - 1e-3)

    def test_a_call_that_is_overdue_is_due_now(self):
        call = self.reactor.callLater(1.0, list)
        self.reactor.rightNow += 100.0
        low, high = self.due_in(call)
        self.assertLessEqual(low, 0.0)
        self.assertGreaterEqual(high, 0.0)

    def test_a_call_can_still_be_delayed_and_cancelled(self):
        call = self.reactor.callLater(50.0, list)
        make_monotonic(self.reactor)
        call.reset(1e6)
        self.assertLess(abs(call.getTime() - time.monotonic() - 1e6), 100.0)
        call.cancel()
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_calls_made_later_are_timed_by_the_monotonic_clock(self):
        make_monotonic(self.reactor)
        call = self.reactor.callLater(1e6, list)
        self.assertLess(abs(call.getTime() - time.monotonic() - 1e6), 100.0)

    def test_a_second_time_changes_nothing(self):
        call = self.reactor.callLater(50.0, list)
        make_monotonic(self.reactor)
        due = call.getTime()
        make_monotonic(self.reactor)
        self.assertEqual(call.getTime(), due)
