import math

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.probe import EXCHANGE_SECONDS, SETTLING_SECONDS, look, verdict_of
from clockd.timekeeper import TimeInterval

UNKNOWN = TimeInterval(-math.inf, math.inf, "unknown", None, math.inf, 0.0)


def interval(middle, half):
    """Return an interval whose middle this host's clock lacks so many seconds of; what is likely is at its end."""
    return TimeInterval(middle - half, middle + half, "synchronized", middle + half, 2 * half, 0.0)


class VerdictTests(SynchronousTestCase):
    def test_that_may_be_right_whose_interval_has_none(self):
        self.assertEqual(
            verdict_of(interval(0.0008, 0.001), "alice@host", 0.0, False),
            (0, "this host's clock is between 0.20 ms ahead and 1.80 ms behind alice@host: it may be right"),
        )
        self.assertEqual(
            verdict_of(interval(-0.0008, 0.001), "alice@host", 0.0, False),
            (0, "this host's clock is between 0.20 ms behind and 1.80 ms ahead of alice@host: it may be right"),
        )

    def test_any_other_is_wrong(self):
        for offset, way in ((1.5, "behind"), (-1.5, "ahead of")):
            self.assertEqual(
                verdict_of(interval(offset, 0.25), "alice@host", 0.0, False),
                (1, f"this host's clock is between 1.25 and 1.75 s {way} alice@host: it is wrong"),
            )

    def test_the_ends_can_be_told_apart(self):
        for bound, said in (
            (0.0002, "5.1998 and 5.2002 s"),
            (0.000_000_2, "5.1999998 and 5.2000002 s"),
            (0.0, "5.20 and 5.20 s"),
            (1e-15, "5.200000000 and 5.200000000 s"),
            (2.0, "3.20 and 7.20 s"),
        ):
            self.assertIn(
                f" between {said} behind host: it is wrong", verdict_of(interval(5.2, bound), "host", 0, False).text
            )

    def test_the_nearer_end_can_be_told_from_what_is_allowed(self):
        text = verdict_of(interval(0.100_001, 0.1), "host", 0.0, False).text
        self.assertIn(" between 0.001 and 200.001 ms behind host: it is wrong", text)
        text = verdict_of(interval(1.6003, 0.1), "host", 1.5, False).text
        self.assertIn(" between 1.5003 and 1.7003 s behind host: that is more than the 1.5 s allowed", text)

    def test_the_ends_belong_to_it(self):
        for offset in (0.25, -0.25):
            self.assertEqual(verdict_of(interval(offset, 0.25), "host", 0.0, False).code, 0)
            self.assertEqual(verdict_of(interval(offset * 1.001, 0.25), "host", 0.0, False).code, 1)

    def test_a_tolerance_is_told(self):
        for offset, code, said in (
            (0.25, 0, "is within"),
            (-0.5, 0, "may be within"),
            (0.75, 0, "may be within"),
            (-0.751, 1, "is more than"),
        ):
            found = verdict_of(interval(offset, 0.25), "host", 0.5, False)
            self.assertEqual(found.code, code)
            self.assertTrue(found.text.endswith(f": that {said} the 0.5 s allowed"), found.text)

    def test_utc_is_named(self):
        self.assertIn(" behind UTC, by host: it may be right", verdict_of(interval(0.1, 0.25), "host", 0.0, True).text)

    def test_what_is_not_known_is_never_good(self):
        for found, utc, why in (
            (None, False, "host answers no exchange of times"),
            (None, True, "host answers no exchange of times"),
            (UNKNOWN, False, "host answers no exchange of times"),
            (UNKNOWN, True, "host does not say how far its clock is from UTC"),
        ):
            for tolerance in (0.0, 1e300):
                self.assertEqual(
                    verdict_of(found, "host", tolerance, utc),
                    (2, f"not known whether this host's clock is right: {why}"),
                )


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
        self.assertIsNone(found)
        self.assertAlmostEqual(seconds, EXCHANGE_SECONDS, 1)

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
