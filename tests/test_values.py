import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clockd.values import (
    ACKNOWLEDGEMENT_BOUNDS,
    CLOSE_REASONS,
    LATENESS_BOUNDS,
    LOGIN_METHODS,
    LOGIN_RESULTS,
    PERIOD_RESULTS,
    SKIP_REASONS,
    Account,
    FeedTally,
    Histogram,
    Limits,
    Reading,
    Retained,
    Sample,
    Tally,
    is_period,
)


class PeriodsTests(SynchronousTestCase):
    @given(st.floats(min_value=0, exclude_min=True, allow_infinity=False) | st.integers(min_value=1))
    def test_every_finite_number_above_zero_is_one(self, period):
        self.assertTrue(is_period(period))

    @given(st.floats(max_value=0) | st.integers(max_value=0))
    def test_no_number_up_to_zero_is_one(self, number):
        self.assertFalse(is_period(number))

    @given(st.none() | st.booleans() | st.text() | st.binary() | st.lists(st.integers(1)) | st.complex_numbers())
    def test_nothing_that_is_no_number_is_one(self, value):
        self.assertFalse(is_period(value))

    def test_an_int_too_large_for_a_float_is_one_and_infinity_and_nan_are_none(self):
        self.assertTrue(is_period(10**400))
        self.assertFalse(is_period(math.inf))
        self.assertFalse(is_period(math.nan))

    def test_the_smallest_float_is_one(self):
        self.assertTrue(is_period(5e-324))


class FrozenTests(SynchronousTestCase):
    def test_values_cannot_be_changed(self):
        for value, field in (
            (Sample("time", None, 1.0, 1.0), "stamp"),
            (Reading("time", None, 1.0, 1.0, 2.0, None, math.inf), "received"),
            (Account("alice", "secret", bytes(16)), "verifier"),
            (Retained(1, 2.0, b""), "stamp"),
        ):
            with self.assertRaises(AttributeError):
                setattr(value, field, 5.0)

    def test_samples_with_the_same_fields_are_equal(self):
        self.assertEqual(Sample("time", None, 1.0, 1.0), Sample("time", None, 1.0, 1.0))
        self.assertNotEqual(Sample("time", None, 1.0, 1.0), Sample("time", None, 2.0, 1.0))

    def test_the_age_of_a_reading_runs_from_stamp_to_arrival(self):
        self.assertEqual(Reading("time", None, 100.0, 100.0, 100.25, None, math.inf).age, 0.25)
        self.assertEqual(Reading("time", None, 100.0, 100.0, 100.25, -0.125, 0.001).age, 0.125)


class LimitsTests(SynchronousTestCase):
    def test_the_default_period_may_be_the_shortest_and_the_longest(self):
        limits = Limits(default_period=2.0, min_period=2.0, max_period=2.0)
        self.assertEqual(limits.default_period, 2.0)

    def test_a_default_period_below_the_shortest_is_refused(self):
        with self.assertRaisesRegex(ValueError, r"default_period: 1\.99 lies outside min_period \(2\)"):
            Limits(default_period=1.99, min_period=2.0)

    def test_a_default_period_above_the_longest_is_refused(self):
        with self.assertRaisesRegex(ValueError, r"default_period: 3\.01 .* to max_period \(3\)"):
            Limits(default_period=3.01, max_period=3.0)


class HistogramTests(SynchronousTestCase):
    def test_an_observation_on_a_bound_counts_below_it_and_one_above_it_does_not(self):
        histogram = Histogram([0.5, 1.0])
        for seconds, counts in ((0.5, [1, 0, 0]), (0.75, [1, 1, 0]), (1.0, [1, 2, 0]), (1.25, [1, 2, 1])):
            histogram.observe(seconds)
            self.assertEqual(histogram.counts, counts)
        self.assertEqual(histogram.total, 3.5)

    def test_bounds_ascend_strictly(self):
        for bounds in (LATENESS_BOUNDS, ACKNOWLEDGEMENT_BOUNDS):
            self.assertEqual(list(bounds), sorted(set(bounds)))


class FeedTallyTests(SynchronousTestCase):
    @given(st.lists(st.floats(0.01, 86400.0), min_size=1))
    def test_the_last_subscription_to_end_leaves_no_rounding_error(self, periods):
        tally = FeedTally()
        for period in periods:
            tally.subscribed(period)
        self.assertEqual(tally.subscriptions, len(periods))
        self.assertAlmostEqual(tally.requested, sum(1 / period for period in periods))
        for period in periods:
            tally.unsubscribed(period)
        self.assertEqual((tally.subscriptions, tally.requested), (0, 0.0))

    def test_a_subscription_that_ends_takes_its_own_rate_with_it(self):
        tally = FeedTally()
        tally.subscribed(0.5)
        tally.subscribed(0.25)
        tally.unsubscribed(0.5)
        self.assertEqual((tally.subscriptions, tally.requested), (1, 4.0))


class TallyTests(SynchronousTestCase):
    def test_every_label_begins_at_zero(self):
        tally = Tally()
        self.assertEqual(tally.closed, dict.fromkeys(CLOSE_REASONS, 0))
        self.assertEqual(tally.periods, dict.fromkeys(PERIOD_RESULTS, 0))
        self.assertEqual(tally.feed("time").skipped, dict.fromkeys(SKIP_REASONS, 0))
        self.assertEqual(len(tally.logins), len(LOGIN_METHODS) * len(LOGIN_RESULTS))
        self.assertEqual(set(tally.logins.values()), {0})

    def test_the_counts_of_a_feed_are_made_once(self):
        tally = Tally()
        tally.feed("time").pushes += 1
        self.assertEqual(tally.feed("time").pushes, 1)
        self.assertEqual(list(tally.feeds), ["time"])

    def test_two_tallies_share_nothing(self):
        one, other = Tally(), Tally()
        one.closed["lost"] += 1
        one.lateness.observe(0.1)
        one.feed("time")
        self.assertEqual((other.closed["lost"], sum(other.lateness.counts), other.feeds), (0, 0, {}))
