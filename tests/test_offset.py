import math
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import InvalidValue
from clockd.offset import (
    LARGEST_STAMP,
    LATE_SECONDS,
    LIKELY_DRIFT,
    WINDOW,
    Estimate,
    Exchange,
    OffsetEstimator,
    Pushed,
)

UNIX = 1_800_000_000.0
TICK = math.ulp(UNIX)
ROUNDING = 6 * TICK
DRIFT = 50e-6
NOTHING = Estimate(0.0, -math.inf, math.inf)


def exchange(sent, there=0.010, back=0.010, ahead=UNIX, taking=0.0):
    """Return an exchange with a server whose clock is `ahead` of the local one; neither drifts."""
    received = sent + there + ahead
    return Exchange(sent, received, received + taking, sent + there + taking + back)


class EstimatorCase(SynchronousTestCase):
    def setUp(self):
        self.estimator = OffsetEstimator(DRIFT)

    def check(self, at, offset, bound):
        """Compare what is known of the offset less `UNIX`, to 30 µs."""
        found = self.estimator.estimate(at)
        self.assertApproximates(found.offset - UNIX, offset, 3e-5)
        self.assertApproximates(found.bound, bound, 3e-5)


class ExchangeTests(SynchronousTestCase):
    def test_offset_and_delay_are_those_of_rfc_5905(self):
        one = Exchange(sent=10.0, received=1010.25, transmitted=1010.5, arrived=11.25)
        self.assertEqual(one.offset, 999.75)
        self.assertEqual(one.delay, 1.0)

    def test_ways_of_the_same_length_give_the_true_offset(self):
        one = exchange(5.0, there=0.25, back=0.25, ahead=1000.0, taking=3.0)
        self.assertEqual((one.offset, one.delay), (1000.0, 0.5))

    def test_ways_of_different_lengths_put_the_offset_wrong_by_half_the_difference(self):
        one = exchange(5.0, there=0.5, back=0.0, ahead=1000.0)
        self.assertEqual((one.offset, one.delay), (1000.25, 0.5))


class OneExchangeTests(EstimatorCase):
    def test_at_first_nothing_is_known(self):
        self.assertEqual(self.estimator.estimate(7.0), NOTHING)

    def test_the_bound_is_half_the_delay(self):
        self.assertTrue(self.estimator.exchanged(exchange(0.0)))
        self.check(0.020, 0.0, 0.010)

    def test_what_the_server_takes_does_not_count(self):
        self.estimator.exchanged(exchange(0.0, taking=0.5))
        self.check(0.520, 0.5 * DRIFT / 2, 0.010 + 0.52 * DRIFT / 2)

    def test_each_limit_is_of_the_moment_of_its_message(self):
        self.estimator.exchanged(exchange(0.0, taking=1000.0))
        found = self.estimator.estimate(1000.020)
        self.assertApproximates(found.lowest - UNIX, -0.010, 1e-5)
        self.assertApproximates(found.highest - UNIX, 0.010 + 1000.02 * DRIFT, 1e-5)

    def test_the_bound_grows_by_the_drift(self):
        self.estimator.exchanged(exchange(0.0))
        self.check(100.0, 0.0, 0.015)
        self.check(1000.0, 0.0, 0.060)

    def test_a_moment_before_the_message_is_as_uncertain_as_one_after_it(self):
        self.estimator.exchanged(exchange(1000.0))
        self.check(0.0, 0.0, 0.060)
        self.check(2000.0, 0.0, 0.060)

    def test_what_is_forgotten_is_not_known(self):
        self.estimator.exchanged(exchange(0.0))
        self.estimator.forget()
        self.assertEqual(self.estimator.estimate(1.0), NOTHING)

    def test_a_drift_that_no_clock_has_is_refused(self):
        for drift in (-1e-9, 1.0, 50.0, math.nan):
            self.assertRaises(ValueError, OffsetEstimator, drift)
        self.assertEqual(OffsetEstimator(0.0).estimate(0.0), NOTHING)


class SeveralExchangesTests(EstimatorCase):
    def test_each_way_takes_its_shortest(self):
        self.estimator.exchanged(exchange(0.0, there=0.001, back=0.090))
        self.estimator.exchanged(exchange(0.1, there=0.090, back=0.001))
        self.check(0.2, 0.0, 0.001 + 0.15 * DRIFT)

    def test_one_that_is_slower_changes_nothing(self):
        self.estimator.exchanged(exchange(0.0))
        before = self.estimator.estimate(1.0)
        self.estimator.exchanged(exchange(0.5, there=0.2, back=0.2))
        self.assertEqual(self.estimator.estimate(1.0), before)

    def test_what_a_fast_one_said_holds_for_a_window_at_least_and_two_at_most(self):
        self.estimator.exchanged(exchange(0.0, there=0.001, back=0.001))
        slow = {"there": 0.5, "back": 0.5}
        for n in range(1, 16):
            at = n * WINDOW / 8
            self.estimator.exchanged(exchange(at, **slow))
            bound = self.estimator.estimate(at + 1).bound
            self.assertLess(bound, 0.01)
        self.estimator.exchanged(exchange(2 * WINDOW, **slow))
        self.estimator.exchanged(exchange(2 * WINDOW + 1, **slow))
        bound = self.estimator.estimate(2 * WINDOW + 2).bound
        self.assertGreater(bound, 0.5)

    def test_without_a_later_one_it_holds_on(self):
        self.estimator.exchanged(exchange(0.0))
        self.check(10_000.0, 0.0, 0.510)

    def test_one_that_contradicts_takes_the_place_of_all(self):
        for step in (3600.0, 0.1, -0.1, -3600.0):
            self.estimator.replace(exchange(0.0))
            self.estimator.exchanged(exchange(WINDOW + 1))
            self.assertFalse(self.estimator.exchanged(exchange(WINDOW + 2, ahead=UNIX + step)))
            self.check(WINDOW + 2.02, step, 0.010)

    def test_a_step_of_less_than_the_delay_is_no_contradiction(self):
        self.estimator.exchanged(exchange(0.0))
        self.assertTrue(self.estimator.exchanged(exchange(0.1, ahead=UNIX + 0.019)))
        self.assertFalse(self.estimator.exchanged(exchange(0.2, ahead=UNIX + 0.050)))

    def test_one_replaces_all(self):
        self.estimator.exchanged(exchange(0.0, there=0.0, back=0.0))
        self.estimator.replace(exchange(1.0))
        self.check(1.02, 0.0, 0.010)


class LikelyTests(EstimatorCase):
    """Which of the possible offsets is told."""

    def test_the_bound_reaches_to_the_farther_end(self):
        self.estimator.exchanged(exchange(0.0, there=0.010, back=0.030))
        for at, stamp in ((5.0, UNIX + 4.995), (10.0, UNIX + 9.999)):
            self.estimator.pushed(stamp, at)
            found = self.estimator.estimate(at)
            self.assertEqual(found.bound, max(found.offset - found.lowest, found.highest - found.offset))
            self.assertGreater(found.bound, (found.highest - found.lowest) / 2 + 5e-5)

    def test_between_exchanges_pushes_draw_it_no_further_than_clocks_are_likely_to_drift(self):
        self.estimator.exchanged(exchange(0.0))
        for at in range(1, 7):
            self.estimator.pushed(UNIX + at - 0.010, at)
        found = self.estimator.estimate(6.0)
        self.assertApproximates(found.offset - UNIX, 6 * LIKELY_DRIFT / 2, 3e-6)
        self.assertApproximates(found.highest - UNIX, 0.010 + 6 * DRIFT, 3e-6)
        self.assertApproximates(found.lowest - UNIX, -0.010, 3e-6)

    def test_without_messages_it_stays(self):
        self.estimator.exchanged(exchange(0.0, there=0.010, back=0.030))
        for at in (0.04, 6.0, 3600.0):
            self.assertApproximates(self.estimator.estimate(at).offset - UNIX, -0.010, 3e-6)

    def test_one_slow_exchange_does_not_draw_it(self):
        self.estimator.exchanged(exchange(0.0, there=0.0001, back=0.0001))
        self.estimator.exchanged(exchange(6.0, there=0.0001, back=0.3))
        self.assertApproximates(self.estimator.estimate(6.4).offset - UNIX, 0.0, 6.4 * LIKELY_DRIFT / 2)

    def test_it_follows_clocks_that_drift_more_than_is_likely(self):
        quick = {"there": 1e-5, "back": 1e-5}
        for sign in (-1, 1):
            self.estimator.forget()
            for at in (0.0, 50.0):
                self.estimator.exchanged(exchange(at, ahead=UNIX + sign * 40e-6 * at, **quick))
            self.assertApproximates(self.estimator.estimate(50.0).offset - UNIX, sign * 0.002, 3e-6)

    def test_what_was_said_before_the_last_window_says_nothing_of_it(self):
        self.estimator.exchanged(exchange(0.0, there=0.0, back=0.2))
        for at in (1.0, 1.0 + 1.1 * WINDOW, 1.0 + 2.2 * WINDOW):
            self.estimator.exchanged(exchange(at, there=0.2, back=0.2))
        self.check(140.0 + 2.0 * WINDOW, 0.0, 0.2 + (139.0 - 0.2 * WINDOW) * DRIFT)

    def test_clocks_that_drift_less_than_is_likely_are_likely_to_drift_as_much_as_they_may(self):
        self.estimator = OffsetEstimator(1e-6)
        self.estimator.exchanged(exchange(0.0))
        self.estimator.pushed(UNIX + 999.990, 1000.0)
        self.assertApproximates(self.estimator.estimate(1000.0).offset - UNIX, 0.0005, 3e-6)


class NonsenseTests(EstimatorCase):
    def setUp(self):
        super().setUp()
        self.estimator.exchanged(exchange(0.0))

    def check_refused(self, *stamps):
        before = self.estimator.estimate(9.0)
        self.assertRaises(InvalidValue, self.estimator.exchanged, Exchange(*stamps))
        self.assertRaises(InvalidValue, self.estimator.replace, Exchange(*stamps))
        self.assertEqual(self.estimator.estimate(9.0), before)

    def test_stamps_that_are_no_times_are_refused(self):
        for wrong in (math.nan, math.inf, -math.inf, LARGEST_STAMP, -1e308):
            self.check_refused(1.0, wrong, UNIX, 2.0)
            self.check_refused(1.0, UNIX, wrong, 2.0)
            self.assertRaises(InvalidValue, self.estimator.pushed, wrong, 1.0)

    def test_an_answer_from_before_its_question_is_refused(self):
        self.check_refused(2.0, UNIX, UNIX, 1.0)
        self.check_refused(2.0, UNIX + 5, UNIX, 1.0)
        self.check_refused(1.0, UNIX, UNIX + 1.001, 2.0)
        self.check_refused(1.0, -1e12, 1e12, 2.0)
        self.check_refused(math.nan, UNIX, UNIX, 2.0)

    def test_a_delay_below_zero_is_true_if_the_clocks_drift_meanwhile(self):
        estimator = OffsetEstimator(DRIFT)
        self.assertTrue(estimator.exchanged(Exchange(0.0, UNIX, UNIX + 1000.049, 1000.0)))
        self.assertRaises(InvalidValue, estimator.exchanged, Exchange(0.0, UNIX, UNIX + 1000.051, 1000.0))

    def test_one_of_no_delay_may_seem_to_have_one_below_zero_by_rounding(self):
        self.assertTrue(self.estimator.exchanged(Exchange(1.0, UNIX + 1, UNIX + 1 + TICK, 1.0)))
        self.check_refused(1.0, UNIX + 1, UNIX + 1 + 8 * TICK, 1.0)

    def test_the_largest_stamps_do_no_harm(self):
        largest = math.nextafter(LARGEST_STAMP, 0.0)
        for stamp in (largest, -largest):
            self.estimator.exchanged(Exchange(1.0, stamp, stamp, 2.0))
            found = self.estimator.estimate(2.0)
            self.assertTrue(found.lowest <= stamp - 1.5 <= found.highest)


class PushTests(EstimatorCase):
    def setUp(self):
        super().setUp()
        self.estimator.exchanged(exchange(0.0, back=0.030))

    def test_one_that_was_faster_than_any_before_makes_the_bound_narrower(self):
        self.assertIs(self.estimator.pushed(UNIX + 0.5, 0.510), Pushed.FINE)
        self.check(0.510, 0.51 * LIKELY_DRIFT / 2, 0.010 + 0.51 * DRIFT)

    def test_one_that_was_slower_changes_nothing(self):
        before = self.estimator.estimate(1.0)
        self.assertIs(self.estimator.pushed(UNIX + 0.5, 0.579), Pushed.FINE)
        self.assertEqual(self.estimator.estimate(1.0), before)

    def test_one_from_what_is_the_future_proves_a_step_and_all_is_forgotten(self):
        for seconds in (0.05, 0.1, 3600.0):
            self.estimator.replace(exchange(0.0, back=0.030))
            self.assertIs(self.estimator.pushed(UNIX + seconds + 0.5, 0.510), Pushed.STEPPED)
            self.assertEqual(self.estimator.estimate(0.6), NOTHING)

    def test_one_from_the_latest_possible_moment_does_not(self):
        self.assertIs(self.estimator.pushed(UNIX + 0.5 + 0.0099, 0.5), Pushed.FINE)

    def test_one_from_just_after_it_does(self):
        self.assertIs(self.estimator.pushed(UNIX + 0.5 + 0.0101, 0.5), Pushed.STEPPED)

    def test_after_a_step_the_push_is_the_first_limit(self):
        self.estimator.pushed(UNIX + 10.5, 0.510)
        self.assertTrue(self.estimator.exchanged(exchange(0.6, back=0.030, ahead=UNIX + 10.0)))
        self.check(0.640, 10.0, 0.010)

    def test_a_late_one_leaves_room_for_a_step_back(self):
        for seconds in (0.1, 1.0, 3600.0):
            self.estimator.replace(exchange(0.0, back=0.030))
            self.assertIs(self.estimator.pushed(UNIX + 0.5 - seconds, 0.530), Pushed.SUSPECT)
            found = self.estimator.estimate(0.530)
            self.assertLess(found.lowest, UNIX - seconds)
            self.assertGreater(found.highest, UNIX)

    def test_that_it_was_late_is_more_likely_than_that(self):
        before = self.estimator.estimate(0.530)
        for stamp in (UNIX + 0.4, UNIX - 3600.0):
            self.estimator.pushed(stamp, 0.530)
            self.check(0.530, before.offset - UNIX, before.offset - (stamp - 0.530))

    def test_late_is_what_is_later_than_possible_by_more_than_late_seconds(self):
        self.assertIs(self.estimator.pushed(UNIX + 0.5, 0.529 + LATE_SECONDS), Pushed.FINE)
        self.assertIs(self.estimator.pushed(UNIX + 0.5, 0.531 + LATE_SECONDS), Pushed.SUSPECT)

    def test_after_one_that_was_only_late_all_is_as_before(self):
        self.estimator.pushed(UNIX + 0.5, 0.9)
        self.assertIs(self.estimator.pushed(UNIX + 0.97, 1.0), Pushed.FINE)
        self.check(1.0, -0.010, 0.020 + DRIFT)

    def test_one_late_push_after_another_is_suspect(self):
        for n in range(1, 5):
            self.assertIs(self.estimator.pushed(UNIX + n - 0.2, n + 0.030), Pushed.SUSPECT)
        self.estimator.exchanged(exchange(5.0, back=0.030))
        self.assertIs(self.estimator.pushed(UNIX + 6.0, 6.030), Pushed.FINE)

    def test_an_exchange_after_it_tells_whether_there_was_a_step_back(self):
        for step in (-3600.0, -0.1, 0.0):
            self.estimator.replace(exchange(0.0, back=0.030))
            self.estimator.pushed(UNIX + 0.5 + step, 0.8)
            answered = exchange(0.9, ahead=UNIX + step, back=0.030)
            self.assertIs(self.estimator.exchanged(answered), step == 0.0)
            self.check(0.940, -0.010 + step, 0.020)

    def test_after_an_exchange_as_slow_as_it_was_such_a_push_is_expected(self):
        self.assertIs(self.estimator.pushed(UNIX + 0.5, 0.590), Pushed.SUSPECT)
        self.estimator.exchanged(exchange(0.6, there=0.090, back=0.090))
        self.assertIs(self.estimator.pushed(UNIX + 1.0, 1.090), Pushed.FINE)

    def test_it_tells_so_too_if_one_push_was_later_than_the_other(self):
        for delay in (0.2, 5.0):
            self.assertIs(self.estimator.pushed(UNIX + 0.4, 0.5 + delay), Pushed.SUSPECT)
        self.assertFalse(self.estimator.exchanged(exchange(6.0, ahead=UNIX - 0.1)))

    def test_one_that_is_later_still_leaves_room_for_that(self):
        self.estimator.pushed(UNIX + 0.5, 0.7)
        self.assertIs(self.estimator.pushed(UNIX + 0.5, 5.0), Pushed.SUSPECT)
        self.assertLess(self.estimator.estimate(5.0).lowest, UNIX - 4.5)

    def test_a_late_one_leaves_room_even_if_the_limits_are_of_two_windows(self):
        self.estimator.exchanged(exchange(WINDOW + 1))
        self.assertIs(self.estimator.pushed(UNIX + WINDOW + 2 - 3600, WINDOW + 2), Pushed.SUSPECT)
        self.assertLessEqual(self.estimator.estimate(WINDOW + 2).lowest, UNIX - 3600)

    def test_what_is_late_is_told_by_the_limits_of_two_windows(self):
        self.estimator.replace(exchange(0.0, back=0.001))
        for at in (1.0, WINDOW + 2):
            self.estimator.exchanged(exchange(at, there=0.1, back=0.1 if at > 1 else 0.001))
        for at in (WINDOW + 3, WINDOW + 4):
            self.assertIs(self.estimator.pushed(UNIX + at - 0.080, at), Pushed.SUSPECT)

    def test_another_server_is_not_held_against_what_was_late_before(self):
        self.estimator.pushed(UNIX + 0.5, 0.9)
        self.estimator.replace(exchange(1.0, ahead=UNIX - 3600.0))
        self.assertIs(self.estimator.pushed(UNIX - 3600.0 + 2.0, 2.010), Pushed.FINE)

    def test_the_bound_has_room_for_the_rounding_of_larger_stamps(self):
        before, after = 2.0**31 - 1, 2.0**31 + 1
        self.estimator.replace(Exchange(0.0, before, before, 0.020))
        narrower = self.estimator.estimate(5.0).bound
        self.estimator.pushed(after, 2.060)
        more = self.estimator.estimate(5.0).bound - narrower
        self.assertEqual(more, 6 * (math.ulp(after) - math.ulp(before)))

    def test_before_the_first_exchange_there_is_no_upper_limit(self):
        self.estimator.forget()
        self.assertIs(self.estimator.pushed(UNIX, 0.0), Pushed.FINE)
        self.assertEqual(self.estimator.estimate(0.0), NOTHING)


NANO = 10**9
DRIFTS = st.integers(-50_000, 50_000)  # of the server's clock by the local one, in nanoseconds a second
DELAYS = st.one_of(st.integers(0, 1000), st.integers(0, 10**7), st.integers(0, 5 * NANO))


class World:
    """Two clocks of whole nanoseconds that drift, and what is true of them; the local one is the measure."""

    def __init__(self, drift, local, server):
        self.drift = drift
        self.local = local
        self.server = Fraction(server)

    def wait(self, nanoseconds):
        self.local += nanoseconds
        self.server += nanoseconds * (1 + Fraction(self.drift, NANO))

    def local_reading(self):
        return self.local / NANO

    def server_reading(self):
        return float(self.server / NANO)

    def exchange(self, there, taking, back):
        sent = self.local_reading()
        self.wait(there)
        received = self.server_reading()
        self.wait(taking)
        transmitted = self.server_reading()
        self.wait(back)
        return Exchange(sent, received, transmitted, self.local_reading())

    def push(self, delay):
        stamp = self.server_reading()
        self.wait(delay)
        return stamp, self.local_reading()

    def offset(self):
        return (self.server - self.local) / NANO


def outside(true, estimate):
    """Return by how many seconds the true offset lies outside the limits; below 0 if it does not."""
    return max(Fraction(estimate.lowest) - true, true - Fraction(estimate.highest))


EVENTS = st.one_of(
    st.tuples(st.just("exchange"), DELAYS, DELAYS, DELAYS),
    st.tuples(st.just("push"), DELAYS),
    st.tuples(st.just("wait"), st.one_of(DELAYS, st.integers(0, 1000 * NANO))),
    st.tuples(st.just("drift"), DRIFTS),
)


class TruthTests(SynchronousTestCase):
    @given(
        DRIFTS,
        st.integers(0, 10**8 * NANO),
        st.integers(1_500_000_000 * NANO, 2_200_000_000 * NANO),
        st.lists(EVENTS, max_size=40),
    )
    def test_the_true_offset_is_never_outside_the_limits_nor_the_likely_one(self, drift, local, server, events):
        world = World(drift, local, server)
        estimator = OffsetEstimator(DRIFT)
        moments = []
        for kind, *numbers in events:
            if kind == "wait":
                world.wait(*numbers)
            elif kind == "drift":
                (world.drift,) = numbers
            elif kind == "push":
                self.assertIsNot(estimator.pushed(*world.push(*numbers)), Pushed.STEPPED)
            else:
                self.assertTrue(estimator.exchanged(world.exchange(*numbers)))
            moments.append((world.local_reading(), world.offset()))
            for moment, true in moments:
                estimate = estimator.estimate(moment)
                if estimate != NOTHING:
                    self.assertLess(outside(true, estimate), 0)
                    self.assertLess(outside(Fraction(estimate.offset), estimate), 0)
                    self.assertLessEqual(abs(true - Fraction(estimate.offset)), estimate.bound)

    @given(st.sampled_from([-1, 1]), st.integers(0, 10**6 * NANO), st.lists(EVENTS.filter(lambda e: e[0] != "drift")))
    def test_it_is_not_for_clocks_that_drift_as_far_as_they_may_by_either_of_them(self, sign, local, events):
        world = World(0, local, int(UNIX) * NANO)
        world.drift = Fraction(1, 1 - sign * Fraction(50, 10**6)) * NANO - NANO  # the local one by the server's
        estimator = OffsetEstimator(DRIFT)
        self.assertTrue(estimator.exchanged(world.exchange(0, 0, 0)))
        for kind, *numbers in [*events, ("wait", 10**7 * NANO)]:
            if kind == "wait":
                world.wait(*numbers)
            elif kind == "push":
                self.assertIsNot(estimator.pushed(*world.push(*numbers)), Pushed.STEPPED)
            else:
                self.assertTrue(estimator.exchanged(world.exchange(*numbers)))
            self.assertLess(outside(world.offset(), estimator.estimate(world.local_reading())), 0)

    @given(st.lists(st.tuples(DELAYS, DELAYS, st.integers(0, 3 * NANO)), min_size=1, max_size=8))
    def test_the_limits_are_never_wider_than_what_the_fastest_exchange_gives(self, exchanges):
        world = World(0, 0, int(UNIX) * NANO)
        estimator = OffsetEstimator(DRIFT)
        widest = []
        for there, back, pause in exchanges:
            one = world.exchange(there, 0, back)
            estimator.exchanged(one)
            widest.append((one, one.delay / 2))
            world.wait(pause)
        now = world.local_reading()
        least = min(half + DRIFT * 1.0001 * ((now - one.sent) + (now - one.arrived)) / 2 for one, half in widest)
        found = estimator.estimate(now)
        self.assertLessEqual((found.highest - found.lowest) / 2, least + 2 * ROUNDING)

    @given(
        st.integers(-15_000, 15_000),
        st.lists(EVENTS.filter(lambda e: e[0] != "drift" and max(e[1:]) < LATE_SECONDS * NANO), max_size=40),
        st.integers(0, 20 * NANO),
    )
    def test_the_likely_offset_is_as_good_as_if_the_clocks_could_not_drift_more_than_is_likely(
        self, drift, events, after
    ):
        world = World(drift, 0, int(UNIX) * NANO)
        estimator, likely = OffsetEstimator(DRIFT), OffsetEstimator(LIKELY_DRIFT)
        one = world.exchange(0, 0, 10**6)
        estimator.exchanged(one), likely.exchanged(one)
        for kind, *numbers in events:
            if kind == "wait":
                world.wait(*numbers)
            elif kind == "push":
                push = world.push(*numbers)
                estimator.pushed(*push), likely.pushed(*push)
            else:
                one = world.exchange(*numbers)
                estimator.exchanged(one), likely.exchanged(one)
        world.wait(after)
        at = world.local_reading()
        self.assertApproximates(estimator.estimate(at).offset, likely.estimate(at).offset, 2 * TICK)
