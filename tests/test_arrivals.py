import math

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from clockd.arrivals import EVENTS, Event, Events, Samples
from clockd.errors import Kicked, Overflow
from clockd.values import Reading


def awaited(awaitable):
    async def program():
        return await awaitable

    return Deferred.fromCoroutine(program())


def reading(number):
    return Reading("room", number, float(number), number, float(number), None, math.inf)


class EventsTests(SynchronousTestCase):
    def next(self, events):
        return self.successResultOf(awaited(anext(events))).at

    def put(self, events, *moments):
        for at in moments:
            events.put(Event("step", "the server's clock was set", at))

    def test_events_come_in_their_order(self):
        events = Events()
        self.assertIs(aiter(events), events)
        self.put(events, 1, 2)
        self.assertEqual([self.next(events), self.next(events)], [1, 2])

    def test_a_step_waits_for_the_next(self):
        events = Events()
        step = awaited(anext(events))
        self.assertNoResult(step)
        self.put(events, 1)
        self.assertEqual(self.successResultOf(step).at, 1)

    def test_of_too_many_the_oldest_go(self):
        events = Events()
        self.put(events, *range(EVENTS + 2))
        self.assertEqual([self.next(events) for _ in range(EVENTS)], list(range(2, EVENTS + 2)))
        self.assertNoResult(awaited(anext(events)))

    def test_what_came_before_the_end_is_had_and_then_the_end(self):
        events = Events()
        self.put(events, 1)
        events.end(Kicked("you were sent away"))
        self.assertEqual(self.next(events), 1)
        for _ in range(2):
            self.failureResultOf(awaited(anext(events)), Kicked)

    def test_a_closed_one_ends_at_once(self):
        events = Events()
        self.put(events, 1)
        self.successResultOf(awaited(events.aclose()))
        self.failureResultOf(awaited(anext(events)), StopAsyncIteration)


class OverflowTests(SynchronousTestCase):
    def samples(self, overflow, newest=None):
        self.begun = succeed(None)
        return Samples("room", self.begin, lambda _: None, newest, overflow)

    async def begin(self, _):
        return await self.begun

    def next(self, samples):
        return self.successResultOf(awaited(anext(samples))).value

    def put(self, samples, *numbers):
        for number in numbers:
            samples.put(reading(number))

    def test_the_newest_wins(self):
        samples = self.samples("newest")
        self.put(samples, 1)
        self.assertEqual(self.next(samples), 1)
        self.put(samples, 2, 3, 4)
        self.assertEqual(self.next(samples), 4)

    def test_or_the_program_is_told_and_can_go_on(self):
        samples = self.samples("error")
        self.put(samples, 1)
        self.assertEqual(self.next(samples), 1)
        self.put(samples, 2, 3, 4)
        error = self.failureResultOf(awaited(anext(samples)), Overflow).value
        self.assertTrue(str(error).startswith("2 of the samples of room were replaced by newer ones"), error)
        self.assertEqual(error.replaced, 2)
        self.assertEqual(self.next(samples), 4)
        self.put(samples, 5)
        self.assertEqual(self.next(samples), 5)

    def test_one_that_is_awaited_overflows_nothing(self):
        samples = self.samples("error")
        for number in (1, 2, 3):
            step = awaited(anext(samples))
            self.put(samples, number)
            self.assertEqual(self.successResultOf(step).value, number)

    def test_what_comes_before_the_first_step_has_begun_overflows_nothing(self):
        samples = self.samples("error", newest=reading(1))
        self.put(samples, 2)
        self.begun = Deferred()
        step = awaited(anext(samples))
        self.put(samples, 3)
        self.begun.callback(None)
        self.assertEqual(self.successResultOf(step).value, 3)
