import itertools

from hypothesis import given
from hypothesis import strategies as st
from twisted.application.internet import TimerService
from twisted.application.service import IService, MultiService
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.schedule import Schedule, ScheduledTimer

# whole numbers of 1/1024 s are exact as floats, so that properties hold to the last call
exact_seconds = st.integers(1, 8192).map(lambda number: number / 1024)


def nothing(*args):
    pass


class ScheduleTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.schedule = Schedule(self.clock)
        self.calls = []

    def join(self, period):
        return self.schedule.join(period, lambda due, missed: self.calls.append((due, missed)))

    def test_the_first_call_comes_one_period_after_joining(self):
        self.clock.advance(100.0)
        self.join(2.0)
        self.clock.advance(1.99)
        self.assertEqual(self.calls, [])
        self.clock.advance(0.01)
        self.assertEqual(self.calls, [(102.0, 0)])

    @given(exact_seconds, st.lists(exact_seconds, max_size=50))
    def test_calls_and_missed_periods_add_up_to_the_time_that_passed(self, period, advances):
        clock, calls = Clock(), []
        Schedule(clock).join(period, lambda due, missed: calls.append((due, missed)))
        clock.pump(advances)
        self.assertEqual(sum(1 + missed for _, missed in calls), sum(advances) // period)
        self.assertTrue(all(due % period == 0 for due, _ in calls))

    @given(exact_seconds, st.lists(exact_seconds, max_size=50))
    def test_one_advance_of_the_clock_causes_one_call_at_most(self, period, advances):
        clock, calls = Clock(), []
        Schedule(clock).join(period, lambda *call: calls.append(call))
        for seconds in advances:
            before = len(calls)
            clock.advance(seconds)
            self.assertLessEqual(len(calls) - before, 1)

    def test_a_stall_is_counted_and_not_made_up_for(self):
        self.join(1.0)
        self.clock.advance(5.5)
        self.assertEqual(self.calls, [(5.0, 4)])
        self.clock.advance(0.5)
        self.assertEqual(self.calls[1:], [(6.0, 0)])

    def test_a_call_just_under_one_period_late_has_missed_nothing_and_one_period_late_has(self):
        for late, missed in ((0.999, 0), (1.0, 1)):
            self.calls.clear()
            membership = self.join(1.0)
            self.clock.advance(1.0 + late)
            self.assertEqual([missed for _, missed in self.calls], [missed])
            membership.leave()

    def test_ten_thousand_calls_do_not_drift(self):
        self.join(0.1)
        late = [0.0, 0.013, 0.05, 0.099]
        for number in range(1, 10_001):
            self.clock.advance(number * 0.1 + late[number % 4] - self.clock.seconds() + 1e-7)
        self.assertEqual(len(self.calls), 10_000)
        self.assertLess(abs(self.calls[-1][0] - 1000.0), 1e-6)
        self.assertEqual(sum(missed for _, missed in self.calls), 0)

    def test_leaving_ends_the_calls_and_leaves_no_delayed_call(self):
        membership = self.join(1.0)
        self.clock.advance(1.0)
        membership.leave()
        membership.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.calls), 1)

    def test_members_do_not_disturb_each_other(self):
        first = self.join(1.0)
        self.clock.advance(0.5)
        self.join(1.0)
        first.leave()
        self.clock.advance(1.0)
        self.assertEqual(self.calls, [(1.5, 0)])


class ScheduledTimerTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.calls = []
        self.timer = ScheduledTimer(Schedule(self.clock), 1.0, self.call, "a", b="b")

    def call(self, *args, **kwargs):
        self.calls.append((self.clock.seconds(), args, kwargs))

    def times(self):
        return [seconds for seconds, _, _ in self.calls]

    def test_it_is_a_timer_service(self):
        self.assertIsInstance(self.timer, TimerService)
        self.assertTrue(verifyObject(IService, self.timer))
        self.assertEqual(self.timer.call, (self.call, ("a",), {"b": "b"}))
        self.assertIs(self.timer.clock, self.clock)
        self.assertEqual(self.timer.step, 1.0)

    def test_nothing_is_scheduled_before_the_start(self):
        self.assertFalse(self.timer.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_first_call_comes_one_step_after_the_start_with_its_arguments(self):
        self.timer.startService()
        self.assertTrue(self.timer.running)
        self.clock.advance(0.99)
        self.assertEqual(self.calls, [])
        self.clock.advance(0.01)
        self.assertEqual(self.calls, [(1.0, ("a",), {"b": "b"})])

    def test_starting_twice_calls_once_a_step(self):
        self.timer.startService()
        self.timer.startService()
        self.clock.advance(1.0)
        self.assertEqual(self.times(), [1.0])

    def test_a_parent_starts_and_stops_it(self):
        parent = MultiService()
        self.timer.setServiceParent(parent)
        parent.startService()
        self.clock.advance(1.0)
        self.successResultOf(parent.stopService())
        self.assertEqual(self.times(), [1.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_fires_at_once_and_leaves_no_delayed_call(self):
        self.timer.startService()
        self.clock.advance(2.5)
        self.assertIsNone(self.successResultOf(self.timer.stopService()))
        self.assertFalse(self.timer.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_before_the_start_and_twice_does_nothing(self):
        self.successResultOf(self.timer.stopService())
        self.timer.startService()
        self.timer.stopService()
        self.successResultOf(self.timer.stopService())
        self.assertFalse(self.timer.running)

    def test_stopping_within_a_call_leaves_no_delayed_call(self):
        timer = ScheduledTimer(Schedule(self.clock), 1.0, lambda: (self.call(), timer.stopService()))
        timer.startService()
        self.clock.pump([1.0, 1.0])
        self.assertEqual(self.times(), [1.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_started_again_it_waits_a_whole_step(self):
        self.timer.startService()
        self.clock.advance(1.0)
        self.timer.stopService()
        self.clock.advance(0.5)
        self.timer.startService()
        self.clock.pump([0.99, 0.01])
        self.assertEqual(self.times(), [1.0, 2.5])

    def test_a_step_assigned_before_the_start_holds(self):
        self.timer.step = 0.25
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.timer.startService()
        self.clock.advance(0.25)
        self.assertEqual(self.times(), [0.25])

    def test_a_longer_step_counts_from_the_last_call(self):
        self.timer.startService()
        self.clock.advance(1.0)
        self.clock.advance(0.5)
        self.timer.step = 4.0
        self.clock.advance(3.0)
        self.assertEqual(self.times(), [1.0])
        self.clock.advance(0.5)
        self.assertEqual(self.times(), [1.0, 5.0])

    def test_a_shorter_step_whose_call_would_be_past_counts_from_now(self):
        self.timer.step = 10.0
        self.timer.startService()
        self.clock.advance(5.0)
        self.timer.step = 1.0
        self.clock.advance(0.99)
        self.assertEqual(self.times(), [])
        self.clock.advance(0.01)
        self.assertEqual(self.times(), [6.0])

    @given(exact_seconds, exact_seconds, st.data())
    def test_a_change_of_step_causes_no_call_and_the_next_comes_one_new_step_later_at_most(self, old, new, data):
        clock, calls = Clock(), []
        timer = ScheduledTimer(Schedule(clock), old, lambda: calls.append(clock.seconds()))
        timer.startService()
        clock.advance(data.draw(st.integers(0, int(old * 1024) - 1)) / 1024)
        changed = clock.seconds()
        timer.step = new
        self.assertEqual((calls, timer.step), ([], new))
        next_call = clock.getDelayedCalls()[0].getTime()
        self.assertGreaterEqual(next_call, max(changed, min(old, new)))
        self.assertLessEqual(next_call, changed + new)
        clock.advance(next_call - changed)
        self.assertEqual(calls, [next_call])

    def test_repeated_changes_to_a_step_that_is_not_past_do_not_starve_it(self):
        self.timer.startService()
        for _ in range(40):
            self.clock.advance(0.25)
            self.timer.step = 2.0
        self.assertEqual(self.times(), [2.0, 4.0, 6.0, 8.0, 10.0])

    def test_the_step_may_change_within_a_call(self):
        timer = ScheduledTimer(Schedule(self.clock), 1.0, lambda: (self.call(), setattr(timer, "step", 0.5)))
        timer.startService()
        self.clock.pump([1.0, 0.5, 0.5])
        self.assertEqual(self.times(), [1.0, 1.5, 2.0])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_a_call_sees_when_it_was_due_and_what_was_slept_through(self):
        seen = []
        timer = ScheduledTimer(Schedule(self.clock), 1.0, lambda: seen.append((timer.due, timer.missed)))
        timer.startService()
        self.clock.pump([1.25, 3.0, 0.75])
        self.assertEqual(seen, [(1.0, 0), (4.0, 2), (5.0, 0)])

    def test_a_callable_that_raises_is_counted_and_logged_and_the_timer_goes_on(self):
        timer = ScheduledTimer(Schedule(self.clock), 1.0, lambda: 1 / 0)
        timer.startService()
        with capturedLogs() as events:
            self.clock.pump([1.0, 1.0])
        self.assertEqual((timer.failures, timer.running), (2, 1))
        self.assertEqual([event["log_level"] for event in events], [LogLevel.critical] * 2)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_a_callable_that_does_not_raise_is_no_failure(self):
        self.timer.startService()
        self.clock.advance(1.0)
        self.assertEqual(self.timer.failures, 0)


class ChangesTests(SynchronousTestCase):
    def test_repeated_changes_to_a_step_that_is_past_do_not_starve_it(self):
        clock, calls = Clock(), []
        timer = ScheduledTimer(Schedule(clock), 10.0, lambda: calls.append(clock.seconds()))
        timer.startService()
        clock.advance(5.0)
        for _ in range(20):
            timer.step = 1.0
            clock.advance(0.75)
        self.assertGreater(len(calls), 10)

    @given(st.lists(st.tuples(exact_seconds, exact_seconds), max_size=30))
    def test_between_two_calls_lie_the_shortest_step_at_least_and_the_longest_at_most(self, changes):
        clock, calls = Clock(), [(0.0, 1.0, 1.0)]
        steps = [1.0]

        def call():
            calls.append((timer.due, min(steps), max(steps)))
            del steps[:-1]

        timer = ScheduledTimer(Schedule(clock), 1.0, call)
        timer.startService()
        for step, seconds in changes:
            steps.append(step)
            timer.step = step
            end = clock.seconds() + seconds
            while (due := clock.getDelayedCalls()[0].getTime()) <= end:
                clock.advance(due - clock.seconds())
            clock.advance(end - clock.seconds())
        for (before, _, _), (after, shortest, longest) in itertools.pairwise(calls):
            self.assertTrue(shortest <= after - before <= longest)
