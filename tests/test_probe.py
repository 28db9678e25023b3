import math

from doubles import EPOCH
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.probe import PATIENCE_SECONDS, SETTLING_SECONDS, look, verdict_of
from clockd.timekeeper import TimeInterval

UNKNOWN = TimeInterval(-math.inf, math.inf, "unknown", None, math.inf)


def interval(offset, bound):
    return TimeInterval(EPOCH - bound, EPOCH + bound, "synchronized", offset, bound)


class VerdictTests(SynchronousTestCase):
    def test_within_the_interval_it_can_be_right(self):
        self.assertEqual(
            verdict_of(interval(0.0008, 0.001), "alice@host", 0.0, False),
            (0, "this host's clock is 0.80 ms behind: within the interval [-0.20 ms, +1.80 ms] of alice@host"),
        )

    def test_outside_it_cannot(self):
        self.assertEqual(
            verdict_of(interval(-1.5, 0.25), "alice@host", 0.0, False),
            (1, "this host's clock is 1.50 s ahead: not within the interval [-1.75 s, -1.25 s] of alice@host"),
        )

    def test_the_ends_belong_to_it(self):
        for offset in (0.25, -0.25):
            self.assertEqual(verdict_of(interval(offset, 0.25), "host", 0.0, False).code, 0)
            self.assertEqual(verdict_of(interval(offset * 1.001, 0.25), "host", 0.0, False).code, 1)

    def test_a_tolerance_is_beyond_the_interval(self):
        found = verdict_of(interval(0.5, 0.25), "host", 0.25, False)
        self.assertEqual(found.code, 0)
        self.assertIn(": within 250.00 ms of the interval [+250.00 ms, +750.00 ms] of host", found.text)
        found = verdict_of(interval(-0.501, 0.25), "host", 0.25, False)
        self.assertEqual(found.code, 1)
        self.assertIn(": not within 250.00 ms of the interval", found.text)

    def test_utc_is_named(self):
        self.assertTrue(verdict_of(interval(0.0, 0.25), "host", 0.0, True).text.endswith(" of UTC, by host"))

    def test_what_is_not_known_is_never_good(self):
        for utc, why in ((False, "host exchanges no times"), (True, "host does not say how far its clock is from UTC")):
            for tolerance in (0.0, 1e300):
                found = verdict_of(UNKNOWN, "host", tolerance, utc)
                self.assertEqual(found, (2, f"not known whether this host's clock is right: {why}"))


class Client:
    """What a client is to the probe: it knows something from a moment on."""

    def __init__(self, clock, since):
        self.clock, self.since = clock, since

    def now(self, utc=False):
        return interval(0.5 if utc else 0.25, 0.1) if self.clock.seconds() >= self.since else UNKNOWN


class LookTests(SynchronousTestCase):
    def looked(self, since, utc=False):
        """Return what is found, and after how many seconds."""
        clock = Clock()
        done = Deferred.fromCoroutine(look(Client(clock, since), utc, clock))
        while not done.called:
            clock.advance(0.01)
        self.assertEqual(clock.getDelayedCalls(), [])
        return self.successResultOf(done), clock.seconds()

    def test_it_waits_for_the_exchanges_that_follow_a_login(self):
        found, seconds = self.looked(1.0)
        self.assertEqual(found, interval(0.25, 0.1))
        self.assertAlmostEqual(seconds, 1.0 + SETTLING_SECONDS, 1)

    def test_it_does_not_wait_for_ever(self):
        found, seconds = self.looked(1000.0)
        self.assertEqual(found, UNKNOWN)
        self.assertAlmostEqual(seconds, PATIENCE_SECONDS, 1)

    def test_utc_is_asked_for(self):
        self.assertEqual(self.looked(0.0, utc=True)[0], interval(0.5, 0.1))

    def test_ended_it_leaves_nothing(self):
        for since in (0.0, 1000.0):
            clock = Clock()
            done = Deferred.fromCoroutine(look(Client(clock, since), False, clock))
            clock.advance(0.2)
            done.cancel()
            self.failureResultOf(done, CancelledError)
            self.assertEqual(clock.getDelayedCalls(), [])
