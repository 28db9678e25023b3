import math
import sys

from doubles import EPOCH
from hypothesis import given
from hypothesis import strategies as st
from twisted.application.internet import TimerService
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clockd.errors import InvalidPeriod, InvalidValue
from clockd.feeds import LatestFeed
from clockd.interfaces import IFeed, ISink
from clockd.schedule import Schedule
from clockd.subscription import ChangeSubscription, Newest, Subscription
from clockd.values import Limits, Sample, Tally
from clockd.wire import MOST, ValueEncoder


@implementer(IFeed)
class CountingFeed:
    name = "load"

    def __init__(self):
        self.reads = 0

    def latest(self):
        self.reads += 1
        return Sample(self.name, self.reads, 0.0, None)


@implementer(ISink)
class ListSink:
    def __init__(self):
        self.samples = []
        self.open = True

    def push(self, sample):
        self.samples.append(sample.sequence)
        return self.open


class SubscriptionCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.sink = ListSink()
        self.tally = Tally()
        self.limits = Limits(default_period=1.0, min_period=0.5, max_period=8.0)
        self.subscription = self.subscribe()
        self.counts = self.tally.feeds["load"]

    def subscribe(self):
        return Subscription(
            Newest(CountingFeed(), Schedule(self.clock, self.tally.lateness), self.tally), self.sink, self.limits
        )


class PushingTests(SubscriptionCase):
    def test_nothing_happens_before_the_start(self):
        self.clock.advance(5.0)
        self.assertEqual((self.sink.samples, self.counts.subscriptions), ([], 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_start_pushes_at_once_and_then_each_period_the_newest_sample(self):
        self.subscription.start()
        self.assertEqual(self.sink.samples, [1])
        self.clock.advance(0.99)
        self.assertEqual(self.sink.samples, [1])
        self.clock.pump([0.01, 1.0])
        self.assertEqual(self.sink.samples, [1, 2, 3])

    def test_starting_twice_pushes_and_counts_once(self):
        self.subscription.start()
        self.subscription.start()
        self.assertEqual((self.sink.samples, self.counts.subscriptions, self.counts.requested), ([1], 1, 1.0))

    def test_its_timer_is_a_timer_service_that_runs_as_long_as_it_does(self):
        timer = self.subscription.timer
        self.assertIsInstance(timer, TimerService)
        self.assertFalse(timer.running)
        self.subscription.start()
        self.assertTrue(timer.running)
        self.subscription.stop()
        self.assertFalse(timer.running)

    def test_stopping_ends_the_pushes_and_leaves_no_delayed_call(self):
        self.subscription.start()
        self.subscription.stop()
        self.subscription.stop()
        self.clock.advance(5.0)
        self.assertEqual((self.sink.samples, self.clock.getDelayedCalls()), ([1], []))
        self.assertEqual((self.counts.subscriptions, self.counts.requested), (0, 0.0))

    def test_stopping_what_never_started_counts_nothing(self):
        self.subscription.stop()
        self.assertEqual((self.counts.subscriptions, self.counts.requested), (0, 0.0))

    def test_a_stall_is_counted_as_skipped_and_pushes_once(self):
        self.subscription.start()
        self.clock.advance(4.5)
        self.assertEqual((self.sink.samples, self.counts.skipped["stall"]), ([1, 2], 3))
        self.clock.advance(0.5)
        self.assertEqual(self.counts.skipped["stall"], 3)

    def test_the_lateness_of_a_push_is_observed(self):
        self.subscription.start()
        self.clock.pump([1.25, 1.25])
        self.assertEqual(self.tally.lateness.total, 0.25 + 0.5)
        self.assertEqual(sum(self.tally.lateness.counts), 2)

    def test_the_lateness_of_a_push_that_was_skipped_is_not(self):
        self.subscription.start()
        self.sink.open = False
        self.clock.advance(1.25)
        self.assertEqual(self.sink.samples, [1, 2])
        self.assertEqual(sum(self.tally.lateness.counts), 0)


class SetPeriodTests(SubscriptionCase):
    def test_a_period_within_the_limits_is_granted_as_a_float(self):
        for period in (0.5, 1, 8.0):
            granted = self.subscription.set_period(period)
            self.assertEqual((granted, type(granted)), (period, float))
            self.assertEqual((self.subscription.period, self.subscription.timer.step), (period, period))
        self.assertEqual(self.tally.periods, {"granted": 3, "clamped": 0, "refused": 0})

    def test_a_period_outside_the_limits_is_clamped_and_the_answer_says_so(self):
        asked = (0.4999, 5e-324, 8.0001, 10**400)
        self.assertEqual([self.subscription.set_period(period) for period in asked], [0.5, 0.5, 8.0, 8.0])
        self.assertEqual(self.tally.periods, {"granted": 0, "clamped": 4, "refused": 0})

    def test_what_is_no_period_is_refused_and_the_old_one_stays(self):
        self.subscription.start()
        self.subscription.set_period(2.0)
        refused = (0, -1.0, math.nan, math.inf, -math.inf, True, "1", b"1", None, [1.0])
        for period in refused:
            with self.assertRaisesRegex(InvalidPeriod, "finite number of seconds greater than 0"):
                self.subscription.set_period(period)
        self.assertEqual((self.subscription.period, self.subscription.timer.step), (2.0, 2.0))
        self.assertEqual(self.tally.periods, {"granted": 1, "clamped": 0, "refused": len(refused)})
        self.assertEqual(self.counts.requested, 0.5)
        self.clock.advance(2.0)
        self.assertEqual(self.sink.samples, [1, 2])

    def test_a_change_pushes_nothing_and_the_next_push_comes_one_new_period_later_at_most(self):
        self.subscription.start()
        self.clock.advance(0.75)
        self.subscription.set_period(0.5)
        self.assertEqual(self.sink.samples, [1])
        self.clock.advance(0.24)
        self.assertEqual(self.sink.samples, [1])
        self.clock.advance(0.26)
        self.assertEqual(self.sink.samples, [1, 2])

    def test_a_change_while_it_runs_changes_the_rate_requested(self):
        self.subscription.start()
        self.subscription.set_period(0.5)
        self.assertEqual((self.counts.subscriptions, self.counts.requested), (1, 2.0))
        self.subscription.stop()
        self.assertEqual((self.counts.subscriptions, self.counts.requested), (0, 0.0))

    def test_a_change_before_the_start_counts_no_rate_and_holds_from_the_start(self):
        self.subscription.set_period(4.0)
        self.assertEqual(self.counts.requested, 0.0)
        self.subscription.start()
        self.assertEqual(self.counts.requested, 0.25)
        self.clock.pump([3.99, 0.01])
        self.assertEqual(self.sink.samples, [1, 2])

    def test_subscriptions_of_one_feed_add_up(self):
        other = self.subscribe()
        self.subscription.start()
        other.start()
        other.set_period(0.5)
        self.assertEqual((self.counts.subscriptions, self.counts.requested), (2, 3.0))
        other.stop()
        self.assertEqual((self.counts.subscriptions, self.counts.requested), (1, 1.0))

    @given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 8.0]), max_size=30))
    def test_changes_alone_push_nothing(self, periods):
        sink = ListSink()
        subscription = Subscription(
            Newest(CountingFeed(), Schedule(Clock(), self.tally.lateness), Tally()), sink, self.limits
        )
        subscription.start()
        for period in periods:
            subscription.set_period(period)
        self.assertEqual(sink.samples, [1])


class ChangeCase(SynchronousTestCase):
    period, max_silence = 1.0, 8.0

    def setUp(self):
        self.clock, self.tally, self.sink = Clock(), Tally(), ListSink()
        self.counts = self.tally.feed("load")
        self.feed = LatestFeed("load", ValueEncoder(b"pb").encode, self.counts, lambda: EPOCH + self.clock.seconds())
        self.schedule = Schedule(self.clock, self.tally.lateness)
        self.limits = Limits(default_period=self.period, min_period=0.25, max_silence=self.max_silence)
        self.subscription = self.subscribe()

    def subscribe(self):
        return ChangeSubscription(Newest(self.feed, self.schedule, self.tally), self.sink, self.limits)

    def skipped(self, reason="unchanged"):
        return self.counts.skipped[reason]

    def ticks(self, number):
        """Let so many periods pass, and return the numbers of the samples that were pushed."""
        before = len(self.sink.samples)
        self.clock.pump([self.period] * number)
        return self.sink.samples[before:]


class ChangeTests(ChangeCase):
    def test_the_start_pushes_what_there_is_and_a_tick_what_is_new(self):
        self.feed.publish(1)
        self.subscription.start()
        self.assertEqual(self.sink.samples, [1])
        self.feed.publish(2)
        self.feed.publish(3)
        self.assertEqual((self.ticks(1), self.skipped()), ([3], 0))

    def test_what_stays_the_same_is_skipped_and_each_time_counted(self):
        self.feed.publish(1)
        self.subscription.start()
        self.assertEqual((self.ticks(3), self.skipped()), ([], 3))
        self.feed.publish(1)
        self.assertEqual((self.ticks(2), self.skipped()), ([], 5))
        self.feed.publish(2)
        self.assertEqual((self.ticks(1), self.skipped()), ([3], 5))

    def test_what_changed_and_changed_back_between_two_ticks_is_none(self):
        self.feed.publish(1)
        self.subscription.start()
        self.feed.publish(2)
        self.feed.publish(1)
        self.assertEqual((self.ticks(2), self.skipped()), ([], 2))

    def test_what_stays_the_same_is_pushed_again_after_max_silence(self):
        self.feed.publish(1)
        self.subscription.start()
        self.assertEqual((self.ticks(7), self.skipped()), ([], 7))
        self.assertEqual((self.ticks(1), self.skipped()), ([1], 7))
        self.feed.publish(1)
        self.assertEqual((self.ticks(7), self.ticks(1), self.skipped()), ([], [2], 14))

    def test_a_push_of_news_begins_the_silence_anew(self):
        self.feed.publish(1)
        self.subscription.start()
        self.ticks(5)
        self.feed.publish(2)
        self.assertEqual((self.ticks(1), self.ticks(7), self.ticks(1)), ([2], [], [2]))

    def test_before_there_is_a_value_nothing_is_pushed_and_nothing_counted(self):
        self.subscription.start()
        self.assertEqual((self.ticks(20), set(self.counts.skipped.values())), ([], {0}))
        self.assertEqual(sum(self.tally.lateness.counts), 0)
        self.feed.publish(None)
        self.assertEqual((self.ticks(1), self.ticks(1), self.skipped()), ([1], [], 1))

    def test_one_that_is_started_again_within_a_period_is_pushed_at_its_first_tick(self):
        self.feed.publish(1)
        self.subscription.start()
        for _ in range(20):
            self.subscription.stop()
            self.subscription.start()
        self.assertEqual(self.sink.samples, [1])
        self.clock.advance(0.5)
        self.subscription.stop()
        self.subscription.start()
        self.assertEqual(self.sink.samples, [1])
        self.assertEqual((self.ticks(1), self.ticks(3)), ([1], []))

    def test_one_that_is_started_again_after_a_period_is_pushed_at_once_though_nothing_changed(self):
        self.feed.publish(1)
        self.subscription.start()
        self.subscription.stop()
        self.clock.advance(0.99)
        self.subscription.start()
        self.assertEqual(self.sink.samples, [1])
        self.subscription.stop()
        self.clock.advance(1)
        self.subscription.start()
        self.assertEqual(self.sink.samples, [1, 1])

    def test_starting_twice_pushes_once_and_forgets_nothing(self):
        self.feed.publish(1)
        self.subscription.start()
        self.ticks(1)
        self.subscription.start()
        self.assertEqual((self.sink.samples, self.ticks(1), self.skipped()), ([1], [], 2))

    def test_a_sample_that_the_sink_skipped_is_pulled_and_then_no_news(self):
        self.feed.publish(1)
        self.subscription.start()
        self.sink.open = False
        self.feed.publish(2)
        self.assertEqual(self.ticks(1), [2])  # offered once; then it is the sink that has to pull it
        self.assertEqual((self.ticks(3), self.skipped()), ([], 3))
        self.feed.publish(3)
        self.assertEqual(self.subscription.pull().sequence, 3)
        self.sink.open = True
        self.assertEqual((self.ticks(2), self.skipped()), ([], 5))

    def test_a_pull_begins_the_silence_anew(self):
        self.feed.publish(1)
        self.subscription.start()
        self.ticks(5)
        self.subscription.pull()
        self.assertEqual((self.ticks(7), self.ticks(1)), ([], [1]))

    def test_the_deadband_is_measured_from_what_was_pulled(self):
        self.subscription.deadband = 2.0
        self.feed.publish(10)
        self.subscription.start()
        self.feed.publish(12)
        self.subscription.pull()
        self.feed.publish(14)
        self.assertEqual(self.ticks(1), [])
        self.feed.publish(15)
        self.assertEqual(self.ticks(1), [4])

    def test_missed_periods_count_as_a_stall_and_are_pushed_for_once(self):
        self.feed.publish(1)
        self.subscription.start()
        self.feed.publish(2)
        self.clock.advance(4.5)
        self.assertEqual((self.sink.samples, self.skipped("stall"), self.skipped()), ([1, 2], 3, 0))
        self.clock.advance(2.5)
        self.assertEqual((self.sink.samples, self.skipped("stall"), self.skipped()), ([1, 2], 5, 1))

    def test_a_tick_tells_the_schedule_of_no_lateness_because_the_sink_does(self):
        self.feed.publish(1)
        self.subscription.start()
        self.feed.publish(2)
        self.clock.advance(1.25)
        self.assertEqual((self.sink.samples, sum(self.tally.lateness.counts)), ([1, 2], 0))

    def test_a_change_of_the_period_pushes_nothing_by_itself(self):
        self.feed.publish(1)
        self.subscription.start()
        for period in (0.5, 2.0, 1.0):
            self.feed.publish(period)
            self.subscription.set_period(period)
        self.assertEqual(self.sink.samples, [1])
        self.assertEqual(self.ticks(1), [4])


class DeadbandTests(ChangeCase):
    def news(self, deadband, before, after):
        """Tell whether a value is pushed after another, where this deadband is in force."""
        subscription, self.sink.samples = self.subscribe(), []
        subscription.deadband = subscription.deadband_for(deadband)
        self.feed.publish(before)
        subscription.start()
        self.feed.publish(after)
        self.clock.advance(1)
        subscription.stop()
        self.clock.advance(1)
        return len(self.sink.samples) == 2

    def test_a_number_is_pushed_if_it_is_farther_than_the_deadband_and_not_on_it(self):
        for deadband, before, near, far in (
            *((2, 10, 12, 12.000001), (2, 10, 8, 7.999999), (0.5, 1.0, 1.5, 1.5000001), (2, -1, 1, 2)),
            *((2.0**70, 2**71, 2**71 + 2**70, 2**71 + 2**70 + 2**20), (1e300, 0.0, 1e300, 1.0000001e300)),
            (1, 2**400, 2**400 + 1, 2**400 + 2),
            (5e-324, 0, 5e-324, 1e-323),
            (sys.float_info.max, 0.0, sys.float_info.max, math.inf),
        ):
            self.assertFalse(self.news(deadband, before, near), (deadband, before, near))
            self.assertTrue(self.news(deadband, before, far), (deadband, before, far))

    def test_without_a_deadband_each_difference_is_news(self):
        for deadband in (None, 0, 0.0, -0.0):
            for before, after in ((1, 2), (1, 1.0), (0.0, -0.0), (1.0, math.nextafter(1, 2)), (2**400, 2**400 + 1)):
                self.assertTrue(self.news(deadband, before, after))
            self.assertFalse(self.news(deadband, 1, 1))

    def test_what_are_not_two_numbers_is_news_whatever_the_deadband(self):
        for before, after in (
            *((1, "1"), ("1", 1), (None, 0), (0, None), (True, False), (True, 1), (0, False), ([1], [1.0]), (b"", "")),
            *((1, math.nan), (math.nan, 1), (math.inf, 1), (1, -math.inf), (math.inf, -math.inf), ({"a": 1}, {"a": 2})),
        ):
            self.assertTrue(self.news(1e308, before, after), (before, after))

    def test_what_is_the_same_is_no_news_even_if_it_does_not_equal_itself(self):
        for value in (math.nan, math.inf, -math.inf, "a", None, True, [1], MOST):
            for deadband in (None, 1):
                self.assertFalse(self.news(deadband, value, value), (deadband, value))

    def test_the_largest_numbers_have_a_distance(self):
        for before, after in ((MOST, -MOST), (-MOST, MOST), (MOST, 1.5), (sys.float_info.max, -MOST)):
            self.assertTrue(self.news(1e100, before, after))
        self.assertFalse(self.news(2.0**450, MOST, -MOST))
        self.assertTrue(self.news(1.0, sys.float_info.max, -sys.float_info.max))

    def test_it_is_measured_from_what_was_pushed_last_so_that_no_drift_is_overlooked(self):
        self.subscription.deadband = 1.0
        self.feed.publish(0)
        self.subscription.start()
        pushed = []
        for quarters in range(1, 21):
            self.feed.publish(quarters / 4)
            pushed += self.ticks(1) and [quarters]
        self.assertEqual(pushed, [5, 10, 15, 20])

    def test_what_is_pushed_after_a_silence_is_what_the_deadband_is_measured_from(self):
        self.subscription.deadband = 1.0
        self.feed.publish(0)
        self.subscription.start()
        self.feed.publish(1)
        self.assertEqual((self.ticks(7), self.ticks(1)), ([], [2]))
        self.feed.publish(2)
        self.assertEqual(self.ticks(1), [])
        self.feed.publish(2.5)
        self.assertEqual(self.ticks(1), [4])

    def test_a_finite_number_that_is_not_negative_is_one(self):
        for deadband, granted in ((0, 0.0), (0.0, 0.0), (5e-324, 5e-324), (1, 1.0), (2**400, 2.0**400)):
            self.assertEqual(self.subscription.deadband_for(deadband), granted)
            self.assertIs(type(self.subscription.deadband_for(deadband)), float)
        self.assertEqual(self.subscription.deadband_for(None), 0.0)

    def test_one_too_large_for_a_float_is_the_largest_float(self):
        for deadband in (10**400, sys.float_info.max):
            self.assertEqual(self.subscription.deadband_for(deadband), sys.float_info.max)

    def test_nothing_else_is_one(self):
        strange = (math.nan, math.inf, -math.inf, -1, -5e-324, -(10**400), True, False, "1", b"1", [], [1], (), {}, 1j)
        for deadband in strange:
            with self.assertRaisesRegex(InvalidValue, "^a deadband is a finite number of 0 or more$"):
                self.subscription.deadband_for(deadband)

    @given(st.one_of(st.integers(), st.floats(), st.none(), st.booleans(), st.text(max_size=2)))
    def test_whatever_is_asked_for_the_distance_is_one_or_it_is_refused(self, deadband):
        try:
            granted = self.subscription.deadband_for(deadband)
        except InvalidValue:
            return
        self.assertTrue(math.isfinite(granted) and granted >= 0)

    @given(*[st.one_of(st.integers(-MOST, MOST), st.floats(), st.booleans(), st.text(max_size=1))] * 2)
    def test_any_two_values_can_be_compared(self, before, after):
        self.setUp()
        self.assertIn(self.news(1.0, before, after), (True, False))

    def test_the_time_has_none(self):
        time = Subscription(Newest(CountingFeed(), self.schedule, self.tally), self.sink, self.limits)
        self.assertEqual(time.deadband_for(None), 0.0)
        for deadband in (0, 0.0, 1, False, "1"):
            with self.assertRaisesRegex(InvalidValue, "time is always new"):
                time.deadband_for(deadband)
