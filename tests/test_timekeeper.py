import math
import sys

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import InvalidValue
from clockd.offset import LARGEST_STAMP, LIKELY_DRIFT
from clockd.timekeeper import DOUBT_SECONDS, HOLDOVER_SECONDS, Arrival, TimeInterval, Timekeeper
from clockd.values import SERVER_DRIFT

UNIX = 1_800_000_000.0
DRIFT = 50e-6
NEAR = 3e-5
"""So far may apart what is calculated here and there, in seconds."""


class TimekeeperCase(SynchronousTestCase):
    """A client whose host's wall clock is 0.3 s behind the server's; messages take 10 ms."""

    def setUp(self):
        self.clock = Clock()
        self.ahead = UNIX
        self.keeper = Timekeeper(self.clock.seconds, self.wall)

    def wall(self):
        return self.clock.seconds() + UNIX - 0.3

    def server(self):
        return self.clock.seconds() + self.ahead

    def ask(self):
        begun = self.keeper.begin()
        begun.stamp()
        return begun

    def answer(self, begun, bound=0.002, status="synchronized", there=0.010, back=0.010):
        self.clock.advance(there)
        received = self.server()
        self.clock.advance(back)
        self.keeper.answered(begun, received, received, bound, status, self.clock.seconds())

    def exchange(self, **answer):
        self.answer(self.ask(), **answer)

    def push(self, delay=0.010):
        stamp = self.server()
        self.clock.advance(delay)
        self.keeper.pushed(stamp, self.clock.seconds())

    def check(self, status, bound, utc=False):
        """Check an interval: it holds, and it is as wide as expected."""
        interval = self.keeper.now(utc=utc)
        self.assertEqual(interval.status, status)
        self.assertLess(interval.earliest, self.server())
        self.assertGreater(interval.latest, self.server())
        self.assertApproximates(interval.bound, bound, NEAR)
        ahead, behind = interval.earliest - interval.wall, interval.latest - interval.wall
        self.assertTrue(ahead <= interval.offset <= behind)
        self.assertApproximates(interval.bound, max(interval.offset - ahead, behind - interval.offset), 1e-6)

    def check_nothing(self, status="unknown", utc=False):
        """Check that nothing is known but what this host's wall clock shows."""
        nothing = TimeInterval(-math.inf, math.inf, status, None, math.inf, self.wall())
        self.assertEqual(self.keeper.now(utc=utc), nothing)


class IntervalTests(TimekeeperCase):
    def test_before_the_first_exchange_nothing_is_known(self):
        self.push()
        for utc in (False, True):
            self.check_nothing(utc=utc)
        self.assertIsNone(self.keeper.round_trip)

    def test_after_it_the_bound_is_half_the_round_trip(self):
        self.exchange()
        self.check("synchronized", 0.010)
        self.assertApproximates(self.keeper.now().offset, 0.3, 1e-5)
        self.assertApproximates(self.keeper.round_trip, 0.020, 1e-6)

    def test_what_passes_before_the_question_goes_does_not_count(self):
        begun = self.keeper.begin()
        self.clock.advance(1.0)
        begun.stamp()
        self.answer(begun)
        self.assertApproximates(self.keeper.round_trip, 0.020, 1e-6)

    def test_the_status_is_what_the_server_says(self):
        for status in ("unsynchronized", "unknown", "synchronized"):
            self.exchange(status=status)
            self.check(status, 0.010)

    def test_the_bound_reaches_from_the_likely_offset_to_the_farther_end(self):
        self.exchange()
        self.clock.advance(6.0)
        self.push()
        self.check("synchronized", 0.010 + 6.01 * (DRIFT - LIKELY_DRIFT / 2))
        now = self.keeper.now()
        self.assertApproximates(now.latest - self.wall() - now.offset, now.bound, 1e-6)
        self.assertApproximates(now.offset - (now.earliest - self.wall()), 0.010, 1e-4)

    def test_utc_adds_what_the_servers_clock_may_be_wrong_and_what_that_grows_by(self):
        self.exchange(bound=0.005)
        self.check("synchronized", 0.015, utc=True)
        self.clock.advance(15.0)
        self.check("synchronized", 0.015 + 15 * (DRIFT + SERVER_DRIFT), utc=True)

    def test_utc_is_not_known_if_the_server_does_not_know_it(self):
        for status, bound in [("unknown", math.inf), ("unsynchronized", math.inf), ("unsynchronized", 0.001)]:
            self.exchange(status=status, bound=bound)
            self.check_nothing(status, utc=True)
            self.check(status, 0.010)

    def test_an_error_beyond_all_stamps_is_not_known(self):
        for bound in (LARGEST_STAMP, 1e300, sys.float_info.max):
            self.exchange(bound=bound)
            self.check_nothing("synchronized", utc=True)
            self.check("synchronized", 0.010)

    def test_the_time_that_it_takes_to_read_the_clocks_is_within_the_interval(self):
        self.exchange()
        before = self.server()
        self.keeper._wall = lambda: self.clock.advance(2.0) or self.wall()
        interval = self.keeper.now()
        self.assertLess(interval.earliest, before)
        self.assertGreater(interval.latest, self.server())
        self.assertApproximates(interval.bound, 1.010, 2e-4)
        self.assertApproximates(interval.wall, interval.earliest + 1.710, 2e-4)


class ArrivalTests(TimekeeperCase):
    def test_before_the_first_exchange_only_this_hosts_own_clock_is_known(self):
        moment = self.clock.seconds()
        self.clock.advance(0.5)
        self.assertEqual(self.keeper.at(moment), Arrival(UNIX - 0.3, None, math.inf))

    def test_it_is_told_as_of_the_moment_of_arrival(self):
        self.exchange()
        self.clock.advance(5.0)
        moment, wall = self.clock.seconds(), self.wall()
        self.clock.advance(0.5)
        arrival = self.keeper.at(moment)
        self.assertApproximates(arrival.received, wall, 1e-6)
        self.assertApproximates(arrival.offset, 0.3, NEAR)
        self.assertApproximates(arrival.bound, 0.010 + 5 * DRIFT, NEAR)

    def test_the_bound_has_room_for_the_time_that_it_takes_to_read_the_clocks(self):
        self.exchange()
        moment = self.clock.seconds()
        self.keeper._wall = lambda: self.clock.advance(2.0) or self.wall()
        arrival = self.keeper.at(moment)
        self.assertApproximates(arrival.bound, 1.010, NEAR)
        self.assertLess(abs(arrival.offset - 0.3), arrival.bound)


class HoldoverTests(TimekeeperCase):
    def setUp(self):
        super().setUp()
        self.exchange()

    def test_an_exchange_of_long_ago_is_holdover(self):
        self.clock.advance(HOLDOVER_SECONDS - 0.1)
        self.check("synchronized", 0.010 + HOLDOVER_SECONDS * DRIFT)
        self.clock.advance(0.2)
        self.check("holdover", 0.010 + HOLDOVER_SECONDS * DRIFT)

    def test_without_a_connection_what_is_known_holds_with_a_bound_that_grows(self):
        self.keeper.lost()
        self.check("holdover", 0.010)
        self.clock.advance(3600.0)
        self.check("holdover", 0.010 + 3600 * DRIFT)
        self.check("holdover", 0.012 + 3600 * (DRIFT + SERVER_DRIFT), utc=True)

    def test_the_first_exchange_after_it_takes_the_place_of_all(self):
        self.exchange(there=0.0, back=0.0)
        self.keeper.lost()
        self.ahead += 0.001  # another server, whose clock is another
        self.exchange()
        self.check("synchronized", 0.010)
        self.assertEqual(self.keeper.steps, 0)

    def test_until_then_pushes_say_nothing(self):
        self.keeper.lost()
        before = self.keeper.now()
        for self.ahead in (UNIX + 100, UNIX, UNIX - 100):
            self.push(delay=0.0)
        self.assertEqual(self.keeper.now(), before)
        self.assertFalse(self.keeper.wanted)

    def test_an_answer_to_a_question_from_before_does_not_count(self):
        begun = self.ask()
        self.keeper.lost()
        self.ahead += 5.0
        self.answer(begun)
        self.ahead -= 5.0
        self.check("holdover", 0.010)


class NoticeTests(TimekeeperCase):
    def setUp(self):
        super().setUp()
        self.exchange()

    def test_all_is_forgotten_until_the_next_exchange(self):
        self.ahead += 1.0
        self.keeper.stepped()
        self.check_nothing()
        self.push()
        self.check_nothing()
        self.exchange()
        self.check("synchronized", 0.010)
        self.assertEqual(self.keeper.steps, 1)

    def test_an_exchange_is_wanted_and_there_is_no_hurry(self):
        self.assertEqual((self.keeper.wanted, self.keeper.hurry), (False, False))
        self.keeper.stepped()
        self.assertEqual((self.keeper.wanted, self.keeper.hurry), (True, False))
        self.ask()
        self.assertEqual((self.keeper.wanted, self.keeper.hurry), (False, False))

    def test_an_answer_to_a_question_from_before_does_not_count(self):
        begun = self.ask()
        self.keeper.stepped()
        self.answer(begun)
        self.check_nothing()
        self.assertTrue(self.keeper.wanted)


class StepTests(TimekeeperCase):
    """What is noticed without a notice."""

    def setUp(self):
        super().setUp()
        self.exchange()
        self.clock.advance(DOUBT_SECONDS)

    def test_a_push_from_the_future_proves_a_step_and_the_next_exchange_is_in_a_hurry(self):
        begun = self.ask()
        self.ahead += 0.1
        self.push()
        self.check_nothing()
        self.assertEqual((self.keeper.wanted, self.keeper.hurry, self.keeper.steps), (True, True, 1))
        self.answer(begun)
        self.check_nothing()
        self.exchange()
        self.check("synchronized", 0.010)

    def test_after_one_late_push_the_interval_has_room_for_a_step_back_and_after_two_an_exchange_is_wanted(self):
        self.ahead -= 0.1
        self.push()
        self.check("synchronized", 0.110)
        self.assertFalse(self.keeper.wanted)
        self.push()
        self.check("synchronized", 0.110)
        self.assertEqual((self.keeper.wanted, self.keeper.hurry, self.keeper.steps), (True, True, 0))
        self.exchange()
        self.check("synchronized", 0.010)
        self.assertEqual(self.keeper.steps, 1)

    def test_a_connection_that_is_lost_wants_nothing(self):
        self.ahead += 0.1
        self.push()
        self.keeper.lost()
        self.assertEqual((self.keeper.wanted, self.keeper.hurry), (False, False))

    def test_after_late_pushes_that_do_not_follow_each_other_none_is_wanted(self):
        for _ in range(3):
            self.push(delay=0.5)
            self.push()
        self.assertFalse(self.keeper.wanted)
        self.check("synchronized", 0.010 + 2.53 * DRIFT)

    def test_soon_after_an_exchange_late_pushes_ask_for_none(self):
        self.exchange()
        for _ in range(3):
            self.push(delay=0.2)
        self.assertFalse(self.keeper.wanted)
        self.clock.advance(DOUBT_SECONDS)
        self.push(delay=0.2)
        self.assertTrue(self.keeper.wanted)

    def test_an_exchange_ends_the_doubt(self):
        self.push(delay=0.5)
        self.exchange()
        self.clock.advance(DOUBT_SECONDS)
        self.push(delay=0.5)
        self.assertFalse(self.keeper.wanted)

    def test_an_exchange_that_contradicts_takes_the_place_of_all(self):
        for n, step in enumerate((3600.0, -0.1, 0.1, -3600.0), 1):
            self.ahead += step
            self.exchange()
            self.check("synchronized", 0.010)
            self.assertEqual(self.keeper.steps, n)


class NonsenseTests(TimekeeperCase):
    def setUp(self):
        super().setUp()
        self.exchange()

    def check_refused(self, *answer):
        begun = self.ask()
        before = self.keeper.now()
        self.assertRaises(InvalidValue, self.keeper.answered, begun, *answer, self.clock.seconds())
        self.assertEqual(self.keeper.now(), before)

    def test_an_answer_that_cannot_be_is_refused(self):
        self.check_refused(math.nan, self.server(), 0.0, "synchronized")
        self.check_refused(self.server(), self.server() + 1, 0.0, "synchronized")
        self.check_refused(self.server(), self.server(), math.nan, "synchronized")
        self.check_refused(self.server(), self.server(), -1e-9, "synchronized")

    def test_it_is_refused_in_holdover_too(self):
        self.keeper.lost()
        self.check_refused(self.server(), math.inf, 0.0, "synchronized")
        self.check("holdover", 0.010)

    def test_a_push_that_is_no_time_is_refused(self):
        before = self.keeper.now()
        self.assertRaises(InvalidValue, self.keeper.pushed, math.nan, self.clock.seconds())
        self.assertEqual(self.keeper.now(), before)
