import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.application.internet import TimerService
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clockd.errors import InvalidPeriod
from clockd.interfaces import IFeed, ISink
from clockd.schedule import Schedule
from clockd.subscription import Newest, Subscription
from clockd.values import Limits, Sample, Tally


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
