import itertools
import math
import sys
from collections import Counter
from functools import partial
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.application.internet import TimerService
from twisted.application.service import IService, MultiService
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clockd.schedule import CALLS_BETWEEN_LOOKS, FIRING_SECONDS, PHASE_MEMBERS, Schedule, ScheduledTimer, spread
from clockd.values import LATENESS_BOUNDS, Histogram

# whole numbers of 1/1024 s are exact as floats, so that properties hold to the last call
exact_seconds = st.integers(1, 8192).map(lambda number: number / 1024)
coarse_seconds = st.integers(1, 128).map(lambda number: number / 16)

DAY = 86_400.0

FULL = PHASE_MEMBERS
HALF = PHASE_MEMBERS // 2


class CountingClock(Clock):
    """Counts its delayed calls.

    Attributes:
        made: How many were ever made.
        ran: How many have run, or are about to.
        most: The largest number of those that waited at one time.
    """

    def __init__(self):
        super().__init__()
        self.made = self.ran = self.most = 0

    def callLater(self, delay, callable, *args, **kwargs):  # noqa: A002  # Clock's name
        self.made += 1
        call = super().callLater(delay, self.run_one, callable, *args, **kwargs)
        self.most = max(self.most, len(self.calls))
        return call

    def run_one(self, callable, *args, **kwargs):  # noqa: A002  # as above
        self.ran += 1
        callable(*args, **kwargs)

    def run(self, seconds):
        """Let time pass without any delay."""
        end = self.rightNow + seconds
        while self.calls and self.calls[0].getTime() <= end:
            self.rightNow = max(self.rightNow, self.calls[0].getTime())
            self.advance(0)
        self.rightNow = max(self.rightNow, end)

    def sleep(self, seconds):
        """Let time pass while nothing runs."""
        self.rightNow += seconds


class Call(NamedTuple):
    moment: float
    due: float
    missed: int
    wake_up: int


class Member:
    """A member that keeps what it was told; in its call it does what `during` says."""

    def __init__(self, schedule, period, key=None, during=None):
        self.schedule = schedule
        self.clock = schedule.clock
        self.calls = []
        self.during = during
        self.membership = schedule.join(period, self if key is None else key, self.call, self.failed)

    def call(self, key):
        self.calls.append(Call(self.clock.seconds(), self.schedule.due, self.schedule.missed, self.clock.ran))
        if self.during:
            self.during()

    def failed(self):
        raise sys.exception()

    def leave(self):
        self.membership.leave()

    def change(self, period):
        self.membership.change(period)

    @property
    def moments(self):
        return [call.moment for call in self.calls]


class ScheduleTestCase(SynchronousTestCase):
    def setUp(self):
        self.clock = CountingClock()
        self.schedule = Schedule(self.clock, Histogram(LATENESS_BOUNDS))

    def join(self, period, key=None, during=None):
        return Member(self.schedule, period, key, during)

    def join_many(self, count, period=1.0, key=None, during=None):
        return [self.join(period, key, during) for _ in range(count)]

    def phases(self, members):
        """Forget earlier calls, let time pass until all were called, and tell at which moments, and how many each."""
        for member in members:
            member.calls.clear()
        started = self.clock.seconds()
        self.clock.run(1.0)
        self.assertEqual({len(member.calls) for member in members}, {1})
        return dict(sorted(Counter(member.moments[0] - started for member in members).items()))

    def firings(self):
        return len(self.schedule._firings)

    def movers(self):
        return sum(len(phase.movers) for _, _, phase in self.schedule._firings)


class PreludeTests(ScheduleTestCase):
    def setUp(self):
        super().setUp()
        self.order = []
        self.schedule.prelude = lambda: self.order.append("prelude")

    def test_it_comes_before_the_calls_of_each_firing_and_at_no_other_time(self):
        for name in "ab":
            self.join(1.0, during=lambda name=name: self.order.append(name))
        self.assertEqual(self.order, [])
        for _ in range(2):
            self.clock.run(1.0)
        self.assertEqual([name for name in self.order if name == "prelude"], ["prelude"] * 2)
        self.assertEqual((self.order[0], sorted(self.order[1:3]), self.order[3]), ("prelude", ["a", "b"], "prelude"))

    def test_if_it_raises_the_calls_are_made_all_the_same(self):
        self.schedule.prelude = lambda: 1 / 0
        member = self.join(1.0)
        self.clock.run(2.0)
        self.assertEqual((len(member.calls), len(self.flushLoggedErrors(ZeroDivisionError))), (2, 2))

    def test_it_comes_before_calls_that_are_made_for_others_to_give_way(self):
        self.join(1.0, during=lambda: self.order.append("a"))
        self.schedule.catch_up()
        self.clock.sleep(1.5)
        self.schedule.catch_up()
        self.assertEqual(self.order, ["prelude", "a"])


class SpreadTests(SynchronousTestCase):
    def test_it_is_the_van_der_corput_sequence(self):
        first = [0.0, 0.5, 0.25, 0.75, 0.125, 0.625, 0.375, 0.875]
        self.assertEqual([spread(number) for number in range(8)], first)

    @settings(deadline=None)
    @given(st.integers(0, 2**40 - 1))
    def test_the_bits_are_mirrored_behind_the_point(self, number):
        self.assertEqual(spread(number), int(f"{number:040b}"[::-1], 2) / 2**40)

    def test_each_power_of_two_is_spread_evenly(self):
        for count in (1, 2, 4, 8, 256):
            points = sorted(spread(number) for number in range(count))
            self.assertEqual(points, [number / count for number in range(count)])


class PunctualityTests(ScheduleTestCase):
    def test_alone_the_first_call_comes_one_period_after_joining(self):
        self.clock.advance(100.0)
        member = self.join(2.0)
        self.clock.advance(1.99)
        self.assertEqual(member.calls, [])
        self.clock.advance(0.01)
        self.assertEqual([call[:3] for call in member.calls], [(102.0, 102.0, 0)])

    def test_beside_others_the_first_call_comes_with_theirs(self):
        first = self.join(2.0)
        self.clock.advance(1.5)
        second = self.join(2.0)
        self.clock.run(3.0)
        self.assertEqual(first.moments, [2.0, 4.0])
        self.assertEqual(second.moments, [2.0, 4.0])

    def test_joining_at_the_moment_of_a_firing_waits_for_the_next(self):
        self.join(2.0)
        self.clock.run(2.0)
        second = self.join(2.0)
        self.clock.run(2.0)
        self.assertEqual(second.moments, [4.0])

    def test_who_joins_before_a_late_firing_has_no_part_in_it(self):
        for key in (None, "key"):
            first = self.join(1.0, key)
            started = self.clock.seconds()
            self.clock.sleep(5.25)
            second = self.join(1.0, key)
            self.clock.run(1.0)
            self.assertEqual(first.calls[0][1:3], (started + 5.0, 4))
            self.assertEqual(second.calls[0].missed, 0)
            self.assertTrue(5.25 < second.calls[0].due - started <= 6.25)
            first.leave()
            second.leave()

    @settings(deadline=None, max_examples=50)
    @given(st.lists(coarse_seconds, min_size=1, max_size=5), coarse_seconds)
    def test_the_first_call_comes_within_one_period_whoever_was_there_before(self, advances, period):
        clock = CountingClock()
        schedule = Schedule(clock, Histogram(LATENESS_BOUNDS))
        for seconds in advances:
            member = Member(schedule, period)
            joined = clock.seconds()
            clock.run(period)
            self.assertLess(joined, member.moments[0])
            self.assertEqual(len(member.calls), 1)
            clock.run(seconds)

    def test_a_cohort_that_all_have_left_counts_anew(self):
        first = self.join(2.0)
        self.clock.run(0.5)
        first.leave()
        second = self.join(2.0)
        self.clock.run(4.0)
        self.assertEqual(second.moments, [2.5, 4.5])

    @settings(deadline=None)
    @given(exact_seconds, st.lists(exact_seconds, max_size=30))
    def test_calls_and_missed_periods_add_up_to_the_time_that_passed(self, period, advances):
        clock = CountingClock()
        member = Member(Schedule(clock, Histogram(LATENESS_BOUNDS)), period)
        clock.pump(advances)
        self.assertEqual(sum(1 + call.missed for call in member.calls), sum(advances) // period)
        self.assertTrue(all(call.due % period == 0 for call in member.calls))

    @settings(deadline=None)
    @given(exact_seconds, st.lists(exact_seconds, max_size=30))
    def test_one_advance_of_the_clock_causes_one_call_at_most(self, period, advances):
        clock = CountingClock()
        member = Member(Schedule(clock, Histogram(LATENESS_BOUNDS)), period)
        for seconds in advances:
            before = len(member.calls)
            clock.advance(seconds)
            self.assertLessEqual(len(member.calls) - before, 1)

    def test_a_stall_is_counted_and_not_made_up_for(self):
        member = self.join(1.0)
        self.clock.advance(5.5)
        self.assertEqual([call[1:3] for call in member.calls], [(5.0, 4)])
        self.clock.advance(0.5)
        self.assertEqual([call[1:3] for call in member.calls[1:]], [(6.0, 0)])

    def test_a_stall_is_counted_by_each_phase_from_its_own_last_firing(self):
        members = self.join_many(2 * FULL)
        self.clock.advance(5.25)
        self.assertEqual([call[1:3] for call in members[0].calls], [(5.0, 4)])
        self.assertEqual([call[1:3] for call in members[-1].calls], [(4.5, 4)])

    def test_a_call_just_under_one_period_late_has_missed_nothing_and_one_period_late_has(self):
        for late, missed in ((0.999, 0), (1.0, 1)):
            member = self.join(1.0)
            self.clock.advance(1.0 + late)
            self.assertEqual([call.missed for call in member.calls], [missed])
            member.leave()

    def test_ten_thousand_calls_do_not_drift(self):
        member = self.join(0.1)
        late = [0.0, 0.013, 0.05, 0.099]
        for number in range(1, 10_001):
            self.clock.advance(number * 0.1 + late[number % 4] - self.clock.seconds() + 1e-7)
        self.assertEqual(len(member.calls), 10_000)
        self.assertLess(abs(member.calls[-1].due - 1000.0), 1e-6)
        self.assertEqual(sum(call.missed for call in member.calls), 0)

    def test_ten_thousand_distinct_periods_each_tick_right(self):
        periods = [1.0 + number / 2**14 for number in range(10_000)]
        members = [self.join(period) for period in periods]
        self.clock.run(2.25)
        for period, member in zip(periods, members, strict=True):
            expected = [(number * period, number * period, 0) for number in range(1, int(2.25 / period) + 1)]
            self.assertEqual([call[:3] for call in member.calls], expected)
        self.assertEqual(self.clock.most, 1)

    def test_leaving_ends_the_calls_and_leaves_no_delayed_call(self):
        member = self.join(1.0)
        self.clock.advance(1.0)
        member.leave()
        member.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(member.calls), 1)

    def test_changing_after_leaving_does_nothing(self):
        member = self.join(1.0)
        member.leave()
        member.change(0.5)
        self.clock.run(2.0)
        self.assertEqual(member.calls, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_members_do_not_disturb_each_other(self):
        first = self.join(1.0)
        self.clock.advance(0.5)
        second = self.join(1.0)
        first.leave()
        self.clock.run(1.5)
        self.assertEqual(first.calls, [])
        self.assertEqual([call[1:3] for call in second.calls], [(1.0, 0), (2.0, 0)])


class PhaseTests(ScheduleTestCase):
    def test_a_full_phase_is_one_and_one_member_more_opens_a_second_half_a_period_away(self):
        members = self.join_many(FULL)
        self.assertEqual(self.phases(members), {1.0: FULL})
        members.append(self.join(1.0))
        self.assertEqual(self.phases(members), {0.5: 1, 1.0: FULL})

    def test_a_phase_is_opened_wherever_in_the_period_the_clock_stands(self):
        for passed, first in ((0.25, 0.5), (0.5, 1.5), (0.75, 1.5)):
            clock = CountingClock()
            schedule = Schedule(clock, Histogram(LATENESS_BOUNDS))
            for _ in range(FULL):
                Member(schedule, 1.0)
            clock.run(passed)
            late = Member(schedule, 1.0)
            clock.run(2.5 - passed)
            self.assertEqual(late.moments[0], first)

    def test_eight_phases_are_spread_evenly_and_none_holds_more_than_its_members(self):
        members = self.join_many(8 * FULL - 24)
        before = self.clock.ran
        phases = self.phases(members)
        self.assertEqual(list(phases), [number / 8 for number in range(1, 9)])
        self.assertEqual(sorted(phases.values()), [FULL - 24, *[FULL] * 7])
        self.assertEqual(self.clock.ran - before, 8)
        self.clock.run(2.0)
        calls = Counter(call.wake_up for member in members for call in member.calls)
        self.assertEqual(max(calls.values()), FULL)
        self.assertEqual(len(calls), 24)

    def test_a_thousand_members_make_as_many_phases_as_they_fill(self):
        members = self.join_many(1000)
        phases = self.phases(members)
        self.assertEqual(len(phases), -(-1000 // FULL))
        moments = [0.0, *phases]
        self.assertLessEqual(max(after - before for before, after in itertools.pairwise(moments)), 0.25)

    def test_members_of_one_key_share_a_phase_also_when_it_is_full(self):
        key = object()
        members = [self.join(1.0, key), *self.join_many(FULL - 1)]
        self.assertEqual(self.phases(members), {1.0: FULL})
        members += [self.join(1.0, key), self.join(1.0)]
        self.assertEqual(self.phases(members), {0.5: 1, 1.0: FULL + 1})
        self.assertEqual({member.calls[0].wake_up for member in members[:-1]}, {members[0].calls[0].wake_up})

    def test_a_crowd_of_one_key_stays_together_and_takes_no_room_but_its_own(self):
        crowd = self.join_many(4 * FULL, key="crowd")
        others = self.join_many(FULL)
        self.assertEqual(self.phases([*crowd, *others]), {0.5: FULL, 1.0: 4 * FULL})

    def test_those_of_one_key_take_a_quarter_of_the_room(self):
        crowd = self.join_many(1 + 2 * FULL, key="crowd")
        others = self.join_many(FULL)
        self.assertEqual(self.phases([*crowd, *others]), {0.5: 1 + HALF, 1.0: 1 + 2 * FULL + HALF - 1})

    def test_one_key_at_two_periods_is_not_held_together(self):
        key = object()
        first = self.join(1.0, key)
        self.clock.run(0.5)
        second = self.join(2.0, key)
        self.clock.run(2.0)
        self.assertEqual(first.moments, [1.0, 2.0])
        self.assertEqual(second.moments, [2.5])

    def test_two_keys_are_not_held_together(self):
        self.join_many(FULL - 1)
        first, second = self.join(1.0, "first"), self.join(1.0, "second")
        self.assertEqual(self.phases([first, second]), {0.5: 1, 1.0: 1})

    def test_a_key_that_has_left_goes_where_there_is_room(self):
        key = object()
        first = self.join(1.0, key)
        self.join_many(FULL - 1)
        first.leave()
        others = self.join_many(1)
        again = self.join(1.0, key)
        self.assertEqual(self.phases([*others, again]), {0.5: 1, 1.0: 1})

    def test_a_key_of_which_one_member_has_left_still_holds_the_others_together(self):
        key = object()
        members = self.join_many(3, key=key)
        others = self.join_many(FULL - 3)
        members.pop().leave()
        others.append(self.join(1.0))
        members.pop().leave()
        others.append(self.join(1.0))
        members.append(self.join(1.0, key))
        self.assertEqual(self.phases([*members, *others]), {1.0: FULL + 1})

    def test_who_joins_takes_the_room_of_who_left_before_a_phase_is_opened(self):
        members = self.join_many(2 * FULL)
        for member in members[:50]:
            member.leave()
        members = members[50:] + self.join_many(50)
        self.assertEqual(self.phases(members), {0.5: FULL, 1.0: FULL})
        members.append(self.join(1.0))
        self.assertEqual(self.phases(members), {0.25: 1, 0.5: FULL, 1.0: FULL})

    def test_a_phase_has_room_from_one_member_below_its_limit_on(self):
        for leaving, phases in ((0, {0.5: 1, 1.0: FULL + 3}), (1, {1.0: FULL + 3})):
            members = self.join_many(FULL - 2) + self.join_many(5, key="few")
            for _ in range(leaving):
                members.pop().leave()
            members.append(self.join(1.0))
            self.assertEqual(self.phases(members), phases)
            for member in members:
                member.leave()

    def test_phases_that_all_have_left_are_opened_again_the_farthest_from_the_others_first(self):
        moments = [1.0, 0.5, 0.25, 0.75]
        for leaving in ((1,), (3, 1), (1, 3, 2)):
            phases = [self.join_many(FULL) for _ in range(4)]
            for number in leaving:
                for member in phases[number]:
                    member.leave()
                phases[number] = []
            left = [*itertools.chain(*phases)]
            for number in sorted(leaving):
                self.assertEqual(len(self.phases(left)), 4 - len(leaving))
                phases[number] = self.join_many(FULL)
                self.assertEqual(self.phases(phases[number]), {moments[number]: FULL})
            last = self.join(1.0)
            self.assertEqual(self.phases([last]), {0.125: 1})
            for member in [last, *itertools.chain(*phases)]:
                member.leave()


class DissolvingTests(ScheduleTestCase):
    def fill(self, *sizes):
        """Make phases of these sizes; in their order they fire at 1, 1/2, 1/4, 3/4."""
        members = self.join_many(len(sizes) * FULL)
        phases = [members[start : start + FULL] for start in range(0, len(members), FULL)]
        for phase, size in zip(phases, sizes, strict=True):
            while len(phase) > size:
                phase.pop().leave()
        return phases

    def assert_called_within_each_period(self, members, seconds):
        started = self.clock.seconds()
        self.clock.run(seconds)
        for member in members:
            moments = [started, *member.moments]
            self.assertTrue(all(0 < after - before <= 1.0 for before, after in itertools.pairwise(moments)), moments)
            self.assertLess(self.clock.seconds() - moments[-1], 1.0)

    def test_a_phase_is_dissolved_after_its_firing_when_the_others_are_three_quarters_full_with_it(self):
        phases = self.fill(3 * FULL // 4 - 1, 1)
        self.assert_called_within_each_period(itertools.chain(*phases), 1.5)
        self.assertEqual(phases[1][0].moments, [0.5, 1.0])
        self.assertEqual(phases[0][0].moments, [1.0])

    def test_a_phase_stays_when_the_others_would_be_fuller(self):
        phases = self.fill(3 * FULL // 4, 1)
        self.assert_called_within_each_period(itertools.chain(*phases), 2.75)
        self.assertEqual(phases[1][0].moments, [0.5, 1.5, 2.5])

    def test_a_phase_that_is_half_empty_is_dissolved(self):
        phases = self.fill(HALF, HALF, HALF)
        self.assert_called_within_each_period(itertools.chain(*phases), 2.0)
        self.assertEqual(list(self.phases([*itertools.chain(*phases)])), [0.5, 1.0])

    def test_a_phase_that_is_fuller_than_half_stays(self):
        phases = self.fill(HALF - 1, HALF, HALF + 1)
        self.assert_called_within_each_period(itertools.chain(*phases), 2.0)
        self.assertEqual(list(self.phases([*itertools.chain(*phases)])), [0.25, 1.0])

    def test_many_phases_shrink_to_those_that_the_members_need(self):
        phases = self.fill(*[FULL // 8] * 8)
        members = [*itertools.chain(*phases)]
        self.assert_called_within_each_period(members, 3.0)
        self.assertEqual(len(self.phases(members)), 2)

    def test_the_only_phase_stays(self):
        phases = self.fill(1)
        self.clock.run(3.0)
        self.assertEqual(phases[0][0].moments, [1.0, 2.0, 3.0])

    def test_members_of_one_key_move_together(self):
        first = self.join_many(FULL)
        pair = self.join_many(2, key="pair")
        for member in first[90:]:
            member.leave()
        self.assert_called_within_each_period([*first[:90], *pair], 3.0)
        self.assertEqual([member.moments for member in pair], [[0.5, 1.0, 2.0, 3.0]] * 2)

    def test_those_who_asked_for_another_period_leave_first(self):
        phases = self.fill(HALF, HALF, HALF)
        member = self.join(4.0, key=phases[2][0])
        member.change(1.0)
        member.change(2.0)
        self.clock.run(2.0)
        self.assertEqual(member.moments, [0.25])
        self.assertEqual(list(self.phases([*itertools.chain(*phases)])), [0.5, 1.0])

    def test_in_a_stall_it_calls_nobody_twice(self):
        phases = self.fill(90, 1)
        self.clock.advance(1.75)
        calls = [call[1:3] for call in phases[1][0].calls]
        self.assertEqual(calls, [(1.5, 1)])
        self.assertEqual({len(member.calls) for member in phases[0]}, {1})


class ChangingTests(ScheduleTestCase):
    def test_a_call_due_later_than_one_new_period_comes_one_new_period_after_the_change(self):
        member = self.join(10.0)
        self.clock.run(5.0)
        member.change(2.0)
        self.clock.run(6.0)
        self.assertEqual(member.moments, [7.0, 9.0, 11.0])

    def test_a_call_due_within_one_new_period_comes_one_new_period_after_the_change_too(self):
        member = self.join(10.0)
        self.clock.run(8.5)
        member.change(2.0)
        self.clock.run(6.0)
        self.assertEqual(member.moments, [10.5, 12.5, 14.5])

    def test_one_that_changes_again_keeps_its_call_if_it_comes_in_time_and_changes_after_it(self):
        for changed, moments in ((1.0, [5.0, 7.0, 9.0]), (2.0, [6.0, 8.0]), (3.0, [6.0, 8.0]), (2.5, [6.0, 8.0])):
            member = self.join(10.0)
            started = self.clock.seconds()
            member.change(6.0)
            self.clock.run(changed + 2.0)
            member.change(2.0)
            self.clock.run(moments[-1] - changed - 2.0)
            self.assertEqual([moment - started for moment in member.moments], moments)
            member.leave()

    def test_one_that_changes_again_keeps_a_call_that_comes_just_in_time(self):
        member = self.join(10.0)
        member.change(6.0)
        self.clock.run(1.0)
        self.join(2.0)
        self.clock.run(3.0)
        member.change(2.0)
        self.clock.run(3.0)
        self.assertEqual(member.moments, [6.0, 7.0])

    def test_a_longer_period_counts_from_the_change(self):
        member = self.join(2.0)
        self.clock.run(1.0)
        member.change(5.0)
        self.clock.run(10.0)
        self.assertEqual(member.moments, [6.0, 11.0])

    def test_beside_others_the_call_after_a_change_may_come_sooner(self):
        self.join(5.0)
        member = self.join(2.0)
        self.clock.run(1.0)
        member.change(5.0)
        self.clock.run(9.0)
        self.assertEqual(member.moments, [5.0, 10.0])

    def test_after_a_call_the_next_change_counts_from_itself_again(self):
        member = self.join(4.0)
        for _ in range(3):
            member.change(2.0)
            self.clock.run(2.5)
            member.change(4.0)
            self.clock.run(4.5)
        self.assertEqual(member.moments, [2.0, 6.5, 9.0, 13.5, 16.0, 20.5])

    def test_changing_back_withdraws_the_change(self):
        member = self.join(2.0)
        member.change(5.0)
        member.change(7.0)
        self.assertEqual(self.movers(), 1)
        member.change(5.0)
        self.assertEqual(self.movers(), 0)
        self.clock.run(10.0)
        self.assertEqual(member.moments, [5.0, 10.0])

    def test_a_change_to_the_period_in_force_is_none(self):
        member = self.join(2.0)
        self.clock.run(1.0)
        member.change(2.0)
        self.clock.run(3.0)
        self.assertEqual(member.moments, [2.0, 4.0])

    def test_the_last_of_several_changes_holds(self):
        for changes, moments in (
            ((5.0, 7.0), [5.0, 12.0]),
            ((7.0, 5.0), [5.0, 10.0]),
            ((7.0, 8.0, 1.0), [1.0, 2.0]),
            ((1.0, 3.0), [1.0, 4.0]),
            ((1.0, 3.0, 2.0), [1.0, 3.0]),
        ):
            started = self.clock.seconds()
            member = self.join(4.0)
            for period in changes:
                member.change(period)
            self.clock.run(moments[-1])
            self.assertEqual([moment - started for moment in member.moments], moments)
            member.leave()

    def test_a_call_that_was_kept_counts_also_when_the_change_is_withdrawn_within_it(self):
        member = self.join(4.0)
        member.change(2.0)
        self.clock.run(1.0)
        member.change(1.0)
        member.during = partial(member.change, 2.0)
        self.clock.run(1.5)
        member.during = None
        member.change(3.0)
        self.clock.run(4.5)
        self.assertEqual(member.moments, [2.0, 4.0, 7.0])

    def test_one_that_moved_to_a_late_phase_and_changes_again_keeps_its_call(self):
        self.join(1.0)
        for between in (partial(self.clock.advance, 0), int):
            started = self.clock.seconds()
            member = self.join(10.0)
            self.clock.sleep(1.5)
            member.change(1.0)
            between()
            member.change(0.75)
            self.clock.run(1.5)
            self.assertTrue(1.5 < member.moments[0] - started <= 2.25)
            self.assertEqual(member.moments[1] - member.moments[0], 0.75)
            member.leave()

    def test_who_leaves_with_a_change_to_come_is_forgotten(self):
        member, other = self.join_many(2)
        member.change(2.0)
        member.change(1.0)
        member.change(3.0)
        self.assertEqual(self.movers(), 1)
        member.leave()
        self.clock.run(3.0)
        self.assertEqual(member.calls, [])
        self.assertEqual(other.moments, [1.0, 2.0, 3.0])

    def test_one_that_changes_again_during_a_stall_keeps_the_call_that_is_late(self):
        member = self.join(4.0)
        member.change(2.0)
        self.clock.sleep(3.0)
        member.change(0.5)
        self.clock.run(1.0)
        self.assertEqual([call[:3] for call in member.calls], [(3.0, 2.0, 0), (3.5, 3.5, 0), (4.0, 4.0, 0)])

    def test_a_change_to_a_cohort_whose_firing_is_late_causes_no_call(self):
        for key in (None, "key"):
            other = self.join(2.0, key)
            started = self.clock.seconds()
            self.clock.run(1.5)
            member = self.join(10.0, key)
            self.clock.sleep(1.0)
            member.change(2.0)
            self.clock.run(2.0)
            self.assertEqual(member.calls[0].missed, 0)
            self.assertTrue(2.5 < member.calls[0].due - started <= 4.5)
            other.leave()
            member.leave()

    def test_a_change_makes_room_for_who_joins(self):
        members = self.join_many(FULL)
        members.pop().change(0.5)
        members.append(self.join(1.0))
        self.assertEqual(self.phases(members), {1.0: FULL})

    def test_one_who_is_moved_shares_the_phase_of_its_key(self):
        pair = [self.join(1.0, "pair"), self.join(4.0, "pair")]
        self.join_many(FULL - 1)
        pair[1].change(1.0)
        self.clock.run(2.0)
        self.assertEqual([member.moments for member in pair], [[1.0, 2.0]] * 2)


class WithinACallTests(ScheduleTestCase):
    def at_each_place(self, period=1.0):
        """Three members of one firing, one of whom acts; yields the actor and the others."""
        for place in range(3):
            members = self.join_many(3, period)
            yield members.pop(place), members
            for member in members:
                member.leave()

    def once(self, action, *args):
        """Make what to do during the first call only."""
        actions = [partial(action, *args)]
        return lambda: actions and actions.pop()()

    def test_who_leaves_is_called_no_more_and_the_others_are(self):
        for member, others in self.at_each_place():
            member.during = member.leave
            self.clock.run(2.0)
            self.assertEqual([len(member.calls) for member in (member, *others)], [1, 2, 2])

    def test_one_who_is_told_to_leave_is_called_only_if_it_was_its_turn_before(self):
        third, second, first = self.join_many(3)
        second.during = lambda: (first.leave(), third.leave())
        self.clock.run(3.0)
        self.assertEqual([member.moments for member in (first, second, third)], [[1.0], [1.0, 2.0, 3.0], []])

    def test_when_all_leave_no_delayed_call_is_left(self):
        members = self.join_many(2 * FULL)
        members[FULL - 1].during = lambda: [member.leave() for member in members]
        self.clock.run(3.0)
        self.assertEqual(sum(len(member.calls) for member in members), 1 + FULL)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.firings(), 0)

    def test_who_joins_is_called_one_period_later(self):
        joined = []
        self.join(1.0, during=self.once(lambda: joined.append(self.join(1.0))))
        self.clock.run(2.0)
        self.assertEqual([call[:3] for call in joined[0].calls], [(2.0, 2.0, 0)])

    def test_who_joins_a_cohort_that_is_due_at_the_same_moment_has_no_part_in_that_firing(self):
        for key in (None, "key"):
            joined = []
            started = self.clock.seconds()
            first = self.join(2.0, during=self.once(lambda key=key: joined.append(self.join(1.0, key))))  # noqa: B023
            second = self.join(1.0, key)
            self.clock.run(3.0)
            self.assertEqual(joined[0].calls[0].missed, 0)
            self.assertTrue(2.0 < joined[0].calls[0].due - started <= 3.0)
            for member in (first, second, *joined):
                member.leave()

    def test_who_leaves_and_joins_again_is_called_one_period_later(self):
        members = self.join_many(2 * FULL)
        members[0].leave()
        again = []
        members[-1].during = lambda: (members[-1].leave(), again.append(self.join(1.0)))
        self.clock.advance(1.75)  # the phase with room is due too
        self.assertEqual(again[0].calls, [])
        self.clock.run(1.0)
        self.assertEqual(len(again[0].calls), 1)

    def test_a_shorter_period_of_ones_own_holds_from_this_call_on(self):
        for member, others in self.at_each_place(2.0):
            started = self.clock.seconds()
            member.during = partial(member.change, 0.5)
            self.clock.run(4.0)
            self.assertEqual([moment - started for moment in member.moments], [2.0, 2.5, 3.0, 3.5, 4.0])
            self.assertEqual({len(other.calls) for other in others}, {2})
            member.leave()

    def test_a_longer_period_of_ones_own_holds_from_this_call_on(self):
        for member, others in self.at_each_place(2.0):
            started = self.clock.seconds()
            member.during = partial(member.change, 5.0)
            self.clock.run(12.0)
            self.assertEqual([moment - started for moment in member.moments], [2.0, 7.0, 12.0])
            self.assertEqual({len(other.calls) for other in others}, {6})
            member.leave()

    def test_a_longer_period_of_ones_own_counts_from_the_change_however_long_the_others_take(self):
        slow, member = self.join_many(2)
        member.during = self.once(member.change, 3.0)
        slow.during = self.once(self.clock.sleep, 0.5)
        self.clock.run(4.0)
        self.assertEqual(member.moments, [1.0, 4.0])

    def test_a_period_of_ones_own_whose_cohort_is_due_at_the_same_moment_causes_no_second_call(self):
        for period in (2.0, 8.0):
            member = self.join(4.0)
            other = self.join(period)
            member.during = partial(member.change, period)
            self.clock.run(16.0)
            self.assertEqual(sorted(set(member.moments)), member.moments)
            member.leave()
            other.leave()

    def test_one_whose_turn_comes_keeps_its_call_when_another_changes_it_again(self):
        for period, moments in ((9.5, [10.0, 19.5, 29.0]), (12.0, [10.0, 22.0, 34.0])):
            started = self.clock.seconds()
            first, second = self.join(10.0), self.join(20.0)
            second.change(10.0)
            first.during = self.once(second.change, period)
            self.clock.run(35.0)
            self.assertEqual([moment - started for moment in second.moments], moments)
            first.leave()
            second.leave()

    def test_others_cannot_put_off_a_call_for_ever(self):
        first, second = self.join(1.0), self.join(1.125)
        member = self.join(1.0)
        first.during = partial(member.change, 1.125)
        second.during = partial(member.change, 1.0)
        self.clock.run(20.0)
        self.assertGreater(len(member.calls), 9)

    def test_one_whose_turn_has_been_takes_the_period_that_another_gives_it(self):
        for period, moments in ((9.5, [10.0, 19.5, 29.0]), (12.0, [10.0, 22.0, 34.0])):
            started = self.clock.seconds()
            first, second = self.join_many(2, 10.0)
            second.during = self.once(first.change, period)
            self.clock.run(35.0)
            self.assertEqual([moment - started for moment in first.moments], moments)
            first.leave()
            second.leave()

    def test_one_who_raises_is_told_so_and_all_are_called_on(self):
        for place in range(3):
            failures = []
            members = self.join_many(place)
            faulty = self.schedule.join(
                1.0, "key", lambda _: 1 / 0, lambda failures=failures: failures.append(sys.exception())
            )
            members += self.join_many(2 - place)
            self.clock.run(2.0)
            self.assertEqual([len(member.calls) for member in members], [2, 2])
            self.assertEqual([type(failure) for failure in failures], [ZeroDivisionError] * 2)
            faulty.leave()
            for member in members:
                member.leave()

    def test_one_who_leaves_and_raises_is_told_so_and_called_no_more(self):
        failures = []

        def call(_key):
            membership.leave()
            raise ValueError

        membership = self.schedule.join(1.0, "key", call, lambda: failures.append(sys.exception()))
        self.clock.run(3.0)
        self.assertEqual(len(failures), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ComingAndGoingTests(ScheduleTestCase):
    @given(
        st.lists(st.tuples(st.integers(0, 7), st.lists(st.integers(0, 7), max_size=4), st.integers(0, 3)), max_size=12)
    )
    def test_whoever_leaves_or_joins_in_whose_call_all_who_stay_are_called_once_a_period(self, acts):
        """Each act is: in whose call, who leaves, and how many join."""
        clock = CountingClock()
        schedule = Schedule(clock, Histogram(LATENESS_BOUNDS))
        members = [Member(schedule, 1.0) for _ in range(8)]
        there = set(members)

        def act(leavers, joiners):
            for member in leavers:
                member.leave()
                there.discard(member)
            there.update(Member(schedule, 1.0) for _ in range(joiners))

        for actor, leavers, joiners in acts:
            pending = [partial(act, [members[leaver] for leaver in leavers], joiners)]
            members[actor].during = lambda pending=pending: pending and pending.pop()()
            clock.run(1.0)
            for _, _, phase in schedule._firings:
                self.assertEqual([member.index for member in phase.members], list(range(len(phase.members))))
        for member in there:
            member.calls.clear()
        clock.run(3.0)
        self.assertEqual({len(member.calls) for member in there}, {3} if there else set())
        for member in there:
            member.leave()
        self.assertEqual((clock.getDelayedCalls(), schedule._cohorts), ([], {}))


class CatchingUpTests(ScheduleTestCase):
    def test_calls_that_are_due_are_made_without_a_turn_of_the_reactor(self):
        member = self.join(1.0)
        self.clock.sleep(1.25)
        self.schedule.catch_up()
        self.assertEqual((member.moments, member.calls[0].due), ([1.25], 1.0))
        self.clock.advance(0.0)
        self.assertEqual(member.moments, [1.25])
        self.clock.run(1.0)
        self.assertEqual(member.moments, [1.25, 2.0])

    def test_what_is_not_due_yet_is_left_alone(self):
        member = self.join(1.0)
        self.clock.sleep(0.75)
        self.schedule.catch_up()
        self.assertEqual(member.moments, [])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_within_a_call_it_does_nothing_even_if_something_new_is_due(self):
        member, late = self.join(1.0), []

        def during():
            late.append(self.join(0.001))
            self.clock.sleep(0.01)
            self.schedule.catch_up()
            self.assertEqual(late[-1].moments, [])

        member.during = during
        self.clock.run(1.0)
        self.clock.run(0.01)
        self.assertEqual((len(member.moments), len(late)), (1, 1))
        self.assertGreaterEqual(len(late[0].moments), 1)

    def test_it_gives_way_too(self):
        members = self.join_many(FULL, during=partial(self.clock.sleep, 0.001))
        self.clock.sleep(1.0)
        self.schedule.catch_up()
        self.assertEqual(sum(len(member.calls) for member in members), CALLS_BETWEEN_LOOKS)
        self.schedule.catch_up()
        self.assertEqual(sum(len(member.calls) for member in members), 2 * CALLS_BETWEEN_LOOKS)

    def test_in_a_call_it_does_nothing(self):
        member, other = self.join_many(2)
        other.during = self.schedule.catch_up
        self.clock.run(1.0)
        self.assertEqual((member.moments, other.moments), ([1.0], [1.0]))

    def test_where_nobody_has_joined_it_does_nothing(self):
        self.schedule.catch_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class GivingWayTests(ScheduleTestCase):
    def slow(self, count, seconds=0.001, **others):
        return self.join_many(count, during=partial(self.clock.sleep, seconds), **others)

    def in_between(self, action):
        """Do something after the first wake-up at 1.0 and before the second."""
        self.clock.callLater(1.0 - self.clock.seconds() + 1e-6, action)

    def wake_ups(self, members):
        """How many calls each wake-up made."""
        return [count for _, count in sorted(Counter(call.wake_up for m in members for call in m.calls).items())]

    def test_calls_that_take_long_go_on_in_later_wake_ups_and_are_due_as_before(self):
        members = self.slow(FULL)
        self.clock.advance(1.0)
        self.assertEqual([[call.due for call in member.calls] for member in members], [[1.0]] * FULL)
        self.assertEqual(self.wake_ups(members), [CALLS_BETWEEN_LOOKS] * (FULL // CALLS_BETWEEN_LOOKS))
        self.assertEqual(self.clock.most, 1)

    def test_a_crowd_of_one_key_gives_way_too(self):
        members = self.slow(1000, key="crowd")
        self.clock.advance(1.0)
        self.assertEqual([call[1:3] for member in members for call in member.calls], [(1.0, 0)] * 1000)
        self.assertEqual(max(self.wake_ups(members)), CALLS_BETWEEN_LOOKS)

    def test_the_reactor_has_its_turn_in_between(self):
        turns = []
        members = self.slow(FULL)
        self.in_between(lambda: turns.append(sum(len(member.calls) for member in members)))
        self.clock.advance(1.0)
        self.assertEqual(turns, [CALLS_BETWEEN_LOOKS])

    def test_calls_give_way_once_they_have_held_the_reactor_for_firing_seconds_and_not_before(self):
        for seconds, wake_ups in ((FIRING_SECONDS, [16, FULL - 16]), (0.99 * FIRING_SECONDS, [FULL])):
            members = self.join_many(FULL)
            members[-1].during = partial(self.clock.sleep, seconds)
            self.clock.advance(1.0)
            self.assertEqual(self.wake_ups(members), wake_ups)
            for member in members:
                member.leave()
            self.clock.rightNow = 0.0

    def test_phases_due_at_one_moment_give_way_to_each_other_too(self):
        members = [member for period in (0.125, 0.25, 0.5, 1.0) for member in self.slow(1, 0.0011, period=period)]
        self.clock.advance(1.0)
        self.assertEqual(self.wake_ups(members), [2, 2])

    def test_the_next_wake_up_begins_with_a_fresh_allowance(self):
        members = self.slow(FULL, FIRING_SECONDS / 20)
        self.clock.advance(1.0)
        self.assertEqual(self.wake_ups(members), [32] * (FULL // 32))

    def test_once_all_were_called_the_next_firing_is_on_time(self):
        members = self.slow(FULL)
        self.clock.advance(1.0)
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [2.0])
        self.clock.run(1.5)
        self.assertEqual([[call.due for call in member.calls] for member in members], [[1.0, 2.0]] * FULL)

    def test_who_leaves_in_between_is_called_only_if_it_was_its_turn_before(self):
        members = self.slow(FULL)[::-1]
        self.in_between(lambda: [member.leave() for member in members[8:24]])
        self.clock.advance(1.0)
        self.assertEqual([len(member.calls) for member in members], [1] * 16 + [0] * 8 + [1] * (FULL - 24))

    def test_when_all_leave_in_between_no_delayed_call_is_left(self):
        members = self.slow(FULL)
        self.in_between(lambda: [member.leave() for member in members])
        self.clock.advance(1.0)
        self.assertEqual(sum(len(member.calls) for member in members), CALLS_BETWEEN_LOOKS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_joins_after_all_left_in_between_is_called_on_time(self):
        members = self.slow(FULL)
        joined = []
        self.in_between(lambda: ([member.leave() for member in members], joined.append(self.join(1.0))))
        self.clock.advance(1.0)
        now = self.clock.seconds()
        self.assertEqual(self.clock.most, 2)  # with the one that acts in between
        self.clock.run(2.0)
        self.assertEqual(joined[0].moments, [now + 1.0, now + 2.0])

    def test_who_joins_in_between_waits_for_the_next_firing(self):
        members = self.slow(FULL - 1)
        joined = []
        self.in_between(lambda: joined.append(self.join(1.0)))
        self.clock.run(2.0)
        self.assertEqual([call.due for call in joined[0].calls], [2.0])
        self.assertEqual({len(member.calls) for member in members}, {2})

    def test_who_changes_in_between_is_called_once_and_next_within_one_new_period(self):
        for period in (0.75, 1.5):
            members = self.slow(FULL)
            self.in_between(lambda period=period, members=members: [member.change(period) for member in members])
            self.clock.advance(1.0)
            self.assertTrue(all(len(member.calls) <= 1 for member in members))
            self.clock.run(period)
            changed = 1.0 + CALLS_BETWEEN_LOOKS * 0.001
            for member in members:
                self.assertEqual(len([call for call in member.calls if changed < call.due <= changed + period]), 1)
                member.leave()
            self.clock.rightNow = 0.0

    def test_who_changes_again_in_between_is_still_called_in_its_turn_and_once(self):
        for period in (0.75, 1.5):
            members = self.slow(FULL, period=4.0)
            for member in members:
                member.change(1.0)
            self.in_between(lambda period=period, members=members: [member.change(period) for member in members])
            self.clock.advance(1.0)
            self.assertEqual([[call.due for call in member.calls] for member in members], [[1.0]] * FULL)
            for member in members:
                member.leave()
            self.clock.rightNow = 0.0

    def test_a_change_in_between_holds_from_then_on_for_who_has_been_called(self):
        for period in (0.75, 1.5):
            members = self.slow(FULL)
            first = members[-1]
            self.in_between(lambda period=period, first=first: first.change(period))
            self.clock.advance(1.0)
            for member in members:
                member.during = None
            self.clock.run(1.5)
            changed = 1.0 + CALLS_BETWEEN_LOOKS * 0.001
            self.assertAlmostEqual(first.calls[1].due, changed + period)
            for member in members:
                member.leave()
            self.clock.rightNow = 0.0

    def test_a_phase_is_dissolved_once_all_of_it_were_called(self):
        members = self.join_many(FULL + 40)
        for member in members[: FULL - 40]:
            member.leave()
        late = members[FULL:]
        for member in late:
            member.during = partial(self.clock.sleep, 0.001)
        self.clock.advance(0.5)
        self.assertEqual([len(member.calls) for member in late], [1] * 40)
        self.clock.run(1.5)
        self.assertEqual([[call.due for call in member.calls] for member in late], [[0.5, 1.0, 2.0]] * 40)


class KeyTests(ScheduleTestCase):
    def order(self, members):
        """Return the keys in the order in which they are called in a period, each as often as it comes in a row."""
        called = []
        for member, key in members:
            member.during = partial(called.append, key)
        self.clock.run(1.0)
        self.assertEqual(Counter(called), Counter(key for _, key in members))
        return [(key, len(list(calls))) for key, calls in itertools.groupby(called)]

    def test_those_of_one_key_are_called_one_after_another_in_whatever_order_they_joined(self):
        members = [(self.join(1.0, key), key) for _ in range(5) for key in "abc"]
        self.assertEqual(sorted(self.order(members)), [("a", 5), ("b", 5), ("c", 5)])

    def test_they_are_after_some_have_left_and_some_joined_in_between(self):
        members = [(self.join(1.0, key), key) for key in "aabbccdd"]
        for leaving in (0, 3, 4):
            members.pop(leaving)[0].leave()
        self.assertEqual(len(self.order(members)), len({key for _, key in members}))
        members[1][0].during = lambda: members.append((self.join(1.0, members[-1][1]), members[-1][1]))
        self.clock.run(1.0)
        members.append((self.join(1.0, "e"), "e"))
        members.append((self.join(1.0, members[0][1]), members[0][1]))
        self.assertEqual(len(self.order(members)), len({key for _, key in members}))

    def test_who_joins_late_is_left_out_though_others_of_the_key_are_called(self):
        members = [self.join(1.0, key) for _ in range(3) for key in "ab"]
        self.clock.sleep(1.5)
        late = self.join(1.0, "a")
        self.clock.advance(0)
        self.assertEqual(([len(member.calls) for member in members], late.calls), ([1] * 6, []))
        self.clock.run(1.0)
        self.assertEqual(({len(member.calls) for member in members}, len(late.calls)), ({2}, 1))

    def test_a_phase_that_many_of_the_same_keys_made_too_large_is_spread(self):
        keys = range(FULL)
        members = [(self.join(1.0, key), key) for _ in range(10) for key in keys]
        self.assertEqual(list(self.phases([member for member, _ in members]).values()), [10 * FULL])
        self.clock.run(2.0)
        sizes = self.phases([member for member, _ in members])
        self.assertEqual(len(sizes), 4)
        self.assertLessEqual(max(sizes.values()), 4 * FULL)
        for key in keys:
            self.assertEqual(len({member.moments[0] for member, its_key in members if its_key == key}), 1)
        self.assertEqual(self.phases([member for member, _ in members]), sizes)

    def test_one_key_is_never_spread(self):
        members = self.join_many(9 * FULL, key="crowd") + self.join_many(10)
        self.clock.run(3.0)
        self.assertEqual(sorted(self.phases(members).values()), [10, 9 * FULL])


class FinishingTests(ScheduleTestCase):
    def setUp(self):
        super().setUp()
        self.lateness = Histogram(LATENESS_BOUNDS)
        self.schedule = Schedule(self.clock, self.lateness)
        self.finished = []

    def begin(self, name=None, calls=1, seconds=0.0, then=None):
        """Return what a member does in its call: begin something, which is finished later."""

        def finish():
            self.clock.sleep(seconds)
            self.finished.append((name, self.clock.seconds()))
            if then is not None:
                then()
            return calls

        return lambda: self.assertIs(self.schedule.finish_soon(finish), True)

    def observed(self):
        return sum(self.lateness.counts), round(self.lateness.total, 6)

    def names(self):
        return [name for name, _ in self.finished]

    def test_outside_of_a_call_nothing_is_promised(self):
        self.assertIs(self.schedule.finish_soon(self.fail), False)
        self.join(1.0, during=self.begin())
        self.clock.run(1.0)
        self.assertIs(self.schedule.finish_soon(self.fail), False)
        self.clock.run(5.0)

    def test_what_is_finished_begins_nothing_that_would_be_finished(self):
        promises = []
        self.join(1.0, during=self.begin(then=lambda: promises.append(self.schedule.finish_soon(self.fail))))
        self.clock.run(2.0)
        self.assertEqual(promises, [False, False])

    def test_each_is_finished_once_in_the_order_they_began_and_a_few_calls_later_at_most(self):
        called = []
        members = self.join_many(4 * CALLS_BETWEEN_LOOKS)
        for name, member in enumerate(members):
            member.during = lambda name=name: (called.append(name), self.begin((name, len(called)))())
        began = []
        for member in members:
            during = member.during
            member.during = lambda during=during: (during(), began.append(len(self.finished)))
        self.clock.advance(1.0)
        self.assertEqual([name for (name, _), _ in self.finished], called)
        self.assertLessEqual(max(at - finished for at, finished in enumerate(began)), CALLS_BETWEEN_LOOKS + 1)
        self.clock.advance(0)
        self.assertEqual(len(self.finished), len(members))

    def test_it_is_finished_when_all_of_its_key_have_been_called(self):
        keys = ["a", "b", "c"]
        calls, begun = Counter(), set()

        def during(key):
            calls[key] += 1
            if key not in begun:
                begun.add(key)
                self.begin(key, then=lambda: (begun.remove(key), seen.append(calls[key])))()

        seen = []
        members = [self.join(1.0, key, during=partial(during, key)) for _ in range(50) for key in keys]
        for _ in range(2):
            self.clock.advance(1.0)
        members.pop(70).leave()
        self.clock.advance(1.0)
        self.assertEqual(
            (sorted(self.names()), sorted(seen)), (sorted(3 * keys), [*[50] * 3, *[100] * 3, 149, 150, 150])
        )

    def test_calls_that_give_way_are_finished_before_others_have_their_turn(self):
        members = self.join_many(FULL)
        for member in members:
            member.during = lambda: (self.begin()(), self.clock.sleep(0.001))
        turns = []
        self.clock.callLater(1.0 + 1e-6, lambda: turns.append(len(self.finished)))
        self.clock.advance(1.0)
        self.assertEqual((turns, len(self.finished)), ([CALLS_BETWEEN_LOOKS], FULL))

    def test_each_counts_for_as_many_calls_as_it_says_as_late_as_it_is(self):
        self.join(1.0, during=self.begin(calls=3, seconds=0.25))
        self.clock.advance(1.125)
        self.assertEqual(self.observed(), (3, 3 * 0.375))

    def test_one_that_was_for_no_call_counts_nothing(self):
        self.join(1.0, during=self.begin(calls=0))
        self.clock.advance(1.125)
        self.assertEqual((len(self.finished), self.observed()), (1, (0, 0.0)))

    def test_each_is_late_from_when_its_own_call_was_due(self):
        for period in (0.5, 0.75):
            self.join(period, during=self.begin(period))
        self.clock.sleep(0.875)
        self.clock.advance(0)
        self.assertEqual((self.names(), self.observed()), ([0.5, 0.75], (2, 0.375 + 0.125)))

    def test_one_that_raises_is_logged_once_and_does_not_count_and_the_others_are_done(self):
        def fails():
            raise ZeroDivisionError("it")

        members = [self.join(1.0, during=self.begin(name, then=fails if name == 1 else None)) for name in range(3)]
        self.clock.advance(1.0)
        self.assertEqual((sorted(self.names()), self.observed()), ([0, 1, 2], (2, 0.0)))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        members[1].during = None
        self.clock.advance(1.0)
        self.assertEqual((len(self.finished), self.observed()), (5, (4, 0.0)))

    def test_it_is_done_though_the_call_raises_that_began_it(self):
        class Tried(Member):
            def failed(self):
                pass

        def during():
            self.begin("begun")()
            raise ZeroDivisionError

        Tried(self.schedule, 1.0, during=during)
        self.clock.advance(1.0)
        self.assertEqual(self.names(), ["begun"])

    def test_it_is_done_though_whoever_began_it_leaves(self):
        others = self.join_many(3)
        member = self.join(1.0)
        member.during = lambda: (self.begin("left")(), member.leave())
        self.clock.advance(1.0)
        self.assertEqual((self.names(), [len(other.calls) for other in others]), (["left"], [1, 1, 1]))

    def test_it_is_done_though_all_leave_and_the_schedule_is_empty(self):
        members = self.join_many(5)
        members[-1].during = lambda: (self.begin("empty")(), [member.leave() for member in members])
        self.clock.advance(1.0)
        self.assertEqual((self.names(), self.clock.getDelayedCalls()), (["empty"], []))
        self.assertIs(self.schedule.finish_soon(self.fail), False)

    def test_it_may_have_everyone_leave(self):
        members = self.join_many(5)
        members[-1].during = self.begin("last", then=lambda: [member.leave() for member in members])
        self.clock.advance(1.0)
        self.assertEqual((self.names(), self.clock.getDelayedCalls()), (["last"], []))

    def test_it_may_have_others_join(self):
        joined = []
        member = self.join(1.0, during=self.begin("joining", then=lambda: joined.append(self.join(0.5))))
        self.clock.advance(1.0)
        member.during = None
        self.clock.run(1.0)
        self.assertEqual(joined[0].moments, [1.5, 2.0])

    def test_when_calls_are_caught_up_with_it_is_done_at_once(self):
        self.join(1.0, during=self.begin("caught up", calls=2))
        self.clock.sleep(1.25)
        self.schedule.catch_up()
        self.assertEqual((self.finished, self.observed()), ([("caught up", 1.25)], (2, 0.5)))
        self.clock.advance(0)
        self.assertEqual(len(self.finished), 1)


class WakeUpTests(ScheduleTestCase):
    def waiting(self):
        return [call.getTime() for call in self.clock.getDelayedCalls()]

    def test_the_one_delayed_call_is_for_the_earliest_phase(self):
        for period, waiting in ((5.0, 5.0), (2.0, 2.0), (8.0, 2.0), (1.0, 1.0), (3.0, 1.0)):
            self.join(period)
            self.assertEqual(self.waiting(), [waiting])

    def test_after_a_firing_it_is_for_the_phase_that_is_next(self):
        for period in (5.0, 2.0, 8.0):
            self.join(period)
        for waiting in (4.0, 5.0, 6.0, 8.0, 10.0):
            self.clock.run(self.waiting()[0] - self.clock.seconds())
            self.assertEqual(self.waiting(), [waiting])

    def test_one_who_joins_within_a_call_may_be_the_next(self):
        self.join(4.0, during=lambda: self.join(1.0))
        self.clock.run(4.0)
        self.assertEqual(self.waiting(), [5.0])
        self.assertEqual(self.clock.most, 1)

    def test_a_wake_up_for_one_who_left_calls_nobody_and_the_next_is_on_time(self):
        first, second = self.join(1.0), self.join(5.0)
        first.leave()
        self.clock.run(10.0)
        self.assertEqual((first.moments, second.moments), ([], [5.0, 10.0]))

    def test_a_wake_up_for_one_who_left_is_one_with_that_for_others_of_the_moment(self):
        first, second = self.join(1.0), self.join(0.5)
        first.leave()
        self.clock.run(1.0)
        self.assertEqual((second.moments, self.clock.ran), ([0.5, 1.0], 2))

    def test_most_may_leave_and_the_rest_are_called_in_their_order(self):
        members = {period: self.join(float(period)) for period in (1, 5, 2, 6, 7, 3, 4)}
        for period in (1, 6, 7, 4):
            members[period].leave()
        self.clock.run(6.0)
        self.assertEqual(
            {period: member.moments for period, member in members.items() if member.calls},
            {5: [5.0], 2: [2.0, 4.0, 6.0], 3: [3.0, 6.0]},
        )

    def test_when_the_last_leaves_there_is_none(self):
        members = [self.join(float(period)) for period in (3, 1, 2)]
        for member in members:
            self.assertEqual(len(self.waiting()), 1)
            member.leave()
        self.assertEqual(self.waiting(), [])
        self.assertEqual(self.firings(), 0)

    def test_after_the_last_left_the_next_to_join_is_called_on_time(self):
        self.join(1.0).leave()
        member = self.join(5.0)
        self.clock.run(5.0)
        self.assertEqual(member.moments, [5.0])

    def test_joining_leaving_and_changing_in_a_large_cohort_make_no_delayed_call(self):
        members = self.join_many(10_000)
        self.join(2.0)
        self.clock.run(0.75)
        made, waiting = self.clock.made, self.waiting()
        members.append(self.join(1.0))
        members[5000].leave()
        members[6000].change(2.0)
        self.assertEqual((self.clock.made, self.waiting()), (made, waiting))


class GrowthTests(ScheduleTestCase):
    def setUp(self):
        super().setUp()
        for period in (1800.0, 3600.0, 7200.0):
            self.join(period)

    def test_an_endless_series_of_changes_among_long_periods_leaves_nothing_behind(self):
        member = self.join(DAY)
        made = self.clock.made
        largest = 0
        for number in range(1, 30_000):
            member.change(DAY - number)
            largest = max(largest, self.firings())
        self.assertLessEqual(largest, 2 * 4)
        self.assertEqual((self.movers(), self.clock.made), (0, made))
        self.clock.run(DAY - 29_999)
        self.assertEqual(member.moments, [DAY - 29_999])

    def test_an_endless_series_of_changes_by_the_only_member_leaves_nothing_behind(self):
        schedule = self.schedule = Schedule(self.clock, Histogram(LATENESS_BOUNDS))
        member = Member(schedule, DAY)
        largest = 0
        for number in range(1, 5_000):
            member.change(DAY - number)
            largest = max(largest, self.firings())
        self.assertEqual(largest, 1)

    def test_an_endless_series_of_changes_to_longer_periods_leaves_one_to_come(self):
        member = self.join(DAY)
        for number in range(1, 10_000):
            member.change(DAY + number)
        self.assertLessEqual(self.firings(), 2 * 4)
        self.assertEqual(self.movers(), 1)
        self.clock.run(2 * DAY + 10_000)
        self.assertEqual(member.moments, [DAY + 1, 2 * DAY + 10_000])
        self.assertEqual((self.firings(), self.movers()), (4, 0))

    def test_an_endless_series_of_changes_to_and_fro_leaves_nothing_behind(self):
        member = self.join(DAY)
        largest = 0
        for number in range(1, 10_000):
            member.change(DAY - number)
            member.change(DAY)
            member.change(DAY + number)
            largest = max(largest, self.firings())
        self.assertLessEqual(largest, 2 * 4)
        self.assertLessEqual(self.movers(), 1)

    def test_an_endless_series_of_joins_and_leaves_leaves_nothing_behind(self):
        largest = 0
        for number in range(20_000):
            self.join(DAY + number).leave()
            largest = max(largest, self.firings())
        self.assertLessEqual(largest, 2 * 4)

    def test_leaving_seldom_goes_through_all_that_are_there(self):
        members = [self.join(DAY + number) for number in range(1000)]
        lists = [self.schedule._firings]
        for _ in range(10):  # far fewer than half, and gone by the time of their wake-up
            for number in range(300):
                self.join(1.0 + number / 1024).leave()
            self.clock.run(2.0)
        self.assertIs(self.schedule._firings, lists[0])
        for member in members:
            member.leave()
            if self.schedule._firings is not lists[-1]:
                lists.append(self.schedule._firings)
        self.assertLess(len(lists), 12)

    def test_members_who_come_and_go_open_no_phase(self):
        members = self.join_many(1000)
        phases = len(self.phases(members))
        for _ in range(500):
            for member in members[:10]:
                member.leave()
            members = members[10:] + self.join_many(10)
        self.assertEqual(len(self.phases(members)), phases)
        self.assertLessEqual(self.firings(), 2 * (phases + 3))


class Promise:
    """What the schedule promises to one that joined or was called just now.

    Attributes:
        since: When that was.
        made: When it last changed, or as above.
        latest: When it is called again at the latest.
        periods: That in force then, and those it changed to.
    """

    def __init__(self, now, period):
        self.since = now
        self.made = now
        self.latest = now + period
        self.periods = [period]
        self._changed = False

    def change(self, now, period, late):
        """The first change after a call counts from now; those that follow it put nothing off.

        The first after one to a cohort whose firing was late counts from now too.
        """
        if period == self.periods[-1]:
            return
        self.made = now
        self.periods.append(period)
        self.latest = min(self.latest if self._changed else math.inf, now + period)
        self._changed = self._changed or not late

    def excuse(self, late, now):
        """One that joined or changed while firings were late has no part in them."""
        if self.made >= late:
            self.latest = max(self.latest, now + max(self.periods))
            self._changed = False

    def renewed(self, now):
        return Promise(now, self.periods[-1])


class Watched(Member):
    """A member that holds the schedule to what it promises, at each call."""

    def __init__(self, schedule, period, key=None):
        self.current = True
        self.promise = Promise(schedule.clock.seconds(), period)
        super().__init__(schedule, period, key)

    def call(self, key):
        now, due, missed = self.clock.seconds(), self.schedule.due, self.schedule.missed
        promise = self.promise
        assert self.current
        assert promise.since < due <= now, "not twice at one moment, nor for what was due before it joined"
        assert now - due < max(promise.periods)
        assert missed * min(promise.periods) < due - promise.since
        self.promise = promise.renewed(now)
        if self.during:
            during, self.during = self.during, None
            during()

    def leave(self):
        self.current = False
        super().leave()

    def change(self, period):
        super().change(period)
        now = self.clock.seconds()
        if self.current:
            self.promise.change(now, period, late=self.membership.phase.due <= now)

    def is_served(self):
        """Tell whether all calls that were due by now have been made."""
        return not self.current or self.clock.seconds() < self.promise.latest


class Troupe:
    """Members who join, leave and change, at any time and in their calls."""

    def __init__(self):
        self.clock = CountingClock()
        self.schedule = Schedule(self.clock, Histogram(LATENESS_BOUNDS))
        self.members = []
        self.slept = math.inf  # since when nothing ran that was due

    def some(self, first, count):
        first %= len(self.members) or 1
        return self.members[first : first + count]

    def join(self, count, period, key):
        self.members += [Watched(self.schedule, period, key) for _ in range(count)]

    def leave(self, first, count):
        for member in self.some(first, count):
            member.leave()

    def change(self, first, count, period):
        for member in self.some(first, count):
            member.change(period)

    def within_calls(self, first, count, act):
        for member in self.some(first, count):
            member.during = partial(self.perform, act)

    def perform(self, act):
        name, *args = act
        getattr(self, name)(*args)

    def run(self, seconds):
        self.stall(0)
        self.clock.run(seconds)
        self.look()

    def stall(self, seconds):
        self.clock.advance(seconds)
        for member in self.members:
            member.promise.excuse(self.slept, self.clock.seconds())
        self.slept = math.inf
        self.look()

    def sleep(self, seconds):
        self.clock.sleep(seconds)
        self.slept = min(self.slept, self.clock.seconds())

    def look(self):
        assert all(member.is_served() for member in self.members)
        assert self.clock.most <= 1
        self.members = [member for member in self.members if member.current]
        assert bool(self.clock.calls) == bool(self.members)


counts = st.sampled_from([1, 2, 30, HALF, 100, FULL + 1])
places = st.integers(0, 500)
few_periods = st.sampled_from([0.5, 1.0, 1.0, 1.25, 4.0])
changes_of_the_troupe = st.one_of(
    st.tuples(st.just("join"), counts, few_periods, st.sampled_from([None, None, "shared"])),
    st.tuples(st.just("leave"), places, counts),
    st.tuples(st.just("change"), places, counts, few_periods),
)
spans = st.integers(1, 48).map(lambda number: number / 16)
acts = st.one_of(
    changes_of_the_troupe,
    st.tuples(st.just("within_calls"), places, st.sampled_from([1, 3]), changes_of_the_troupe),
    st.tuples(st.sampled_from(["run", "stall", "sleep"]), spans),
)


class TroupeTests(SynchronousTestCase):
    @settings(deadline=None, max_examples=60)
    @given(st.lists(acts, max_size=16))
    def test_each_member_is_called_once_in_each_period_of_its_stay_and_never_after(self, acts):
        troupe = Troupe()
        troupe.join(FULL + HALF, 1.0, None)
        for act in acts:
            troupe.perform(act)
        troupe.run(4.0)
        troupe.stall(9.0)
        troupe.leave(0, len(troupe.members))
        troupe.look()

    @settings(deadline=None, max_examples=40)
    @given(
        st.integers(1, 300),
        st.sampled_from([None, "crowd"]),
        st.integers(1, 2).map(lambda number: number / 1024),
        st.lists(st.tuples(st.integers(500, 2500), st.sampled_from(["leave", "join", "change"]), places), max_size=20),
    )
    def test_calls_that_take_long_leave_nobody_out_and_call_nobody_twice(self, count, key, seconds, acts):
        clock = CountingClock()
        schedule = Schedule(clock, Histogram(LATENESS_BOUNDS))
        members = [Member(schedule, 1.0, key, partial(clock.sleep, seconds)) for _ in range(count)]
        joined, left, changed = [], {}, set()

        def act(name, place):
            member = members[place % count]
            if name == "join":
                joined.append((Member(schedule, 1.0, key), clock.seconds()))
            elif name == "leave":
                member.leave()
                left.setdefault(member, len(member.calls))
            else:
                member.change(0.75)
                changed.add(member)

        for moment, *others in acts:
            clock.callLater(moment / 1024, act, *others)
        clock.run(4.0)
        for member in members:
            dues = [call.due for call in member.calls]
            self.assertEqual(dues, sorted(set(dues)))
            if member in left:
                self.assertEqual(len(dues), left[member])
            elif member not in changed:
                intervals = [after - before for before, after in itertools.pairwise([0.0, *dues, 4.0])]
                self.assertLessEqual(max(intervals), 1.0 + count * seconds)
        for member, moment in joined:
            self.assertTrue(moment < member.calls[0].due <= moment + 1.0)


class ScheduledTimerTests(SynchronousTestCase):
    def setUp(self):
        self.clock = CountingClock()
        self.calls = []
        self.schedule = Schedule(self.clock, Histogram(LATENESS_BOUNDS))
        self.timer = ScheduledTimer(self.schedule, "key", 1.0, self.call, "a", b="b")

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

    def test_alone_the_first_call_comes_one_step_after_the_start_with_its_arguments(self):
        self.timer.startService()
        self.assertTrue(self.timer.running)
        self.clock.advance(0.99)
        self.assertEqual(self.calls, [])
        self.clock.advance(0.01)
        self.assertEqual(self.calls, [(1.0, ("a",), {"b": "b"})])

    def test_the_call_gets_its_arguments_whether_or_not_they_are_the_key(self):
        key, other = object(), object()
        for args, kwargs in (((), {}), ((key,), {}), ((other,), {}), ((key, other), {}), ((key,), {"b": "b"})):
            timer = ScheduledTimer(self.schedule, key, 1.0, self.call, *args, **kwargs)
            timer.startService()
            self.clock.run(1.0)
            self.assertEqual(self.calls.pop()[1:], (args, kwargs))
            timer.stopService()

    def test_beside_others_the_first_call_comes_with_theirs(self):
        ScheduledTimer(self.schedule, "other", 1.0, int).startService()
        self.clock.advance(0.75)
        self.timer.startService()
        self.clock.advance(0.25)
        self.assertEqual(self.times(), [1.0])

    def test_timers_of_one_key_and_step_are_called_in_one_firing(self):
        timers = [ScheduledTimer(self.schedule, "pair", 1.0, self.call)]
        timers += [ScheduledTimer(self.schedule, object(), 1.0, int) for _ in range(FULL)]
        timers += [ScheduledTimer(self.schedule, "pair", 1.0, self.call)]
        for timer in timers:
            timer.startService()
        self.clock.run(1.0)
        self.assertEqual(self.times(), [1.0, 1.0])

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
        timer = ScheduledTimer(self.schedule, "key", 1.0, lambda: (self.call(), timer.stopService()))
        timer.startService()
        self.clock.pump([1.0, 1.0])
        self.assertEqual(self.times(), [1.0])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_alone_and_started_again_it_waits_a_whole_step(self):
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

    def test_a_step_assigned_while_stopped_holds_from_the_next_start_on(self):
        self.timer.startService()
        self.timer.stopService()
        self.timer.step = 3.0
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.timer.startService()
        self.clock.run(6.0)
        self.assertEqual(self.times(), [3.0, 6.0])

    def test_a_longer_step_counts_from_the_change(self):
        self.timer.startService()
        self.clock.run(1.5)
        self.timer.step = 4.0
        self.assertEqual(self.timer.step, 4.0)
        self.clock.run(8.0)
        self.assertEqual(self.times(), [1.0, 5.5, 9.5])

    def test_a_shorter_step_whose_call_would_be_past_counts_from_now(self):
        self.timer.step = 10.0
        self.timer.startService()
        self.clock.advance(5.0)
        self.timer.step = 1.0
        self.clock.advance(0.99)
        self.assertEqual(self.times(), [])
        self.clock.advance(0.01)
        self.assertEqual(self.times(), [6.0])

    def test_repeated_changes_to_a_step_that_is_not_past_do_not_starve_it(self):
        self.timer.startService()
        for _ in range(40):
            self.clock.advance(0.25)
            self.timer.step = 2.0
        self.assertEqual(self.times(), [2.25, 4.25, 6.25, 8.25])

    def test_the_step_may_change_within_a_call(self):
        timer = ScheduledTimer(self.schedule, "key", 1.0, lambda: (self.call(), setattr(timer, "step", 0.5)))
        timer.startService()
        self.clock.pump([1.0, 0.5, 0.5])
        self.assertEqual(self.times(), [1.0, 1.5, 2.0])
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_a_call_sees_when_it_was_due_and_what_was_slept_through(self):
        seen, schedule = [], self.schedule
        timer = ScheduledTimer(schedule, "key", 1.0, lambda: seen.append((schedule.due, schedule.missed)))
        timer.startService()
        self.clock.pump([1.25, 3.0, 0.75])
        self.assertEqual(seen, [(1.0, 0), (4.0, 2), (5.0, 0)])

    def test_a_callable_that_raises_is_counted_and_logged_and_the_timer_goes_on(self):
        timer = ScheduledTimer(self.schedule, "key", 1.0, lambda: 1 / 0)
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


few_steps = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0])
quarters = st.integers(0, 16).map(lambda number: number / 4)


class ChangesTests(SynchronousTestCase):
    def start(self, step, companions=()):
        self.clock = CountingClock()
        schedule = Schedule(self.clock, Histogram(LATENESS_BOUNDS))
        for number, (other, seconds) in enumerate(companions):
            ScheduledTimer(schedule, number, other, int).startService()
            self.clock.run(seconds)
        self.timer = ScheduledTimer(schedule, "key", step, self.call)
        self.timer.startService()
        self.calls = []  # when, not before and not after when
        self.steps_in_calls = []
        self.changed = self.clock.seconds()
        self.promise = Promise(self.changed, step)

    def call(self):
        now = self.clock.seconds()
        self.calls.append((now, max(self.changed, self.promise.since), self.promise.latest))
        self.promise = self.promise.renewed(now)
        if self.steps_in_calls:
            self.change(self.steps_in_calls.pop())

    def change(self, step):
        self.changed = self.clock.seconds()
        self.promise.change(self.changed, step, late=self.changed == self.promise.since)
        self.timer.step = step

    def test_repeated_changes_to_a_step_that_is_past_do_not_starve_it(self):
        self.start(10.0)
        self.clock.advance(5.0)
        for _ in range(20):
            self.timer.step = 1.0
            self.clock.advance(0.75)
        self.assertGreater(len(self.calls), 10)

    @settings(deadline=None)
    @given(exact_seconds, exact_seconds, st.data())
    def test_alone_a_change_causes_no_call_and_the_next_comes_one_new_step_later_at_most(self, old, new, data):
        self.start(old)
        self.clock.advance(data.draw(st.integers(0, int(old * 1024) - 1)) / 1024)
        changed = self.clock.seconds()
        self.change(new)
        self.assertEqual((self.calls, self.timer.step), ([], new))
        next_call = self.clock.getDelayedCalls()[0].getTime()
        self.assertGreaterEqual(next_call, max(changed, min(old, new)))
        self.assertLessEqual(next_call, changed + new)
        self.clock.run(next_call - changed)
        self.assertEqual([now for now, _, _ in self.calls], [next_call])

    @settings(deadline=None)
    @given(st.lists(st.tuples(coarse_seconds, coarse_seconds), max_size=20))
    def test_alone_the_shortest_step_since_the_last_call_lies_between_two_calls_at_least(self, changes):
        self.start(1.0)
        steps, shortest = [1.0], []
        for step, seconds in changes:
            steps.append(step)
            self.change(step)
            calls = len(self.calls)
            self.clock.run(seconds)
            for _ in self.calls[calls:]:
                shortest.append(min(steps))
                del steps[:-1]
        moments = [0.0, *(now for now, _, _ in self.calls)]
        for interval, step in zip(itertools.pairwise(moments), shortest, strict=True):
            self.assertLessEqual(step, interval[1] - interval[0])

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(few_steps, quarters), max_size=4),
        few_steps,
        st.lists(st.tuples(few_steps, quarters, st.lists(few_steps, max_size=2)), max_size=12),
    )
    def test_beside_others_changes_cause_no_call_and_put_none_off_but_the_first_after_a_call(
        self, companions, step, changes
    ):
        self.start(step, companions)
        for new_step, seconds, self.steps_in_calls in changes:
            self.change(new_step)
            self.clock.run(seconds)
            self.assertLess(self.clock.seconds(), self.promise.latest)
        for now, earliest, latest in self.calls:
            self.assertTrue(earliest < now <= latest, (earliest, now, latest))
