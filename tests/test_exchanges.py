import math

from doubles import EPOCH
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clockd.errors import NotConnected, ServerFault, UnknownMethod
from clockd.exchanges import ENOUGH, EXCHANGE_SECONDS, FIRST_SECONDS, HERD_SECONDS, MOST, SPREAD, Exchanges
from clockd.timekeeper import Timekeeper


class Link:
    """A connection whose questions the test answers, through `asked`."""

    endpoint = "tcp:clock.example:8787"

    def __init__(self, clock):
        self.clock = clock
        self.asked = []
        self.times = []

    async def exchange(self, stamp):
        stamp()
        self.times.append(self.clock.seconds())
        self.asked.append(Deferred())
        return await self.asked[-1]

    def answer(self, *told, ahead=EPOCH):
        now = self.clock.seconds()
        self.asked[-1].callback((told or (0.0, now + ahead, now + ahead, 0.0, "synchronized"), now))


class ExchangesTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.link = Link(self.clock)
        self.timekeeper = Timekeeper(self.clock.seconds, lambda: EPOCH + self.clock.seconds())
        self.part = 0.5  # what chance returns: the middle
        self.noticed = 0
        self.exchanges = Exchanges(self.link, self.timekeeper, self.clock, self.chance, self.notice)
        self.run_ = Deferred.fromCoroutine(self.exchanges.run())
        self.addCleanup(self.stop)

    def stop(self):
        self.run_.addErrback(lambda failure: failure.trap(CancelledError))
        self.run_.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def chance(self, low, high):
        return low + self.part * (high - low)

    def notice(self):
        self.noticed += 1

    def advance(self, seconds, step=2.0**-9):
        """Let time pass, and answer each question at once."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            if self.link.asked and not self.link.asked[-1].called:
                self.link.answer()

    def settled(self):
        """Have the first exchanges done."""
        self.advance(0.25)
        self.link.times.clear()

    def first(self, *delays):
        """Have the first exchanges take so long, the rest as long as the last of these; return how many there are."""
        delays = [*delays, *[delays[-1]] * MOST]
        while True:
            self.clock.advance(FIRST_SECONDS)
            if self.link.asked[-1].called:
                return len(self.link.asked)
            self.clock.advance(delays.pop(0))
            self.link.answer()

    def test_five_at_first_then_one_in_six_seconds(self):
        self.advance(13)
        self.assertEqual(len(self.link.times), 7)
        for time, expected in zip(self.link.times, (0.0, 0.05, 0.1, 0.15, 0.2, 6.2, 12.2), strict=True):
            self.assertApproximates(time, expected, 0.02)
        self.assertEqual(self.noticed, 7)

    def test_at_first_they_go_on_until_some_in_a_row_have_told_nothing_new(self):
        self.assertEqual(ENOUGH, 4)
        for delays, count in (
            ([0.010], 5),
            ([0.010, 0.020, 0.500, 0.020, 0.010], 5),
            ([0.100, 0.010], 6),
            ([0.100, 0.100, 0.100, 0.010], 8),
            ([0.100, 0.089, 0.089], 6),
            ([0.100, 0.091, 0.091], 5),
        ):
            self.stop()
            self.setUp()
            self.assertEqual(self.first(*delays), count, delays)

    def test_there_is_a_limit_to_that(self):
        self.assertEqual(self.first(*[0.5**n for n in range(20)]), MOST)

    def test_what_is_not_answered_tells_nothing_new(self):
        for _ in range(5):
            self.clock.advance(FIRST_SECONDS)
            self.link.asked[-1].errback(NotConnected("no answer"))
        self.clock.advance(FIRST_SECONDS)
        self.assertEqual(len(self.link.asked), 5)

    def test_chance_spreads_them(self):
        for part, seconds in ((0.0, 1 - SPREAD), (1.0, 1 + SPREAD)):
            self.part = part
            self.advance(30)
            before, last = self.link.times[-2:]
            self.assertAlmostEqual(last - before, EXCHANGE_SECONDS * seconds, 1)

    def test_what_they_tell_is_known(self):
        self.settled()
        now = self.timekeeper.now()
        self.assertEqual((now.status, self.timekeeper.round_trip), ("synchronized", 0.0))
        self.assertAlmostEqual(now.earliest, EPOCH + self.clock.seconds(), 3)

    def test_one_is_under_way_at_a_time(self):
        self.clock.advance(0)
        self.clock.pump([1.0] * 20)
        self.assertEqual(len(self.link.asked), 1)
        self.link.answer()
        self.clock.advance(0.05)
        self.assertEqual(len(self.link.asked), 2)

    def test_one_that_is_not_answered_is_followed_by_the_next(self):
        self.clock.advance(0)
        self.link.asked[-1].errback(NotConnected("no answer"))
        self.advance(0.25)
        self.assertEqual(len(self.link.asked), 5)
        self.assertEqual(self.timekeeper.now().status, "synchronized")

    def test_a_server_without_exchange_is_asked_once(self):
        for error in (UnknownMethod("no such method"), ServerFault("the server failed: builtins.AttributeError")):
            self.stop()
            self.setUp()
            self.clock.advance(0)
            self.link.asked[-1].errback(error)
            self.clock.pump([1.0] * 30)
            self.assertEqual((len(self.link.asked), self.successResultOf(self.run_)), (1, None))
            self.assertEqual(self.timekeeper.now().bound, math.inf)
            self.exchanges.hasten()

    def test_an_answer_that_makes_no_sense_is_none(self):
        true = (0.0, EPOCH, EPOCH, 0.0, "synchronized")
        for told in (
            *(true[:4], (*true, 1), (0.0, str(EPOCH), EPOCH, 0.0, "synchronized"), (0.0, EPOCH, None, 0.0, "unknown")),
            *((0.0, EPOCH, EPOCH, "0", "unknown"), (0.0, EPOCH, EPOCH, math.nan, "unknown"), (*true[:4], b"unknown")),
            *(
                (0.0, math.nan, EPOCH, 0.0, "unknown"),
                (0.0, EPOCH, math.inf, 0.0, "unknown"),
                (*true[:3], -1.0, "unknown"),
            ),
            (0.0, EPOCH + 5, EPOCH + 10, 0.0, "synchronized"),  # five seconds in between, of which none has passed
        ):
            self.stop()
            self.setUp()
            self.clock.advance(0)
            self.link.answer(*told)
            self.assertEqual((self.timekeeper.now().bound, self.noticed), (math.inf, 1), told)
            self.advance(0.25)
            self.assertLess(self.timekeeper.now().bound, 0.001)

    def test_what_is_no_answer_at_all_is_none(self):
        for told in (None, 7, "unknown", {}, [[1.0] * 5]):
            self.clock.advance(EXCHANGE_SECONDS)
            self.link.asked[-1].callback((told, self.clock.seconds()))
        self.assertEqual(self.timekeeper.now().bound, math.inf)

    def test_a_status_that_is_none_is_unknown(self):
        self.clock.advance(0)
        self.link.answer(0.0, EPOCH, EPOCH, 0.0, "splendid")
        self.assertEqual(self.timekeeper.now().status, "unknown")
        self.assertLess(self.timekeeper.now().bound, 0.001)

    def test_after_a_notice_of_a_step_clients_spread(self):
        self.settled()
        for part in (0.0, 0.5, 1.0):
            self.part = part
            self.timekeeper.stepped()
            before = self.clock.seconds()
            self.exchanges.hasten()
            self.advance(1)
            self.assertAlmostEqual(self.link.times[-1] - before, part * HERD_SECONDS, 1)

    def test_a_push_that_proves_a_step_is_followed_by_one_at_once(self):
        self.settled()
        self.timekeeper.pushed(EPOCH + 100.0, self.clock.seconds())
        self.exchanges.hasten()
        self.clock.advance(0)
        self.assertEqual(self.link.times, [self.clock.seconds()])

    def test_a_step_during_an_exchange_is_followed_by_another_one(self):
        self.settled()
        self.clock.advance(EXCHANGE_SECONDS)
        self.timekeeper.stepped()
        self.exchanges.hasten()
        self.link.answer(ahead=EPOCH - 1)
        self.assertEqual(self.timekeeper.now().bound, math.inf)  # it was asked before
        self.advance(HERD_SECONDS)
        self.assertEqual(len(self.link.times), 2)
        self.assertLess(self.timekeeper.now().bound, 0.001)

    def test_hastening_puts_nothing_off(self):
        self.settled()
        self.part = 1.0
        self.timekeeper.stepped()
        self.exchanges.hasten()
        self.advance(0.4)
        self.exchanges.hasten()
        self.advance(0.2)
        self.assertEqual(len(self.link.times), 1)

    def test_hastening_without_need_is_nothing(self):
        self.settled()
        self.timekeeper.pushed(EPOCH + self.clock.seconds(), self.clock.seconds())
        self.exchanges.hasten()
        self.advance(EXCHANGE_SECONDS - 0.1)
        self.assertEqual(self.link.times, [])
